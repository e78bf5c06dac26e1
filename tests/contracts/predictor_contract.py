"""What every LatencyPredictor keeps: one suite for all implementations."""

import numpy as np

from latency_tables import LatencyPredictor, load_predictor
from search_spaces import Space


def check_predictor(predictor: LatencyPredictor, space: Space) -> None:
    """Every law that the search relies on, for a predictor fitted over `space`."""
    codes = space.sample(np.random.default_rng(0), 200)
    predicted = predictor.predict(codes)
    assert predictor.space == space
    check_point(predictor, codes, predicted)
    check_rows_are_independent(predictor, codes, predicted)
    check_masked_choices_do_not_matter(predictor, space, predicted)
    check_intervals(predictor, codes, predicted)
    check_upper_bounds(predictor, codes, predicted)
    assert predictor.predict(codes[:0]).shape == (0,)
    assert predictor.upper(codes[:0], 0.9).shape == (0,)


def check_point(predictor, codes, predicted):
    assert predicted.shape == (len(codes),)
    assert predicted.dtype == np.float64
    assert np.isfinite(predicted).all()
    assert (predicted > 0).all()
    np.testing.assert_array_equal(predictor.predict(codes), predicted)


def check_rows_are_independent(predictor, codes, predicted):
    """A candidate's latency does not depend, to the last bit, on the batch that it is asked in."""
    order = np.random.default_rng(1).permutation(len(codes))
    np.testing.assert_array_equal(predictor.predict(codes[order]), predicted[order])
    for size in (1, 2, 7, 65):
        np.testing.assert_array_equal(predictor.predict(codes[3 : 3 + size]), predicted[3 : 3 + size])


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


def check_upper_bounds(predictor, codes, predicted):
    """An upper bound is positive and rises with the probability asked; the surest is above the prediction."""
    below = np.zeros(len(codes))
    for probability in (0.01, 0.1, 0.5, 0.9, 0.99):
        bound = predictor.upper(codes, probability)
        assert bound.shape == predicted.shape
        assert (bound > 0).all()
        assert (bound >= below).all()
        below = bound
    assert (below >= predicted).all()


def check_file(predictor: LatencyPredictor, space: Space, folder) -> None:
    """A predictor equals its own file, which is written the same again."""
    predictor.save(folder / "p.json")
    again = load_predictor(folder / "p.json", space=space)
    codes = space.sample(np.random.default_rng(2), 300)
    np.testing.assert_array_equal(again.predict(codes), predictor.predict(codes))
    np.testing.assert_array_equal(again.interval(codes, 0.9), predictor.interval(codes, 0.9))
    np.testing.assert_array_equal(again.upper(codes, 0.9), predictor.upper(codes, 0.9))
    again.save(folder / "q.json")
    assert (folder / "q.json").read_bytes() == (folder / "p.json").read_bytes()
