"""Expected gain in hypervolume: what a simulation says, and what has to hold whatever the front."""

import math

import moocore
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.searching.gain import expected_excess, expected_gain, normal_cdf

DIMENSIONS = pytest.mark.parametrize("d", [0, 1, 2, 3])


def volume(costs, accuracy) -> float:
    points = np.concatenate([1 - np.reshape(accuracy, (-1, 1)), costs], axis=1)
    inside = points[(points < 1).all(axis=1)]
    return moocore.hypervolume(inside, ref=np.ones(points.shape[1])) if len(inside) else 0.0


def added(row, accuracy, front, known, floor=0.0) -> float:
    """What a candidate of this accuracy adds to the hypervolume of a front, by its definition."""
    if accuracy < floor:
        return 0.0
    return volume(np.concatenate([front, [row]]), np.append(known, accuracy)) - volume(front, known)


def made_up(d, seed=0, n=6, k=7, floor=0.0):
    """Candidates and members, some of them beyond the box: costs, accuracies."""
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 1.2, (n, d)), rng.uniform(floor, 1, n), rng.uniform(0, 1.2, (k, d)), rng.uniform(floor, 1, k)


@DIMENSIONS
@pytest.mark.parametrize("floor", [0.0, 0.6])
def test_the_gain_is_the_mean_over_what_the_accuracy_may_be(d, floor):
    others, mean, front, known = made_up(d, floor=floor)
    std = np.linspace(0.02, 0.1, len(mean))
    mean = mean * 0.7  # so that accuracies below 0 or above 1 are rare
    # Quantiles in place of draws: the mean over 400 of them is off by less than 1e-3 of the standard deviation.
    quantiles = np.sqrt(2) * np.array([_inverse_erf((2 * i + 1) / 400 - 1) for i in range(400)])
    found = expected_gain(others, mean, std, front, known, floor)
    for i, row in enumerate(others):
        wanted = np.mean([added(row, mean[i] + std[i] * z, front, known, floor) for z in quantiles])
        assert found[i] == pytest.approx(wanted, abs=2e-3 * floor + 2e-4)


def _inverse_erf(y) -> float:
    low, high = -6.0, 6.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if math.erf(middle) < y else (low, middle)
    return low


@given(st.integers(0, 3), st.integers(0, 5), st.sampled_from([0.0, 0.5]), st.integers(0, 10**6))
def test_of_a_sure_accuracy_the_gain_is_exact(d, k, floor, seed):
    others, mean, front, known = made_up(d, seed, n=3, k=k, floor=floor)
    mean[0] -= 0.4  # some fall below the floor
    found = expected_gain(others, mean, np.zeros(3), front, known, floor)
    wanted = [added(row, accuracy, front, known, floor) for row, accuracy in zip(others, mean, strict=True)]
    np.testing.assert_allclose(found, np.maximum(wanted, 0), atol=1e-9)


@DIMENSIONS
def test_a_member_adds_nothing_to_its_own_front(d):
    _, _, front, known = made_up(d)
    np.testing.assert_allclose(expected_gain(front, known, np.zeros(len(known)), front, known), 0, atol=1e-11)


@given(st.integers(0, 3), st.floats(0, 0.3), st.integers(0, 10**6))
def test_no_gain_is_negative_and_a_larger_front_leaves_less(d, std, seed):
    others, mean, front, known = made_up(d, seed)
    spread = np.full(len(mean), std)
    gains = [expected_gain(others, mean, spread, front[:k], known[:k]) for k in range(len(known) + 1)]
    assert (np.array(gains) >= 0).all()
    assert (np.diff(gains, axis=0) <= 1e-12).all()


@DIMENSIONS
def test_neither_order_nor_duplicates_nor_dominated_members_matter(d):
    others, mean, front, known = made_up(d)
    std = np.full(len(mean), 0.05)
    wanted = expected_gain(others, mean, std, front, known)
    worse = (np.concatenate([front, front[::-1], front + 0.1]), np.concatenate([known, known[::-1], known - 0.1]))
    np.testing.assert_allclose(expected_gain(others, mean, std, *worse), wanted, atol=1e-12)


@DIMENSIONS
def test_what_lies_below_the_floor_does_not_count(d):
    others, mean, front, known = made_up(d, floor=0.5)
    std = np.full(len(mean), 0.03)
    wanted = expected_gain(others, mean, std, front, known, 0.5)
    front, known = np.concatenate([front, np.zeros((1, d))]), np.append(known, 0.49)
    np.testing.assert_array_equal(expected_gain(others, mean, std, front, known, 0.5), wanted)
    assert (expected_gain(others, np.full(len(mean), 0.2), np.zeros(len(mean)), front, known, 0.5) == 0).all()


def test_the_worth_of_a_candidate_that_is_hardly_possible_still_counts():
    # Where all are unlikely to gain, one is still the least so; an approximate distribution function made these 0.
    gains = expected_gain(
        np.zeros((20, 0)), np.linspace(0.1, 0.5, 20), np.full(20, 0.02), np.zeros((1, 0)), np.array([0.8])
    )
    assert (gains > 0).all()
    assert (np.diff(gains) > 0).all()


def test_the_normal_distribution_function():
    z = np.linspace(-9, 9, 200)
    np.testing.assert_allclose(normal_cdf(z), [0.5 * math.erfc(-x / math.sqrt(2)) for x in z], rtol=1e-12)
    assert expected_excess(np.array(0.0), np.array(1.0), np.array(0.0)) == pytest.approx(1 / math.sqrt(2 * math.pi))
    assert expected_excess(np.array(3.0), np.array(0.0), np.array(1.0)) == pytest.approx(2.0)
