"""Quantities and targets: what a device tells of architectures, and what is said of names that mean nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_tables.graphs.graph import build_model
from latency_tables.statistic import STATISTICS
from nas.errors import JobError
from nas.searching.quantities import ALIASES, OTHER_UNITS, QUANTITIES, Target, unknown_quantity
from nas.searching.units import UNITS
from search_spaces import arch_cost, costs, network
from tests.nas.fakes import FakePredictor, small_space
from tests.search_spaces.spaces import all_codes

SPACE = small_space()
CODES = all_codes(SPACE)
PREDICTED = [name for name, each in QUANTITIES.items() if each.statistic is not None]
KNOWN = [name for name, each in QUANTITIES.items() if each.cost is not None]


def target(batch: int = 1, **predictors: FakePredictor) -> Target:
    return Target(
        "one", SPACE, batch, predictors or {name: FakePredictor(SPACE, i) for i, name in enumerate(PREDICTED)}
    )


def test_every_quantity_but_accuracy_is_either_predicted_or_known():
    assert ["accuracy", *PREDICTED, *KNOWN] == list(QUANTITIES)
    for name, each in QUANTITIES.items():
        assert each.name == name
        assert each.unit in UNITS
        assert each.text
        assert each.higher_is_better == (name == "accuracy")
        assert (each.statistic in STATISTICS) == (name in PREDICTED)


@pytest.mark.parametrize("name", PREDICTED)
def test_a_quantity_that_was_measured_is_that_of_its_predictor(name):
    found = target()
    predictor = found.predictors[QUANTITIES[name].statistic]
    np.testing.assert_array_equal(found.values(name, CODES), predictor.predict(CODES))
    np.testing.assert_array_equal(found.interval(name, CODES, 0.9), predictor.interval(CODES, 0.9))
    np.testing.assert_array_equal(found.upper(name, CODES, 0.8), predictor.upper(CODES, 0.8))


@pytest.mark.parametrize("name", KNOWN)
def test_a_quantity_that_is_known_has_no_width(name):
    found = target(batch=4, latency_ms=FakePredictor(SPACE))
    values = found.values(name, CODES)
    assert values.shape == (len(CODES),)
    assert values.dtype == np.float64
    assert (values > 0).all()
    for bound in (*found.interval(name, CODES, 0.9), found.upper(name, CODES, 0.99)):
        np.testing.assert_array_equal(bound, values)


def test_memory_grows_with_the_batch_by_activations_alone():
    one, eight = (target(batch).values("peak_memory_bytes", CODES) for batch in (1, 8))
    np.testing.assert_array_equal(eight - one, 7 * costs(SPACE, CODES, "peak_activation_bytes"))
    np.testing.assert_array_equal(
        one - costs(SPACE, CODES, "peak_activation_bytes"), target().values("model_bytes", CODES)
    )
    for name in ("macs", "params", "activation_bytes"):
        np.testing.assert_array_equal(target(8).values(name, CODES), costs(SPACE, CODES, name))


def test_a_model_has_a_few_kilobytes_more_than_its_weights():
    for arch in (SPACE.smallest(), SPACE.largest()):
        size = len(build_model(network(SPACE, arch), batch=None).SerializeToString())
        (told,) = target().values("model_bytes", SPACE.encode([arch]))
        assert told == arch_cost(SPACE, arch).weight_bytes
        assert 0 < size - told < 6000


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "energy_mj",
            "one: energy_mj has no predictor on this device: pip install '.[energy]' on a machine that counts",
        ),
        ("latency_p99_ms", "one: latency_p99_ms has no predictor on this device: profile it anew"),
        ("accuracy", "accuracy is evaluated"),
        ("latency", "did you mean 'latency_ms'?"),
    ],
)
def test_what_a_target_cannot_tell_is_said_with_what_to_do(name, said):
    found = target(latency_ms=FakePredictor(SPACE))
    for ask in (
        lambda: found.values(name, CODES),
        lambda: found.interval(name, CODES, 0.9),
        lambda: found.upper(name, CODES, 0.9),
    ):
        with pytest.raises(JobError) as caught:
            ask()
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)


def test_predictors_of_another_space_make_no_target():
    with pytest.raises(JobError, match="one: the predictor of latency_ms is of space"):
        target(latency_ms=FakePredictor(small_space(resolutions=[8])))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("latency", "did you mean 'latency_ms'?"),
        ("Latency_MS", "did you mean 'latency_ms'?"),
        ("latncy_ms", "did you mean 'latency_ms'?"),
        ("latency_us", "latency_ms is in ms"),
        ("p99_us", "latency_p99_ms is in ms"),
        ("p95", "did you mean 'latency_p95_ms'?"),
        ("energy_j", "energy_mj is in mJ"),
        ("flops", "did you mean 'macs'?"),
        ("memory", "did you mean 'peak_memory_bytes'?"),
        ("memory_mb", "peak_memory_bytes is in bytes"),
        ("size", "did you mean 'model_bytes'?"),
        ("top1", "did you mean 'accuracy'?"),
        ("acc", "did you mean 'accuracy'?"),
        ("zz", f"known are {', '.join(QUANTITIES)}"),
    ],
)
def test_a_name_that_means_nothing_is_answered_with_what_it_may_mean(name, said):
    assert unknown_quantity(name) == f"unknown quantity {name!r}; {said}"


def test_every_alias_leads_to_its_quantity_with_any_unit():
    assert set(ALIASES.values()) == set(QUANTITIES)
    assert not set(ALIASES) & set(QUANTITIES)
    for alias, meant in ALIASES.items():
        assert repr(meant) in unknown_quantity(alias)
        for unit in OTHER_UNITS:
            assert f"{meant} is in" in unknown_quantity(f"{alias}_{unit}")


@given(st.text(min_size=1, max_size=30))
def test_whatever_the_name_the_answer_is_one_line_that_names_a_quantity(name):
    said = unknown_quantity(name)
    assert len(said.splitlines()) == 1
    assert any(quantity in said.removeprefix(f"unknown quantity {name!r}") for quantity in QUANTITIES)
