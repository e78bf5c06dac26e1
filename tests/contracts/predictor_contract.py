"""What every LatencyPredictor keeps: one suite for all implementations."""

import numpy as np

from latency_tables import LatencyPredictor
from search_spaces import Space


def check_predictor(predictor: LatencyPredictor, space: Space) -> None:
    """Every law that the search relies on, for a predictor fitted over `space`."""
    codes = space.sample(np.random.default_rng(0), 200)
    predicted = predictor.predict(codes)
    check_point(predictor, codes, predicted)
    check_rows_are_independent(predictor, codes, predicted)
    check_masked_choices_do_not_matter(predictor, space, predicted)
    check_intervals(predictor, codes, predicted)
    assert predictor.predict(codes[:0]).shape == (0,)


def check_point(predictor, codes, predicted):
    assert predicted.shape == (len(codes),)
    assert predicted.dtype == np.float64
    assert np.isfinite(predicted).all()
    assert (predicted > 0).all()
    np.testing.assert_array_equal(predictor.predict(codes), predicted)


def check_rows_are_independent(predictor, codes, predicted):
    """A candidate's latency does not depend on the batch that it is asked in."""
    order = np.random.default_rng(1).permutation(len(codes))
    np.testing.assert_array_equal(predictor.predict(codes[order]), predicted[order])
    np.testing.assert_array_equal(predictor.predict(codes[:1]), predicted[:1])


def check_masked_choices_do_not_matter(predictor, space, predicted):
    """Rows that build the same network get the same latency."""
    rng = np.random.default_rng(0)
    raw = np.stack([rng.integers(n, size=200) for n in space.cardinalities], axis=1)
    np.testing.assert_array_equal(predictor.predict(raw), predictor.predict(space.canonical(raw)))


def check_intervals(predictor, codes, predicted):
    """An interval holds the prediction, is positive, and widens with the coverage asked."""
    width = np.zeros(len(codes))
    for coverage in (0.1, 0.5, 0.8, 0.9, 0.99):
        low, high = predictor.interval(codes, coverage)
        assert low.shape == high.shape == predicted.shape
        assert (low > 0).all()
        assert (low <= predicted).all()
        assert (predicted <= high).all()
        assert (high - low >= width).all()
        width = high - low
