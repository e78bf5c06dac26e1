"""Bounds from left-out errors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_tables import LatencyError
from latency_tables.predicting.conformal import UNCALIBRATED, Conformal

ONE = np.ones(1)
shares = st.floats(0.01, 0.99)


@pytest.mark.parametrize("n", [20, 33, 60])
@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_scores_of_any_distribution_cover_what_was_asked(n, coverage):
    """Scores and measurements drawn alike, in the mean over many draws."""
    errors = np.random.default_rng(n).standard_t(3, (3000, n + 1)) / 50
    covered = []
    for row in errors:
        low, high = Conformal(np.sort(row[:n])).interval(ONE, coverage)
        covered.append(low[0] <= 1 + row[n] <= high[0])
    assert np.mean(covered) == pytest.approx(coverage, abs=0.02)


@given(st.lists(st.floats(-0.5, 0.5), min_size=1, max_size=40), shares, shares)
def test_surer_bounds_are_wider(scores, one, other):
    conformal = Conformal(np.sort(scores))
    less, more = sorted((one, other))
    assert conformal.upper(ONE, less) <= conformal.upper(ONE, more)
    (low, high), (lower, higher) = conformal.interval(ONE, less), conformal.interval(ONE, more)
    assert lower <= low <= 1 <= high <= higher


def test_the_rank_is_interpolated():
    conformal = Conformal(np.arange(1, 10) / 100)
    assert conformal.upper(ONE, 0.5)[0] == pytest.approx(1.05)
    assert conformal.upper(ONE, 0.55)[0] == pytest.approx(1.055)
    assert conformal.upper(ONE, 0.95)[0] == pytest.approx(1.09)


def test_bounds_grow_with_the_prediction():
    low, high = Conformal(np.array([-0.1, 0.1])).interval(np.array([1.0, 10.0]), 0.5)
    np.testing.assert_allclose(low, [0.9, 9.0])
    np.testing.assert_allclose(high, [1.1, 11.0])


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, float("nan")])
def test_a_share_that_cannot_be_is_refused(share):
    conformal = Conformal(np.zeros(3))
    with pytest.raises(LatencyError, match="coverage must lie between 0 and 1"):
        conformal.interval(ONE, share)
    with pytest.raises(LatencyError, match="probability must lie between 0 and 1"):
        conformal.upper(ONE, share)


def test_without_scores_there_are_no_bounds():
    with pytest.raises(LatencyError, match="not calibrated"):
        UNCALIBRATED.interval(ONE, 0.9)


def test_scores_in_disorder_are_refused():
    with pytest.raises(LatencyError, match="scores: wanted numbers in ascending order"):
        Conformal(np.array([0.2, 0.1]))
