"""Constraints: what can be asked for, how far a network is from it, and what a space has of it."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.errors import JobError
from nas.searching.constraints import Constraint, excesses, feasible_sample, parse_constraint, reach
from nas.searching.quantities import QUANTITIES, Target
from nas.searching.units import EXAMPLES, STRICT, UNITS, read_amount
from search_spaces import Codes, costs, define_space
from tests.nas.fakes import FakePredictor, small_space
from tests.search_spaces.spaces import all_codes

SPACE = small_space()
PREDICTOR = FakePredictor(SPACE)
TARGET = Target("one", SPACE, 1, {"latency_ms": PREDICTOR, "energy_mj": FakePredictor(SPACE, seed=1)})
OTHER = replace(TARGET, name="two")
CODES = all_codes(SPACE)


def limits(*texts: str) -> list[Constraint]:
    return [parse_constraint(text) for text in texts]


def sampled(texts: list[str], n: int, target: Target = TARGET, seed: int = 0):
    return feasible_sample(limits(*texts), target, np.random.default_rng(seed), n)


def meets(texts: list[str], codes: Codes, target: Target = TARGET) -> np.ndarray:
    return (excesses(limits(*texts), target, codes) <= 0).all(axis=1)


# Reading


@pytest.mark.parametrize(
    ("text", "quantity", "device", "at_most", "bound"),
    [
        ("latency_ms <= 5", "latency_ms", None, True, 5.0),
        ("latency_ms<=5ms", "latency_ms", None, True, 5.0),
        (" latency_ms @ cpu_t1.b-8 <=  0.25 ", "latency_ms", "cpu_t1.b-8", True, 0.25),
        ("latency_p99_ms@a <= .5 ms", "latency_p99_ms", "a", True, 0.5),
        ("energy_mj <= 20 mJ", "energy_mj", None, True, 20.0),
        ("macs >= 2e7", "macs", None, False, 2e7),
        ("macs <= 2.3M", "macs", None, True, 2.3e6),
        ("macs <= 1.5 GMACs", "macs", None, True, 1.5e9),
        ("params@a<=1_000", "params", "a", True, 1000.0),
        ("params <= 300k", "params", None, True, 3e5),
        ("activation_bytes <= 4096", "activation_bytes", None, True, 4096.0),
        ("model_bytes <= 2MB", "model_bytes", None, True, 2e6),
        ("model_bytes <= 2 M", "model_bytes", None, True, 2e6),
        ("peak_memory_bytes <= 512KiB", "peak_memory_bytes", None, True, 524288.0),
        ("accuracy >= 85%", "accuracy", None, False, 0.85),
        ("accuracy >= 29 %", "accuracy", None, False, 0.29),
        ("accuracy >= 0.85", "accuracy", None, False, 0.85),
        ("accuracy >= 1", "accuracy", None, False, 1.0),
        ("macs < 20M", "macs", None, True, math.nextafter(2e7, 0)),
        ("macs > 20M", "macs", None, False, math.nextafter(2e7, math.inf)),
    ],
)
def test_a_constraint_is_read(text, quantity, device, at_most, bound):
    found = parse_constraint(text)
    assert (found.quantity, found.device, found.at_most, found.bound) == (quantity, device, at_most, bound)
    assert found.probability is None
    assert found.text == " ".join(text.split())


@pytest.mark.parametrize(
    ("text", "device", "bound", "probability"),
    [
        ("latency_ms <= 5 with 90%", None, 5.0, 0.9),
        ("latency_ms@one <= 5ms with 99.5 %", "one", 5.0, 0.995),
        ("latency_ms@one <= 5 @ 50.%", "one", 5.0, 0.5),
        ("energy_mj <= 5mJ@90%", None, 5.0, 0.9),
        ("accuracy >= 85% with 90%", None, 0.85, 0.9),
    ],
)
def test_a_probability_is_read(text, device, bound, probability):
    found = parse_constraint(text)
    assert (found.device, found.bound) == (device, bound)
    assert found.probability == pytest.approx(probability)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("latency_ms == 5", "is not of the form"),
        ("latency_ms = 5", "is not of the form"),
        ("latency_ms =< 5", "is not of the form"),
        ("5 >= latency_ms", "is not of the form"),
        ("latency_ms@ <= 5", "is not of the form"),
        ("latency_ms <=", "is not of the form"),
        ("", "is not of the form"),
        ("latency <= 5", "unknown quantity 'latency'; did you mean 'latency_ms'?"),
        ("latency_us <= 5000", "unknown quantity 'latency_us'; latency_ms is in ms"),
        ("zz <= 5", "unknown quantity 'zz'; known are accuracy, latency_ms, "),
        ("macs <= 5ms", "'ms' is not a unit of macs; write macs <= 20M or 1.5G"),
        ("params <= 5MB", "'MB' is not a unit of params; write params <= 300k or 5M"),
        ("macs <= 20m", "'m' is not a unit of macs"),
        ("latency_ms <= 5000us", "latency_ms is in ms: write latency_ms <= 5"),
        ("latency_p95_ms@cpu_t1 < 0.02 s", "latency_p95_ms is in ms: write latency_p95_ms@cpu_t1 < 20"),
        ("energy_mj <= 0.5J", "energy_mj is in mJ: write energy_mj <= 500"),
        ("accuracy >= 85", "accuracy is a share: write accuracy >= 85% or 0.85"),
        ("accuracy >= 120%", "accuracy is a share: it is at most 100%"),
        ("accuracy >= 850", "accuracy is a share: it is at most 100%"),
        ("macs <= many", "'many' is not a number; write macs <= 20M or 1.5G"),
        ("macs <= nan", "'nan' is not a number"),
        ("macs <= inf", "'inf' is not a number"),
        ("macs <= 0", "the bound must be a positive number"),
        ("macs <= -3", "the bound must be a positive number"),
        ("macs <= 1e999", "the bound must be a positive number"),
        ("latency_ms <= 5 with 90", "'5 with 90' is not a number"),
        ("latency_ms <= 5with 90%", "'5with 90%' is not a number"),
        ("latency_ms <= 5 with 100%", "a probability is from 50% to below 100%, not 100%"),
        ("latency_ms <= 5 with 49.9%", "from 50% to below 100%"),
        ("latency_ms >= 5 with 90%", "only 'latency_ms <= bound' takes a probability"),
        ("accuracy <= 5% with 90%", "only 'accuracy >= bound' takes a probability"),
        ("macs <= 5 with 90%", "macs is known exactly and takes no probability"),
    ],
)
def test_a_constraint_that_cannot_be_read_is_refused(text, said):
    with pytest.raises(JobError) as caught:
        parse_constraint(text)
    assert said in str(caught.value)
    assert repr(text) in str(caught.value)


@st.composite
def texts(draw: st.DrawFn) -> tuple[str, float]:
    """A constraint and its bound, written in any of the ways that are allowed."""
    quantity = QUANTITIES[draw(st.sampled_from(list(QUANTITIES)))]
    symbols = UNITS[quantity.unit]
    symbol = draw(st.sampled_from([s for s in symbols if quantity.unit not in STRICT or s in ("", quantity.unit)]))
    whole = draw(st.integers(1, 100 if symbol == "%" else 1 if quantity.unit == "share" else 10**6))
    device = draw(st.sampled_from(["", "@cpu_t1", " @ b-8.x"]))
    sign = draw(st.sampled_from(["<=", ">="]))
    gap = draw(st.sampled_from(["", " ", "  "]))
    bounded = sign == (">=" if quantity.higher_is_better else "<=")
    ends = ["", " with 90%", "@95.5%", " @ 50 %"] if quantity.cost is None and bounded else [""]
    text = f"{gap}{quantity.name}{device}{gap}{sign}{gap}{whole}{gap}{symbol}{draw(st.sampled_from(ends))}{gap}"
    return text, float(whole * symbols[symbol])


@given(texts())
def test_what_is_printed_is_read_as_the_same(written):
    text, bound = written
    found = parse_constraint(text)
    assert found.bound == bound
    assert parse_constraint(found.text) == found
    plain = f"{found.quantity} {'<=' if found.at_most else '>='} {found.bound!r}"
    assert replace(found, text=plain, device=None, probability=None) == parse_constraint(plain)


@settings(max_examples=60)
@given(st.text(alphabet="latency_msaccuracymacs<>=@%.0159 kMGBiwthJu\n-", max_size=40) | st.text(max_size=20))
def test_whatever_is_written_is_read_or_refused_in_one_line(text):
    said = refusal(text)
    if said is None:
        found = parse_constraint(text)
        assert found.quantity in QUANTITIES
        assert 0 < found.bound < math.inf
    else:
        assert len(said.splitlines()) == 1


def refusal(text: str) -> str | None:
    try:
        parse_constraint(text)
    except JobError as error:
        return str(error)
    return None


def test_every_quantity_can_be_written_as_its_example_says():
    for quantity in QUANTITIES.values():
        for example in EXAMPLES[quantity.unit].replace(" or ", ", ").split(", "):
            assert read_amount(quantity, example) > 0


# How far a network is from a bound


@pytest.mark.parametrize("sign", ["<=", ">="])
def test_an_excess_is_above_zero_exactly_where_the_bound_is_missed(sign):
    macs = costs(SPACE, CODES, "macs")
    bound = int(np.sort(macs)[len(macs) // 2])
    found = parse_constraint(f"macs {sign} {bound}").excess(TARGET, CODES)
    missed = macs > bound if sign == "<=" else macs < bound
    np.testing.assert_array_equal(found > 0, missed)
    np.testing.assert_allclose(np.abs(found), np.abs(macs - bound) / bound)


def test_a_strict_bound_is_missed_by_what_equals_it():
    macs = costs(SPACE, CODES, "macs")
    bound = int(macs[0])
    for sign, missed in (("<", macs >= bound), (">", macs <= bound)):
        np.testing.assert_array_equal(parse_constraint(f"macs {sign} {bound}").excess(TARGET, CODES) > 0, missed)


def test_with_a_probability_the_upper_end_has_to_meet_the_bound():
    found = parse_constraint("latency_ms@one <= 5 with 90%")
    np.testing.assert_allclose(found.excess(TARGET, CODES), (PREDICTOR.upper(CODES, 0.9) - 5) / 5)
    np.testing.assert_array_equal(found.values(TARGET, CODES), PREDICTOR.upper(CODES, 0.9))


def test_accuracy_misses_its_bound_as_far_as_it_is_known():
    limit, sure = limits("accuracy >= 80%", "accuracy >= 80% with 97.7%")
    accuracy, std = np.linspace(0.7, 0.9, len(CODES)), np.full(len(CODES), 0.02)
    for each in (limit, sure):
        assert (each.excess(TARGET, CODES) == 0).all()
        np.testing.assert_allclose(each.excess(TARGET, CODES, accuracy), (0.8 - accuracy) / 0.8)
    np.testing.assert_array_equal(limit.excess(TARGET, CODES, accuracy, std), limit.excess(TARGET, CODES, accuracy))
    # 97.7% of a normal distribution lies above two standard deviations below its mean.
    np.testing.assert_allclose(sure.excess(TARGET, CODES, accuracy, std), (0.84 - accuracy) / 0.8, atol=1e-3)


def test_only_constraints_that_concern_the_device_count():
    some = limits("latency_ms@one <= 2", "latency_ms@two <= 3", "macs <= 1e5", "accuracy >= 50%")
    accuracy = np.full(len(CODES), 0.4)
    found = excesses(some, OTHER, CODES, accuracy)
    assert found.shape == (len(CODES), 3)
    for column, each in zip(found.T, some[1:], strict=True):
        np.testing.assert_array_equal(column, each.excess(OTHER, CODES, accuracy))
    assert excesses(some[:1], OTHER, CODES).shape == (len(CODES), 0)


# Finding what meets them


@pytest.mark.parametrize("texts", [[], ["latency_ms <= 2.5"], ["latency_ms <= 4", "macs >= 1e5"], ["accuracy >= 99%"]])
def test_a_sample_holds_different_canonical_networks_that_meet_all_constraints(texts):
    found = sampled(texts, 12)
    assert len(found.codes) == len(np.unique(found.codes, axis=0)) == 12
    np.testing.assert_array_equal(SPACE.canonical(found.codes), found.codes)
    assert meets(texts, found.codes).all()
    assert meets(texts, found.closest).tolist() == [True]
    assert found.missed == ()


@settings(max_examples=25, deadline=None)
@given(st.floats(1.0, 8.0), st.floats(0.5, 1.0), st.integers(0, 9))
def test_a_tighter_bound_never_gains_networks(bound, factor, seed):
    """And a sample of a small space holds all that meet it."""
    loose, tight = (
        {row.tobytes() for row in sampled([f"latency_ms <= {b!r}"], 1000, seed=seed).codes}
        for b in (bound, factor * bound)
    )
    assert tight <= loose == {row.tobytes() for row in CODES[PREDICTOR.predict(CODES) <= bound]}


@settings(max_examples=25, deadline=None)
@given(st.floats(0.5, 6.0), st.floats(1e3, 1e7), st.integers(0, 9))
def test_where_nothing_meets_the_constraints_the_closest_is_the_closest_there_is(latency, macs, seed):
    texts = [f"latency_ms <= {latency!r}", f"macs >= {macs!r}"]
    found = sampled(texts, 4, seed=seed)
    total = excesses(limits(*texts), TARGET, CODES).clip(min=0).sum(axis=1)
    assert found.closest.shape == CODES[:1].shape
    (closest,) = excesses(limits(*texts), TARGET, found.closest).clip(min=0).sum(axis=1)
    assert closest == total.min()
    assert len(found.codes) == min(4, np.count_nonzero(total == 0))
    had = dict(zip(texts, (PREDICTOR.predict(found.closest)[0], costs(SPACE, found.closest, "macs")[0]), strict=True))
    expected = [(text, had[text]) for text in texts if not meets([text], found.closest)[0]]
    assert list(found.missed) == [(text, pytest.approx(value)) for text, value in expected]
    assert bool(found.missed) == (not len(found.codes))


def test_what_misses_a_bound_with_its_probability_is_told_by_its_upper_end():
    found = sampled(["latency_ms <= 0.5 with 90%"], 8)
    assert len(found.codes) == 0
    assert found.missed == (("latency_ms <= 0.5 with 90%", pytest.approx(PREDICTOR.upper(CODES, 0.9).min())),)


def test_the_same_seed_gives_the_same_sample_and_another_one_another():
    first, again, other = (sampled(["macs <= 2e5"], 8, seed=seed).codes for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_constraint_on_another_device_excludes_nothing():
    assert len(sampled(["latency_ms@two <= 0.001"], 8).codes) == 8


@pytest.fixture(scope="module")
def large() -> Target:
    space = define_space("mobilenet_v3", num_classes=10)
    return Target("one", space, 1, {"latency_ms": FakePredictor(space, seed=1)})


def test_a_tight_bound_is_met_where_random_networks_all_miss_it(large):
    # Nearly the smallest, and yet not it: a corner that chance does not hit.
    smallest = large.space.encode([large.space.smallest()])
    fastest, fewest = (large.values(name, smallest)[0] for name in ("latency_ms", "params"))
    texts = [f"latency_ms <= {fastest + 2}", f"params >= {1.02 * fewest}"]
    assert not meets(texts, large.space.sample(np.random.default_rng(0), 20_000), large).any()
    found = sampled(texts, 300, large)
    assert len(found.codes) == 300
    assert meets(texts, found.codes, large).all()


# What a space has


def test_the_reach_of_a_small_space_is_that_of_all_its_networks():
    texts = ["latency_ms <= 2.5", "latency_ms <= 2.5 with 90%", "macs >= 1e5", "macs@two <= 1", "accuracy >= 80%"]
    found = reach(limits(*texts), TARGET, np.random.default_rng(0), ["accuracy", "energy_mj"])
    assert [(row.text, row.quantity) for row in found] == [
        *((text, text.split()[0]) for text in texts[:3]),
        ("energy_mj", "energy_mj"),
    ]
    values = [PREDICTOR.predict(CODES), PREDICTOR.upper(CODES, 0.9), costs(SPACE, CODES, "macs")]
    for row, all_of_them in zip(found, [*values, TARGET.values("energy_mj", CODES)], strict=True):
        assert (row.low, row.high) == (all_of_them.min(), all_of_them.max())
        assert row.low <= row.median <= row.high
    assert [row.bound for row in found] == [2.5, 2.5, 1e5, None]
    assert found[1].share < found[0].share
    assert found[3].share is None
    drawn = SPACE.sample(np.random.default_rng(1), 20_000)
    for row in found[:3]:
        assert row.share == pytest.approx(meets([row.text], drawn).mean(), abs=0.03)


def test_no_random_network_of_a_large_space_is_beyond_its_reach(large):
    rows = reach([], large, np.random.default_rng(0), ["latency_ms", "peak_memory_bytes"])
    drawn = large.space.sample(np.random.default_rng(1), 20_000)
    for row in rows:
        values = large.values(row.quantity, drawn)
        assert row.low <= values.min() < row.median < values.max() <= row.high
    step_ms = large.predictors["latency_ms"].step_ms
    ends = large.space.encode([large.space.smallest(), large.space.largest()])
    assert (rows[0].low, rows[0].high) == pytest.approx((1.0, 1.0 + ends[1] @ step_ms))


def test_the_reach_goes_beyond_the_ends_of_a_space_where_a_corner_is_cheaper():
    """Kernels cost less the larger they are: neither end of the space is an end of this latency."""
    space = define_space("mobilenet_v3", num_classes=10, depths=[3])
    predictor, kernels = FakePredictor(space), np.array([choice.kind == "kernel" for choice in space.choices])
    predictor.base, predictor.step_ms = 100.0, np.where(kernels, -predictor.step_ms, predictor.step_ms)
    target = Target("one", space, 1, {"latency_ms": predictor})
    (row,) = reach([], target, np.random.default_rng(0), ["latency_ms"])
    corners = np.where([kernels, ~kernels], space.cardinalities - 1, 0)
    assert (row.low, row.high) == pytest.approx(predictor.predict(corners), rel=0.005)
