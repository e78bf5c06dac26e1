"""Predicted accuracy: better than simpler predictions, and honest about how far to trust it."""

import numpy as np
import pytest

from nas.searching import accuracy as accuracy_py
from nas.searching.accuracy import AccuracyModel
from nas.searching.additive import AdditiveModel
from search_spaces import Choice, Space, costs, define_space
from tests.nas.fakes import small_space

SPACE = define_space("tiny")


def landscape(space, codes, noise=0.0):
    """Accuracies that grow with the size, with interactions between choices and something of each row's own."""
    rng = np.random.default_rng(5)
    choices = len(space.choices)
    main, pairs = rng.gamma(0.5, 1.0, choices), rng.normal(0, 1, (choices, choices))
    pairs *= 0.3 * np.sqrt(np.outer(main, main))
    x = 2 * codes / np.maximum(space.cardinalities - 1, 1) - 1
    worth = x @ main + np.einsum("ij,jk,ik->i", x, pairs, x) + np.log(costs(space, codes, "params"))
    own = np.random.default_rng(len(codes)).normal(0, noise, len(codes))
    return 0.9 - 0.3 / (1 + np.exp((worth - 12) / 4)) + own


def drawn(n, seed=0, space=SPACE):
    """Different rows in random order."""
    rng = np.random.default_rng(seed)
    return rng.permutation(np.unique(space.sample(rng, 2 * n), axis=0))[:n]


def rmse(predicted, wanted) -> float:
    return float(np.sqrt(((predicted - wanted) ** 2).mean()))


@pytest.mark.parametrize("seed", range(3))
def test_it_beats_a_constant_and_a_ridge_regression(seed):
    codes = drawn(500, seed)
    accuracy = landscape(SPACE, codes, noise=0.002)
    known, new = slice(0, 120), slice(120, 500)
    model = AccuracyModel.fit(SPACE, codes[known], accuracy[known])
    ridge = AdditiveModel.fit(SPACE, codes[known], accuracy[known])
    found = rmse(model.predict(codes[new])[0], accuracy[new])
    # 0.26 to 0.32 of the standard deviation, and 0.46 to 0.61 of the error of the ridge regression.
    assert found < 0.4 * accuracy[new].std()
    assert found < 0.9 * rmse(ridge.predict(codes[new]), accuracy[new])


@pytest.mark.parametrize("name", ["tiny", "mobilenet_v3"])
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_intervals_hold_what_they_say(name, noise):
    space, held = define_space(name), []
    for seed, known in ((0, 60), (1, 60), (2, 60), (3, 150)):
        codes = drawn(known + 300, seed, space)
        accuracy = landscape(space, codes, noise)
        mean, std = AccuracyModel.fit(space, codes[:known], accuracy[:known]).predict(codes[known:])
        held.append(np.mean(np.abs(mean - accuracy[known:]) <= 1.645 * std))
    # Without the noise and the stretch it was 0.5 to 0.85.
    assert 0.8 <= np.mean(held) <= 0.97
    assert min(held) > 0.7


def test_it_is_less_sure_the_farther_it_looks():
    codes = drawn(600)
    near = codes[np.argsort(codes.sum(axis=1))[:60]]
    model = AccuracyModel.fit(SPACE, near, landscape(SPACE, near))
    far = SPACE.encode([SPACE.largest()])
    assert model.predict(far)[1][0] > 2 * model.predict(near)[1].max()


def test_a_row_with_a_larger_error_of_its_own_counts_less():
    codes = drawn(80)
    accuracy = landscape(SPACE, codes)
    wrong = accuracy.copy()
    wrong[7] += 0.05

    def at_seven(accuracy, variance):
        return AccuracyModel.fit(SPACE, codes, accuracy, variance).predict(codes[[7]])[0][0]

    own = np.zeros(80)
    own[7] = 0.05**2
    moved_by_all = at_seven(wrong, np.zeros(80)) - at_seven(accuracy, np.zeros(80))
    moved_by_few = at_seven(wrong, own) - at_seven(accuracy, own)
    assert moved_by_all > 2 * abs(moved_by_few)
    assert np.array_equal(at_seven(accuracy, None), at_seven(accuracy, np.zeros(80)))


@pytest.mark.parametrize("n", [40, 300])
def test_the_order_of_rows_does_not_matter(n):
    codes = drawn(n + 20)
    accuracy, variance = landscape(SPACE, codes[:n], 0.003), np.linspace(0, 1e-4, n)
    order = np.random.default_rng(1).permutation(n)
    one = AccuracyModel.fit(SPACE, codes[:n], accuracy, variance).predict(codes[n:])
    other = AccuracyModel.fit(SPACE, codes[:n][order], accuracy[order], variance[order]).predict(codes[n:])
    np.testing.assert_array_equal(one, other)


def test_a_prediction_does_not_depend_on_the_batch():
    codes = drawn(90)
    model = AccuracyModel.fit(SPACE, codes[:60], landscape(SPACE, codes[:60]))
    together = np.array(model.predict(codes))
    alone = np.array([model.predict(row[None]) for row in codes])[:, :, 0].T
    np.testing.assert_allclose(alone, together, rtol=1e-6)
    assert [each.shape for each in model.predict(codes[:0])] == [(0,), (0,)]


def fitted(space, codes, accuracy):
    mean, std = AccuracyModel.fit(space, codes, np.asarray(accuracy, dtype=float)).predict(codes)
    assert np.isfinite(mean).all()
    assert np.isfinite(std).all()
    assert (std > 0).all()
    return mean


def test_where_all_are_alike_it_says_so():
    codes = drawn(50)
    np.testing.assert_allclose(fitted(SPACE, codes, np.full(50, 0.7)), 0.7)
    # Rounding is no difference between architectures.
    mean, std = AccuracyModel.fit(SPACE, codes, 0.7 + 1e-15 * np.arange(50)).predict(drawn(50, 1))
    np.testing.assert_allclose(mean, 0.7)
    assert (std < 0.01).all()


def test_two_rows_are_enough():
    codes = drawn(2)
    low, high = fitted(SPACE, codes, [0.2, 0.8])
    assert low < high


def test_it_needs_neither_different_sizes_nor_columns():
    one = small_space(resolutions=[8], depths=[1], kernels=[3], widths=[1.0], expands=[1.0])
    assert one.size == 1
    row = one.encode([one.largest()])
    np.testing.assert_allclose(fitted(one, np.concatenate([row, row]), [0.5, 0.7]), 0.6)
    fixed = small_space(resolutions=[8], depths=[1], kernels=[3], widths=[1.0])
    rows = np.unique(fixed.sample(np.random.default_rng(0), 20), axis=0)
    fitted(fixed, rows, np.linspace(0.4, 0.6, len(rows)))


def test_sizes_may_be_equal(monkeypatch):
    space = Space("none", {}, (Choice("a", (0, 1, 2)), Choice("b", (0, 1))))
    monkeypatch.setattr(accuracy_py, "costs", lambda space, codes, metric: np.full(len(codes), 7))
    rows = np.array([[a, b] for a in range(3) for b in range(2)], dtype=np.int16)
    assert np.corrcoef(fitted(space, rows, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), range(6))[0, 1] > 0.9


def test_of_many_rows_it_is_fitted_to_some_the_best_among_them(monkeypatch):
    monkeypatch.setattr(accuracy_py, "MOST_ROWS", 80)
    codes = drawn(400)
    accuracy = landscape(SPACE, codes)
    model = AccuracyModel.fit(SPACE, codes, accuracy)
    assert len(model.sizes) == 80
    best = np.argsort(-accuracy)[:20]
    # They are reproduced, unlike the others.
    off = np.abs(model.predict(codes)[0] - accuracy)
    assert off[best].mean() < 0.5 * off.mean()
