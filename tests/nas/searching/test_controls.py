"""What a search is compared with."""

import numpy as np
import pytest

from nas.searching.constraints import parse_constraint
from nas.searching.controls import POINTS, average, curve, random_rows, spread, uniform_rows
from nas.searching.problem import Problem
from nas.searching.quantities import Target
from search_spaces import Choice, Space, costs, define_space
from tests.nas.fakes import FakePredictor, small_space
from tests.search_spaces.spaces import all_codes, families

SPACE = define_space("tiny", in_channels=1)


def problem_of(space=SPACE, names="a", limits=(), **changes) -> Problem:
    targets = tuple(Target(name, space, 1, {"latency_ms": FakePredictor(space, seed=ord(name))}) for name in names)
    return Problem(space, targets, limits=tuple(map(parse_constraint, limits)), **changes)


def test_random_rows_meet_the_limits_are_different_and_as_many_as_asked():
    macs = costs(SPACE, SPACE.sample(np.random.default_rng(0), 500), "macs")
    low, high = np.quantile(macs, [0.05, 0.9])
    problem = problem_of(names="ab", limits=(f"macs@a <= {low}", f"macs@b >= {high}"))
    rows = random_rows(problem, 60, seed=0)
    assert len(np.unique(rows, axis=0)) == len(rows) == 60
    np.testing.assert_array_equal(SPACE.canonical(rows), rows)
    found = costs(SPACE, rows, "macs")
    assert ((found <= low) | (found >= high)).all()
    assert (found <= low).sum() == (found >= high).sum() == 30
    np.testing.assert_array_equal(random_rows(problem, 60, seed=0), rows)
    assert not np.array_equal(random_rows(problem, 60, seed=1), rows)


def test_random_rows_are_no_more_than_there_are():
    small = small_space()
    np.testing.assert_array_equal(np.unique(random_rows(problem_of(small), 1000, 0), axis=0), all_codes(small))
    assert len(random_rows(problem_of(small, "ab", ("macs <= 1",)), 10, 0)) == 0
    assert len(random_rows(problem_of(small), 0, 0)) == 0


@pytest.mark.parametrize("name", families())
def test_uniform_rows_scale_the_whole_network_at_once(name):
    space = families()[name]
    rows = uniform_rows(space)
    np.testing.assert_array_equal(space.canonical(rows), rows)
    assert len(np.unique(rows, axis=0)) == len(rows) > 2
    assert {tuple(row) for row in space.encode([space.largest()]).tolist()} < {tuple(row) for row in rows.tolist()}
    active = space.active(rows)
    kinds = np.array([choice.kind for choice in space.choices])
    for kind in np.unique(kinds):
        several = (kinds == kind) & (space.cardinalities > 1)
        if not several.any():
            continue
        # One value of each kind in a network, as far as its choices have it; those that do not scale are at their last.
        most = int(space.cardinalities[several].max()) - 1
        steps = {step if kind in ("width", "depth", "expand") else most for step in range(most + 1)}
        for row, on in zip(rows, active & several, strict=True):
            assert any((row[on] == np.minimum(step, space.cardinalities[on] - 1)).all() for step in steps)
        if kind in ("width", "depth", "expand"):
            assert (rows[:, several] == 0).all(axis=1).any()
            assert (rows[:, several] == space.cardinalities[several] - 1)[active[:, several]].any()


def test_a_space_that_does_not_scale_has_its_largest_network():
    space = Space("none", {}, (Choice("kernel", (1, 3)), Choice("width", (1,))))
    assert uniform_rows(space).tolist() == [[1, 0]]


def test_a_curve_grows_and_ends_with_everything():
    problem = problem_of(names="ab")
    rng = np.random.default_rng(0)
    codes = np.unique(SPACE.sample(rng, 90), axis=0)[:80]
    accuracy = rng.random(80)
    found = curve(problem, codes, accuracy)
    counts = [n for n, _ in found]
    assert len(counts) == POINTS
    assert (counts[0], counts[-1]) == (1, 80)
    assert counts == sorted(set(counts))
    for target in problem.targets:
        volumes = [by[target.name] for _, by in found]
        assert (np.diff(volumes) >= 0).all()
        assert volumes[-1] == problem.hypervolume(target, codes, accuracy)
    assert [n for n, _ in curve(problem, codes[:3], accuracy[:3])] == [1, 2, 3]
    assert curve(problem, codes[:0], accuracy[:0]) == []


def row(**values) -> list[int]:
    """The largest network but for these codes."""
    codes = SPACE.cardinalities - 1
    for name, code in values.items():
        codes[SPACE.columns[name]] = code
    return codes.tolist()


def test_the_average_architecture_by_hand():
    problem = problem_of(objectives=("accuracy", "macs"), limits=("accuracy >= 0.3",))
    (target,) = problem.targets
    rows = SPACE.canonical(np.array([row(), row(resolution=0), row(resolution=1)]))
    large, small, middle = costs(SPACE, rows, "macs")
    random = (rows, np.array([0.8, 0.4, 0.1]))  # the last one misses the limit
    front = (rows[[1, 2, 0]], np.array([0.5, 0.7, 0.9]))
    found = average(problem, target, random, front)
    assert found.accuracy == pytest.approx(0.6)
    assert found.cost == pytest.approx((large + small) / 2)
    cheap = [0.5, 0.7] if middle <= found.cost else [0.5]
    assert found.accuracy_gain == pytest.approx(max(cheap) - 0.6)
    assert found.cost_ratio == pytest.approx(found.cost / middle)


def test_an_average_that_the_front_does_not_reach():
    problem = problem_of(objectives=("accuracy", "macs"))
    (target,) = problem.targets
    rows = SPACE.canonical(np.array([row(), row(resolution=0)]))
    found = average(problem, target, (rows[[1]], np.array([0.9])), (rows[[0]], np.array([0.5])))
    assert (found.accuracy_gain, found.cost_ratio) == (None, None)
    empty = (rows[:0], np.zeros(0))
    assert average(problem, target, empty, (rows, np.ones(2))) is None
    assert average(problem, target, (rows, np.ones(2)), empty).accuracy_gain is None
    without = problem_of(objectives=("accuracy",))
    assert average(without, without.targets[0], (rows, np.ones(2)), (rows, np.ones(2))) is None


def test_the_spread_over_seeds():
    assert spread([0.5]) == {"mean": 0.5, "std": None, "seeds": 1}
    found = spread([0.4, 0.6, 0.8])
    assert (found["mean"], found["std"], found["seeds"]) == (pytest.approx(0.6), pytest.approx(0.2), 3)
