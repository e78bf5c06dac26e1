"""Measures of predictions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from latency_tables import LatencyError, mape, spearman, within
from latency_tables.predicting.nnls import nnls

pairs = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=30)


@given(pairs)
def test_spearman_is_what_scipy_says(rows):
    a, b = np.array(rows, dtype=float).T
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert np.isnan(spearman(a, b))
    else:
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)


def test_errors_are_relative_to_the_measured_value():
    predicted, measured = np.array([110.0, 80.0]), np.array([100.0, 100.0])
    assert mape(predicted, measured) == pytest.approx(0.15)
    assert within(predicted, measured, 0.15) == 0.5
    assert within(measured, measured, 0.0) == 1.0


def test_sizes_that_differ_are_refused():
    with pytest.raises(LatencyError):
        mape(np.ones(2), np.ones(3))
    with pytest.raises(LatencyError):
        within(np.ones(0), np.ones(0), 0.1)


@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 8))
def test_nnls_is_what_scipy_says(seed, rows, columns):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((rows, columns)) * 10.0 ** rng.integers(-3, 4, columns), rng.standard_normal(rows)
    x = nnls(a.T @ a, a.T @ b)
    _, best = optimize.nnls(a, b)
    assert (x >= 0).all()
    assert np.linalg.norm(a @ x - b) == pytest.approx(best, rel=1e-6, abs=1e-6)


def test_nnls_gives_a_column_of_zeros_no_coefficient():
    a = np.array([[1.0, 0.0], [2.0, 0.0]])
    np.testing.assert_allclose(nnls(a.T @ a, a.T @ np.array([2.0, 4.0])), [2.0, 0.0])
