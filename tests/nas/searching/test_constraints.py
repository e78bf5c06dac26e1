"""Constraints: what can be asked for, how far a network is from it, and what is said when nothing can meet it."""

import re

import numpy as np
import pytest

from nas.errors import Infeasible, JobError
from nas.searching.constraints import COSTS, METRICS, constraint_values, feasible_sample, parse_constraint, violations
from search_spaces import costs, define_space
from tests.nas.fakes import FakePredictor, small_space
from tests.search_spaces.spaces import all_codes

SPACE = small_space()
PREDICTOR = FakePredictor(SPACE)
CODES = all_codes(SPACE)


def sampled(constraints: list[str], n: int, device: str = "one", space=SPACE, predictor=PREDICTOR, seed: int = 0):
    limits = [parse_constraint(text) for text in constraints]
    return feasible_sample(limits, device, space, predictor, np.random.default_rng(seed), n)


@pytest.mark.parametrize(
    ("text", "metric", "device", "at_most", "bound"),
    [
        ("latency_ms <= 5", "latency_ms", None, True, 5.0),
        ("latency_ms<=5", "latency_ms", None, True, 5.0),
        (" latency_ms @ cpu_t1.b-8 <=  0.25 ", "latency_ms", "cpu_t1.b-8", True, 0.25),
        ("macs >= 2e7", "macs", None, False, 2e7),
        ("params@a<=1_000", "params", "a", True, 1000.0),
        ("activation_bytes <= 4096", "activation_bytes", None, True, 4096.0),
    ],
)
def test_a_constraint_is_read(text, metric, device, at_most, bound):
    found = parse_constraint(text)
    assert (found.metric, found.device, found.at_most, found.bound) == (metric, device, at_most, bound)
    assert found.text == " ".join(text.split())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("latency_ms < 5", "is not of the form"),
        ("latency_ms == 5", "is not of the form"),
        ("5 >= latency_ms", "is not of the form"),
        ("latency_ms@ <= 5", "is not of the form"),
        ("", "is not of the form"),
        ("latency <= 5", "unknown metric 'latency'; did you mean 'latency_ms'?"),
        ("zz <= 5", "unknown metric 'zz'; known are latency_ms, macs, params, activation_bytes"),
        ("macs <= 5ms", "'5ms' is not a number"),
        ("macs <= 0", "the bound must be a positive number"),
        ("macs <= -3", "the bound must be a positive number"),
        ("macs <= nan", "the bound must be a positive number"),
        ("macs <= inf", "the bound must be a positive number"),
        ("latency_ms <= 5 with 90", "is not of the form"),
        ("latency_ms <= 5with 90%", "is not of the form"),
        ("latency_ms <= 5 with 100%", "from 50% to below 100%"),
        ("latency_ms <= 5 with 49.9%", "from 50% to below 100%"),
        ("latency_ms >= 5 with 90%", "only 'latency_ms <= bound' takes a probability"),
        ("macs <= 5 with 90%", "only 'latency_ms <= bound' takes a probability"),
    ],
)
def test_a_constraint_that_cannot_be_read_is_refused(text, said):
    with pytest.raises(JobError) as caught:
        parse_constraint(text)
    assert said in str(caught.value)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(("percent", "probability"), [("90%", 0.9), ("99.5 %", 0.995), ("50.%", 0.5)])
def test_a_probability_is_read_and_asks_for_the_upper_bound_of_the_latency(percent, probability):
    constraint = parse_constraint(f"latency_ms@one <= 5 with {percent}")
    assert (constraint.metric, constraint.device, constraint.bound) == ("latency_ms", "one", 5.0)
    assert constraint.probability == pytest.approx(probability)
    expected = (PREDICTOR.upper(CODES, probability) - 5) / 5
    np.testing.assert_allclose(constraint.violation(SPACE, PREDICTOR, CODES), expected)


def test_a_sample_meets_a_bound_with_its_probability_and_the_closest_upper_value_is_named_where_nothing_can():
    upper = np.sort(PREDICTOR.upper(CODES, 0.9))
    met = sampled([f"latency_ms <= {upper[5]:.6f} with 90%"], 80)
    assert 1 <= len(met) <= 6
    assert (PREDICTOR.upper(met, 0.9) <= upper[5] + 1e-6).all()
    assert len(sampled([f"latency_ms <= {upper[5]:.6f}"], 80)) > len(met)
    with pytest.raises(Infeasible, match=f"latency_ms {upper[0]:.4g}"):
        sampled([f"latency_ms <= {upper[0] * 0.999:.6f} with 90%"], 80)


def test_every_metric_is_that_of_the_predictor_or_the_cost():
    assert list(METRICS) == ["latency_ms", *COSTS]
    np.testing.assert_array_equal(METRICS["latency_ms"](SPACE, PREDICTOR, CODES), PREDICTOR.predict(CODES))
    for name in COSTS:
        np.testing.assert_array_equal(METRICS[name](SPACE, PREDICTOR, CODES), costs(SPACE, CODES, name))


@pytest.mark.parametrize("sign", ["<=", ">="])
def test_a_violation_is_above_zero_exactly_where_the_bound_is_missed(sign):
    macs = costs(SPACE, CODES, "macs")
    bound = int(np.sort(macs)[len(macs) // 2])
    found = parse_constraint(f"macs {sign} {bound}").violation(SPACE, PREDICTOR, CODES)
    missed = macs > bound if sign == "<=" else macs < bound
    np.testing.assert_array_equal(found > 0, missed)
    np.testing.assert_allclose(np.abs(found), np.abs(macs - bound) / bound)


def test_only_constraints_that_concern_the_device_count():
    limits = [parse_constraint(text) for text in ("latency_ms@one <= 2", "latency_ms@two <= 3", "macs <= 1e5")]
    found = violations(limits, "two", SPACE, PREDICTOR, CODES)
    assert found.shape == (len(CODES), 2)
    np.testing.assert_array_equal(found[:, 0], limits[1].violation(SPACE, PREDICTOR, CODES))
    assert violations(limits[:1], "two", SPACE, PREDICTOR, CODES).shape == (len(CODES), 0)
    assert constraint_values(found[0], limits[1:]) == {"latency_ms@two <= 3": found[0, 0], "macs <= 1e5": found[0, 1]}


@pytest.mark.parametrize("constraints", [[], ["latency_ms <= 2.5"], ["latency_ms <= 4", "macs >= 1e5"]])
def test_a_sample_holds_different_canonical_networks_that_meet_all_constraints(constraints):
    rows = sampled(constraints, 12)
    assert len(rows) == len(np.unique(rows, axis=0)) == 12
    np.testing.assert_array_equal(SPACE.canonical(rows), rows)
    limits = [parse_constraint(text) for text in constraints]
    assert (violations(limits, "one", SPACE, PREDICTOR, rows) <= 0).all()


def test_a_sample_of_a_small_space_holds_all_that_meets_the_constraint():
    meets = CODES[PREDICTOR.predict(CODES) <= 2.0]
    assert 1 < len(meets) < 40
    np.testing.assert_array_equal(np.unique(sampled(["latency_ms <= 2"], 1000), axis=0), np.unique(meets, axis=0))


def test_the_same_seed_gives_the_same_sample_and_another_one_another():
    np.testing.assert_array_equal(sampled(["macs <= 2e5"], 8, seed=3), sampled(["macs <= 2e5"], 8, seed=3))
    assert not np.array_equal(sampled(["macs <= 2e5"], 8, seed=3), sampled(["macs <= 2e5"], 8, seed=4))


def test_a_tight_bound_is_met_where_random_networks_all_miss_it():
    space = define_space("mobilenet_v3", num_classes=10)
    predictor = FakePredictor(space, seed=1)
    # Nearly the smallest, and yet not it: a corner that chance does not hit.
    smallest = space.encode([space.smallest()])
    fastest, fewest = float(predictor.predict(smallest)[0]), int(costs(space, smallest, "params")[0])
    constraints = [f"latency_ms <= {fastest + 2}", f"params >= {1.02 * fewest}"]
    limits = [parse_constraint(text) for text in constraints]
    drawn = space.sample(np.random.default_rng(0), 20_000)
    assert not (violations(limits, "one", space, predictor, drawn) <= 0).all(axis=1).any()
    rows = sampled(constraints, 8, space=space, predictor=predictor)
    assert len(rows) == 8
    assert (violations(limits, "one", space, predictor, rows) <= 0).all()


@pytest.mark.parametrize(
    ("metric", "sign", "factor"), [("latency_ms", "<=", 0.5), ("macs", "<=", 0.9), ("params", ">=", 1.1)]
)
def test_what_nothing_can_meet_is_refused_with_the_closest_value_there_is(metric, sign, factor):
    values = METRICS[metric](SPACE, PREDICTOR, CODES)
    closest = values.min() if sign == "<=" else values.max()
    text = f"{metric}@one {sign} {factor * closest}"
    with pytest.raises(Infeasible) as caught:
        sampled([text], 8)
    message = str(caught.value)
    assert f"no architecture meets {text!r} on one;" in message
    found = re.search(rf"the closest found has {metric} (\S+) \(architecture (\w+)\)", message)
    assert float(found[1]) == pytest.approx(closest, rel=1e-3)
    best = {arch.id for arch, value in zip(SPACE.decode(CODES), values, strict=True) if value == closest}
    assert found[2] in best


def test_constraints_that_exclude_each_other_are_refused_together():
    macs = costs(SPACE, CODES, "macs")
    with pytest.raises(Infeasible, match="together with the others"):
        sampled([f"macs <= {macs.min() * 1.1}", f"macs >= {macs.max() * 0.9}"], 8)


def test_a_constraint_on_another_device_excludes_nothing():
    assert len(sampled(["latency_ms@two <= 0.001"], 8, device="one")) == 8
