"""Fronts: who is not dominated, what that is worth, and which points to hand over."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.searching.fronts import PICKS, REFERENCE, front, hypervolume, knee

# Few different values, so that ties are common.
POINTS = st.lists(
    st.tuples(st.integers(0, 8).map(lambda i: i / 8), st.integers(1, 9).map(lambda i: i / 2)), max_size=12
)


def arrays(points: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Accuracies and latencies."""
    table = np.array(points, dtype=np.float64).reshape(len(points), 2)
    return table[:, 0], table[:, 1]


def dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] >= other[0] and one[1] <= other[1]


def area(points: list[tuple[float, float]], largest_ms: float) -> float:
    """The hypervolume by cutting the box into the cells that the points' coordinates make."""
    limit = REFERENCE * largest_ms
    inside = [(accuracy, latency_ms) for accuracy, latency_ms in points if latency_ms < limit]
    xs = sorted({latency_ms for _, latency_ms in inside} | {limit})
    total = 0.0
    for left, right in pairwise(xs):
        total += (right - left) * max(accuracy for accuracy, latency_ms in inside if latency_ms <= left)
    return total / limit


@given(POINTS)
def test_the_front_is_what_nothing_dominates(points):
    found = front(*arrays(points))
    wanted = {point for point in points if not any(dominates(other, point) for other in points)}
    assert {points[i] for i in found} == wanted
    assert len(found) == len(wanted), "of equal points one is kept"


@given(POINTS)
def test_the_front_goes_from_fast_to_slow_and_from_worse_to_better(points):
    accuracy, latency_ms = arrays(points)
    found = front(accuracy, latency_ms)
    assert (np.diff(latency_ms[found]) > 0).all()
    assert (np.diff(accuracy[found]) > 0).all()


@given(POINTS, st.floats(1.0, 6.0))
def test_the_hypervolume_is_the_area_under_the_points(points, largest_ms):
    assert hypervolume(*arrays(points), largest_ms) == pytest.approx(area(points, largest_ms))


@given(POINTS, POINTS.filter(bool))
def test_another_point_never_lowers_the_hypervolume(points, more):
    before, after = (hypervolume(*arrays(each), 4.0) for each in (points, points + more[:1]))
    assert after >= before - 1e-12


@given(POINTS)
def test_the_front_alone_is_worth_what_all_points_are(points):
    accuracy, latency_ms = arrays(points)
    kept = front(accuracy, latency_ms)
    assert hypervolume(accuracy[kept], latency_ms[kept], 4.0) == pytest.approx(hypervolume(accuracy, latency_ms, 4.0))


def test_a_perfect_network_that_takes_no_time_is_worth_everything():
    assert hypervolume(*arrays([(1.0, 0.0)]), 3.0) == pytest.approx(1.0)
    assert hypervolume(*arrays([(0.5, 0.0)]), 3.0) == pytest.approx(0.5)
    assert hypervolume(*arrays([(1.0, 3.31)]), 3.0) == 0.0


def test_nothing_has_an_empty_front_worth_nothing():
    assert front(*arrays([])).tolist() == []
    assert hypervolume(*arrays([]), 1.0) == 0.0


@pytest.mark.parametrize("name", PICKS)
def test_a_front_of_one_point_has_one_pick(name):
    assert PICKS[name](*arrays([(0.7, 2.0)])) == 0


def test_the_knee_is_the_point_where_more_accuracy_starts_to_cost_much():
    # Up to (0.9, 2.0) each step gains; from there on it takes 10 times longer.
    assert knee(*arrays([(0.1, 1.0), (0.5, 1.5), (0.9, 2.0), (0.92, 11.0), (0.93, 21.0)])) == 2


def test_the_knee_does_not_depend_on_units():
    points = [(0.1, 1.0), (0.6, 1.5), (0.8, 4.0), (0.9, 9.0)]
    scaled = [(accuracy / 10 + 0.3, 1000 * latency_ms) for accuracy, latency_ms in points]
    assert knee(*arrays(points)) == knee(*arrays(scaled)) == 1


def test_two_points_have_no_knee_so_that_it_is_the_more_accurate_one():
    assert knee(*arrays([(0.2, 1.0), (0.9, 9.0)])) == 1


def test_picks_are_the_ends_and_the_knee():
    points = arrays([(0.1, 1.0), (0.85, 2.0), (0.9, 9.0)])
    assert {name: pick(*points) for name, pick in PICKS.items()} == {"fastest": 0, "knee": 1, "most-accurate": 2}
