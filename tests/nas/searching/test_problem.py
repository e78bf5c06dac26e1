"""What is searched for: scaled objectives, limits, fronts and their worth, against brute force."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.study import StudyDirection

from nas.errors import JobError
from nas.searching.constraints import parse_constraint
from nas.searching.problem import Problem
from nas.searching.quantities import Target
from search_spaces import costs
from tests.nas.fakes import FakePredictor, small_space
from tests.search_spaces.spaces import all_codes

SPACE = small_space()
EVERYTHING = all_codes(SPACE)
OBJECTIVES = st.lists(
    st.sampled_from(["accuracy", "latency_ms", "macs", "params", "model_bytes"]), min_size=1, max_size=4, unique=True
)


def problem_of(names="a", limits=(), **changes) -> Problem:
    targets = tuple(Target(name, SPACE, 1, {"latency_ms": FakePredictor(SPACE, seed=ord(name))}) for name in names)
    return Problem(SPACE, targets, limits=tuple(map(parse_constraint, limits)), **changes)


def raw(target, name, codes, accuracy):
    return accuracy if name == "accuracy" else target.values(name, codes)


@given(OBJECTIVES, st.integers(0, 10**6))
def test_the_front_is_what_nothing_dominates_whatever_the_objectives(objectives, seed):
    problem = problem_of(objectives=tuple(objectives), limits=("macs@a <= 200k", "accuracy >= 0.2"))
    (target,) = problem.targets
    rng = np.random.default_rng(seed)
    codes = rng.permutation(EVERYTHING)[:25]
    accuracy = rng.integers(0, 8, 25) / 8
    # In the quantities' own units, all of them to be minimised.
    own = np.stack([raw(target, n, codes, accuracy) * (-1 if n == "accuracy" else 1) for n in objectives], axis=1)
    meets = (costs(SPACE, codes, "macs") <= 200e3) & (accuracy >= 0.2)
    front = problem.front(target, codes, accuracy)
    assert meets[front].all()
    for i in np.flatnonzero(meets):
        beaten = [(own[j] <= own[i]).all() and (own[j] < own[i]).any() for j in np.flatnonzero(meets)]
        equal = (own[front] == own[i]).all(axis=1).any()
        assert equal == (not any(beaten))
    assert len(np.unique(own[front], axis=0)) == len(front)
    if cheapest := [n for n in objectives if n != "accuracy"]:
        assert (np.diff(raw(target, cheapest[0], codes[front], accuracy[front])) >= 0).all()


@given(OBJECTIVES, st.integers(0, 10**6))
def test_the_hypervolume_is_the_share_of_the_box_that_is_dominated(objectives, seed):
    problem = problem_of(objectives=tuple(objectives))
    (target,) = problem.targets
    rng = np.random.default_rng(seed)
    codes, accuracy = rng.permutation(EVERYTHING)[:4], rng.random(4)
    points = problem.points(target, codes, accuracy).clip(max=1)
    # By inclusion and exclusion: what some dominate together is the box above the worst of each objective.
    share = 0.0
    for chosen in product([False, True], repeat=4):
        if any(chosen):
            share += (-1) ** (sum(chosen) + 1) * (1 - points[list(chosen)].max(axis=0)).prod()
    assert problem.hypervolume(target, codes, accuracy) == pytest.approx(share, abs=1e-12)


def test_objectives_are_shares_of_a_tenth_more_than_the_largest_network_has():
    problem = problem_of("ab", objectives=("macs", "accuracy", "latency_ms"))
    largest = SPACE.encode([SPACE.largest()])
    for target in problem.targets:
        points = problem.points(target, largest, np.array([0.7]))
        np.testing.assert_allclose(points, [[1 / 1.1, 0.3, 1 / 1.1]])
        wanted = target.values("latency_ms", EVERYTHING) / (1.1 * target.values("latency_ms", largest))
        np.testing.assert_allclose(problem.scaled_costs(target, EVERYTHING)[:, 1], wanted)
    assert problem_of(objectives=("accuracy",)).scaled_costs(problem.targets[0], EVERYTHING).shape == (
        len(EVERYTHING),
        0,
    )


def test_limits_are_summed_where_they_are_missed():
    problem = problem_of("ab", ("macs <= 200k", "params@b <= 1k", "accuracy >= 0.5"))
    a, b = problem.targets
    macs, params = (
        np.maximum(costs(SPACE, EVERYTHING, name) / bound - 1, 0) for name, bound in (("macs", 2e5), ("params", 1e3))
    )
    accuracy = np.linspace(0, 1, len(EVERYTHING))
    np.testing.assert_allclose(problem.excess(a, EVERYTHING), macs)
    np.testing.assert_allclose(problem.excess(b, EVERYTHING), macs + params)
    np.testing.assert_allclose(problem.excess(a, EVERYTHING, accuracy), macs + np.maximum(1 - accuracy / 0.5, 0))


def test_what_limits_ask_of_accuracy():
    problem = problem_of("ab", ("accuracy >= 0.5", "accuracy@b >= 0.7", "accuracy@a <= 0.9", "macs <= 200k"))
    assert [problem.least_accuracy(target) for target in problem.targets] == [0.5, 0.7]
    assert problem_of().least_accuracy(problem_of().targets[0]) == 0.0


@pytest.mark.parametrize("objectives", [("latency_ms", "accuracy"), ("macs", "latency_ms"), ("accuracy",)])
def test_a_trial_is_told_all_that_differs_between_targets(objectives):
    problem = problem_of("abc", objectives=objectives)
    accuracy = np.linspace(0, 1, len(EVERYTHING))
    values = problem.trial_values(EVERYTHING, accuracy)
    directions = problem.directions()
    assert values.shape == (len(EVERYTHING), len(directions))
    a, *others = problem.targets
    for j, name in enumerate(objectives):
        np.testing.assert_array_equal(values[:, j], raw(a, name, EVERYTHING, accuracy))
        assert (directions[j] == StudyDirection.MAXIMIZE) == (name == "accuracy")
    rest = [target.values(name, EVERYTHING) for target in others for name in problem.costs]
    for column, wanted in zip(values[:, len(objectives) :].T, rest, strict=True):
        np.testing.assert_array_equal(column, wanted)
    assert set(directions[len(objectives) :]) <= {StudyDirection.MINIMIZE}


def test_of_nothing_the_front_is_empty_and_worth_nothing():
    for objectives in (("accuracy", "latency_ms"), ("accuracy",), ("macs", "params", "latency_ms")):
        problem = problem_of(objectives=objectives, limits=("macs <= 1",))
        for codes in (EVERYTHING[:0], EVERYTHING):
            accuracy = np.full(len(codes), 0.5)
            assert problem.front(problem.targets[0], codes, accuracy).shape == (0,)
            assert problem.hypervolume(problem.targets[0], codes, accuracy) == 0.0


def test_objectives_must_be_known_and_different():
    with pytest.raises(JobError, match="different quantities"):
        problem_of(objectives=("accuracy", "accuracy"))
    with pytest.raises(JobError, match="unknown quantity 'latency'; did you mean 'latency_ms'"):
        problem_of(objectives=("accuracy", "latency"))
