"""The summary of raw samples."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from latency_tables import LatencyError, Measurement
from latency_tables.measuring.measurement import Round, median_precision
from tests.latency_tables.fakes import measurement

times = st.floats(1e-3, 1e9)
rounds = st.lists(st.lists(times, min_size=1, max_size=5), min_size=1, max_size=6)


@given(rounds)
def test_a_measurement_equals_its_own_json(samples):
    one = measurement("a", samples_us=samples)
    assert Measurement.from_json(json.loads(json.dumps(one.to_json()))) == one


@given(rounds)
def test_the_summary_is_that_of_all_samples(samples):
    one = measurement("a", samples_us=samples)
    flat = np.concatenate(samples)
    assert one.runs == len(flat)
    assert one.median_us == np.median(flat)
    assert one.mean_us == pytest.approx(flat.mean())
    assert one.stdev_us == pytest.approx(flat.std())
    assert one.min_us == flat.min()
    assert one.min_us <= one.median_us <= one.p90_us <= one.p95_us <= one.p99_us <= flat.max()


def test_the_noise_floor_compares_even_and_odd_rounds():
    assert measurement("a", samples_us=((100.0,), (110.0,)) * 2).noise_floor == pytest.approx(10 / 105)
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


def test_rounds_that_do_not_count_are_kept_but_not_summarised():
    one = measurement(
        "a",
        samples_us=[(100.0, 101.0), (900.0,), (102.0,)],
        reasons=("", "canary", ""),
        counts=(True, False, True),
    )
    assert (one.median_us, one.runs, one.rejected, one.disturbed) == (101.0, 3, {"canary": 1}, False)
    assert replace(one, counts=(True, True, True)).disturbed


def test_drift_is_divided_out_by_the_canary():
    drifting = tuple(Round((100.0 * slow,), 50.0 * slow, 1.0) for slow in (1.0, 1.05, 1.02, 1.08))
    one = replace(measurement("a", samples_us=[(1.0,)] * 4), rounds=drifting, reference_us=50.0)
    assert one.corrected_us() == pytest.approx(100.0)
    assert one.corrected_us(60.0) == pytest.approx(120.0)
    assert one.median_us == pytest.approx(103.5)


def test_a_summary_is_plain_json_with_a_unit():
    summary = json.loads(json.dumps(measurement("a", rounds=1).summary(), allow_nan=False))
    assert (summary["unit"], summary["count"], summary["p50"], summary["noise_floor"]) == ("us", 3, 100.0, None)


@given(rounds, st.data())
def test_rounds_written_in_two_parts_come_back_as_one(samples, data):
    one = measurement("a", samples_us=samples)
    start = data.draw(st.integers(0, len(samples)))
    document = json.loads(json.dumps(one.since(start)))
    assert Measurement.from_json(document, one.rounds[:start]) == one


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_times_that_cannot_be_are_refused(bad):
    with pytest.raises(LatencyError, match="a time must be a positive number"):
        Round((1.0, bad), 1.0, 1.0)
    with pytest.raises(LatencyError, match="a time must be a positive number"):
        Round((1.0,), bad, 1.0)
    with pytest.raises(LatencyError, match="measurement a: reference_us must be positive"):
        measurement("a", reference_us=bad)


def test_rounds_without_samples_and_shares_that_cannot_be_are_refused():
    with pytest.raises(LatencyError, match="needs a sample"):
        Round((), 1.0, 1.0)
    with pytest.raises(LatencyError, match="cpu_share"):
        Round((1.0,), 1.0, -1.0)
    with pytest.raises(LatencyError, match="steal"):
        Round((1.0,), 1.0, 1.0, steal=math.nan)


@pytest.mark.parametrize(
    "wrong",
    [{"rounds": ()}, {"reasons": ()}, {"counts": (False,)}, {"counts": (True, True)}, {"ended": "never"}],
    ids=str,
)
def test_a_measurement_that_contradicts_itself_is_refused(wrong):
    with pytest.raises(LatencyError, match="measurement a"):
        replace(measurement("a", samples_us=[(1.0,)]), **wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ended": 1},
        {"spinning": 1},
        {"reasons": "x"},
        {"reasons": [1]},
        {"counts": [True]},
        {"rounds": 3},
        {"rounds": {"colour": [1]}},
        {"rounds": {"samples_us": [["1"]], "canary_us": [1], "cpu_share": [1]}},
        {"rounds": {"samples_us": [[1]], "canary_us": [True], "cpu_share": [1]}},
        {"rounds": {"samples_us": [[1]], "canary_us": [1, 2], "cpu_share": [1]}},
        {"rounds": {"samples_us": [[1]]}},
        {"footprint": {}},
        {"energy": {"joules": 1}},
        {"x": 1},
    ],
    ids=str,
)
def test_a_document_of_wrong_types_is_refused(wrong):
    with pytest.raises(LatencyError, match="measurement"):
        Measurement.from_json({**measurement("a", rounds=1).to_json(), **wrong})
    with pytest.raises(LatencyError, match="with the fields"):
        Measurement.from_json([])
