"""The summary of raw samples."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from latency_tables import LatencyError, Measurement
from latency_tables.measurement import median_precision
from tests.latency_tables.fakes import measurement

times = st.floats(1e-3, 1e9)
rounds = st.lists(st.lists(times, min_size=1, max_size=5), min_size=1, max_size=6)


@given(rounds)
def test_a_measurement_equals_its_own_json(samples):
    one = measurement("a", rounds=len(samples), rounds_us=tuple(map(tuple, samples)))
    assert Measurement.from_json(json.loads(json.dumps(one.to_json()))) == one


@given(rounds)
def test_the_summary_is_that_of_all_samples(samples):
    one = measurement("a", rounds=len(samples), rounds_us=tuple(map(tuple, samples)))
    flat = np.concatenate(samples)
    assert one.runs == len(flat)
    assert one.median_us == np.median(flat)
    assert one.mean_us == pytest.approx(flat.mean())
    assert one.stdev_us == pytest.approx(flat.std())
    assert one.min_us == flat.min()
    assert one.min_us <= one.median_us <= one.p90_us <= one.p95_us <= one.p99_us <= flat.max()


def test_the_noise_floor_compares_even_and_odd_rounds():
    assert measurement("a", rounds=4, rounds_us=((100.0,), (110.0,)) * 2).noise_floor == pytest.approx(10 / 105)
    assert measurement("a", 100.0, rounds=8).noise_floor == 0
    assert measurement("a", 100.0, rounds=1).noise_floor == math.inf


@pytest.mark.parametrize("n", [6, 9, 20, 40, 300, 2000])
def test_the_interval_of_the_median_covers_95_percent_and_hardly_more(n):
    ordered = [float(value) for value in range(1, n + 1)]
    half_width = median_precision(ordered) * np.median(ordered)
    dropped = (n - 1 - 2 * half_width) / 2
    assert dropped == pytest.approx(round(dropped), abs=1e-6)
    assert 2 * stats.binom.cdf(round(dropped), n, 0.5) <= 0.05 < 2 * stats.binom.cdf(round(dropped) + 1, n, 0.5)


def test_few_rounds_take_their_whole_range():
    assert median_precision([1.0]) == math.inf
    assert median_precision([90.0, 110.0]) == pytest.approx(0.1)
    assert median_precision([90.0, 100.0, 100.0, 100.0, 110.0]) == pytest.approx(0.1)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("field", ["rounds_us", "canary_us", "reference_us"])
def test_times_that_cannot_be_are_refused(field, bad):
    wrong = {"rounds_us": ((1.0, bad),), "canary_us": (bad,), "reference_us": bad}[field]
    with pytest.raises(LatencyError, match="measurement a: a time must be a positive number"):
        measurement("a", rounds=1, **{field: wrong})


@pytest.mark.parametrize(
    "wrong",
    [{"rounds_us": ()}, {"rounds_us": ((),)}, {"canary_us": ()}, {"cpu_shares": (1.0, 1.0)}, {"cpu_shares": (-1.0,)}],
)
def test_rounds_without_their_samples_or_conditions_are_refused(wrong):
    with pytest.raises(LatencyError, match="measurement a"):
        measurement("a", rounds=1, **wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"converged": 1},
        {"rejected_rounds": "0"},
        {"rounds_us": 3},
        {"rounds_us": [["1"]]},
        {"canary_us": [True]},
        {"x": 1},
    ],
    ids=str,
)
def test_a_document_of_wrong_types_is_refused(wrong):
    with pytest.raises(LatencyError, match="measurement"):
        Measurement.from_json({**measurement("a", rounds=1).to_json(), **wrong})
    with pytest.raises(LatencyError, match="with the fields"):
        Measurement.from_json([])
