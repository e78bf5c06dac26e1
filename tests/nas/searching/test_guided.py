"""Guided proposals: what is proposed, and that it is better than chance."""

import numpy as np
import pytest

from nas.searching.constraints import feasible_sample, parse_constraint
from nas.searching.guided import Known, pick, propose
from nas.searching.problem import Problem
from nas.searching.quantities import Target
from search_spaces import costs, define_space
from tests.nas.fakes import FakePredictor, fake_accuracy, small_space
from tests.search_spaces.spaces import all_codes

SPACE = define_space("tiny", in_channels=1)
SMALL = small_space()
EVERYTHING = all_codes(SMALL)


def problem_of(space=SMALL, names="a", limits=(), **changes) -> Problem:
    targets = tuple(Target(name, space, 1, {"latency_ms": FakePredictor(space, seed=ord(name))}) for name in names)
    return Problem(space, targets, limits=tuple(map(parse_constraint, limits)), **changes)


def scored(space, codes) -> np.ndarray:
    return np.array([fake_accuracy(space, arch) for arch in space.decode(codes)])


def known_of(space, codes) -> Known:
    return Known(codes, scored(space, codes), np.zeros(len(codes)), np.ones(len(codes), dtype=bool))


def proposed(problem, codes, n=6, seed=0, **more) -> np.ndarray:
    return propose(problem, known_of(problem.space, codes), np.random.default_rng(seed), n, **more)


def rows_of(codes) -> set:
    return set(map(tuple, codes.tolist()))


@pytest.mark.parametrize("names", ["a", "abc"])
def test_proposals_are_new_different_and_canonical(names):
    codes = np.unique(SPACE.sample(np.random.default_rng(0), 30), axis=0)
    found = proposed(problem_of(SPACE, names), codes, 12)
    assert len(found) == 12
    assert len(rows_of(found)) == 12
    assert rows_of(found).isdisjoint(rows_of(codes))
    np.testing.assert_array_equal(SPACE.canonical(found), found)


def test_the_same_seed_proposes_the_same():
    codes = np.unique(SPACE.sample(np.random.default_rng(0), 30), axis=0)
    problem = problem_of(SPACE)
    np.testing.assert_array_equal(proposed(problem, codes), proposed(problem, codes))
    assert not np.array_equal(proposed(problem, codes, 12, seed=1), proposed(problem, codes, 12))


@pytest.mark.parametrize("known", [2, len(EVERYTHING) - 9, len(EVERYTHING) - 1])
def test_of_a_small_space_it_proposes_what_is_left(known):
    codes = np.random.default_rng(0).permutation(EVERYTHING)
    found = proposed(problem_of(), codes[:known], n=len(EVERYTHING))
    assert rows_of(found) == rows_of(codes[known:])


def test_where_nothing_is_left_it_proposes_nothing():
    assert proposed(problem_of(), EVERYTHING).shape == (0, len(SMALL.choices))


def test_nothing_is_proposed_that_no_target_can_use():
    macs = costs(SMALL, EVERYTHING, "macs")
    low, high = np.quantile(macs, [0.2, 0.8])
    problem = problem_of(names="ab", limits=(f"macs@a <= {low}", f"macs@b >= {high}"))
    usable = EVERYTHING[(macs <= low) | (macs >= high)]
    codes = EVERYTHING[::12]
    assert rows_of(proposed(problem, codes, n=len(EVERYTHING))) == rows_of(usable) - rows_of(codes)
    assert len(proposed(problem_of(limits=("macs <= 1",)), codes)) == 0


def test_the_limits_of_one_target_do_not_keep_out_what_another_can_use():
    bound = float(np.quantile(costs(SPACE, SPACE.sample(np.random.default_rng(0), 500), "macs"), 0.1))
    codes = np.unique(SPACE.sample(np.random.default_rng(1), 30), axis=0)
    found = proposed(problem_of(SPACE, "ab", (f"macs@a <= {bound}",)), codes, 20)
    macs = costs(SPACE, found, "macs")
    assert (macs <= bound).any()
    assert (macs > bound).any()


def test_candidates_from_elsewhere_are_considered_canonical_or_not():
    codes = np.unique(SPACE.sample(np.random.default_rng(0), 30), axis=0)
    also = np.random.default_rng(2).integers(0, SPACE.cardinalities, (20, len(SPACE.choices)))
    found = proposed(problem_of(SPACE), codes, 12, also=also)
    np.testing.assert_array_equal(SPACE.canonical(found), found)


def test_what_is_taken_is_not_proposed():
    codes = np.random.default_rng(0).permutation(EVERYTHING)
    found = proposed(problem_of(), codes[:10], n=len(EVERYTHING), taken=codes[10:20])
    assert rows_of(found) == rows_of(codes[20:])


def grown(problem, accuracy_of, seed, batches=3, size=10):
    """A search of `batches` after a first generation at random."""
    space, rng = problem.space, np.random.default_rng(seed)
    codes = feasible_sample(problem.limits, problem.targets[0], rng, 20).codes
    for _ in range(batches):
        accuracy = accuracy_of(codes)
        known = Known(codes, accuracy, np.zeros(len(codes)), np.ones(len(codes), dtype=bool))
        codes = np.concatenate([codes, propose(problem, known, rng, size)])
    assert len(np.unique(codes, axis=0)) == len(codes) == 20 + batches * size
    return codes, np.random.default_rng(seed + 100).permutation(np.unique(space.sample(rng, 200), axis=0))[: len(codes)]


@pytest.mark.parametrize(
    "objectives", [("accuracy", "latency_ms"), ("params", "accuracy", "latency_ms"), ("accuracy",)]
)
def test_it_finds_more_than_chance_at_equal_evaluations(objectives):
    problem = problem_of(SPACE, objectives=objectives)
    volumes = []
    for seed in range(3):
        found = grown(problem, lambda codes: scored(SPACE, codes), seed)
        volumes.append([problem.hypervolume(problem.targets[0], codes, scored(SPACE, codes)) for codes in found])
    guided, by_chance = np.transpose(volumes)
    assert (guided > by_chance - 1e-3).all()
    assert guided.mean() > by_chance.mean() + 0.01


def test_without_accuracy_among_the_objectives_it_looks_for_the_cheapest():
    problem = problem_of(SPACE, objectives=("latency_ms", "params"), limits=("params >= 100k",))
    codes, by_chance = grown(problem, lambda codes: scored(SPACE, codes), 0, batches=2)
    target = problem.targets[0]
    volume = problem.hypervolume(target, codes, scored(SPACE, codes))
    assert volume > problem.hypervolume(target, by_chance, scored(SPACE, by_chance)) + 0.005
    # All is known before, so what is picked first is what adds most, though it be the least accurate.
    known, pool = known_of(SPACE, codes[:20]), by_chance[:30]
    before = problem.hypervolume(target, known.codes, known.accuracy)
    gains = np.array(
        [problem.hypervolume(target, np.concatenate([known.codes, row[None]]), np.zeros(21)) for row in pool]
    )
    gains -= before
    (first,) = pick(problem, known, pool, 0.9 - 0.8 * gains / gains.max(), np.full(30, 0.1), 1)
    assert gains[first] == pytest.approx(gains.max())


def test_a_limit_on_accuracy_keeps_away_from_what_will_not_reach_it():
    codes = np.unique(SPACE.sample(np.random.default_rng(0), 60), axis=0)
    bound = float(np.quantile(scored(SPACE, codes), 0.8))
    for objectives in (("accuracy", "latency_ms"), ("latency_ms",)):
        problem = problem_of(SPACE, limits=(f"accuracy >= {bound}",), objectives=objectives)
        found = scored(SPACE, proposed(problem, codes, 10))
        # Without the limit the least is 0.41 and 0.006.
        assert (found > bound - 0.06).all()
        assert (found >= bound).mean() >= 0.4


def added(problem, known, pool, mean, rows):
    """The hypervolume over all targets of the known rows and these, if the means came true."""
    codes = np.concatenate([known.codes, pool[rows]])
    accuracy = np.concatenate([known.accuracy, mean[rows]])
    return sum(problem.hypervolume(target, codes, accuracy) for target in problem.targets)


@pytest.mark.parametrize("limits", [(), ("macs@b <= 3M", "accuracy@c >= 0.5")])
def test_of_what_is_sure_the_one_is_picked_that_adds_most_each_time(limits):
    problem = problem_of(SPACE, "abc", limits)
    rng = np.random.default_rng(0)
    codes = np.unique(SPACE.sample(rng, 120), axis=0)
    rng.shuffle(codes)
    known, pool = known_of(SPACE, codes[:20]), codes[20:]
    mean = scored(SPACE, pool)
    picked = pick(problem, known, pool, mean, np.zeros(len(pool)), 8).tolist()
    assert len(set(picked)) == 8
    for k, row in enumerate(picked):
        rest = [i for i in range(len(pool)) if i not in picked[:k]]
        best = max(added(problem, known, pool, mean, [*picked[:k], i]) for i in rest)
        assert added(problem, known, pool, mean, picked[: k + 1]) == pytest.approx(best, abs=1e-9)
        assert row in rest


def test_what_is_not_final_is_on_no_front():
    problem = problem_of()
    accuracy = scored(SMALL, EVERYTHING)
    known = Known(EVERYTHING, accuracy, np.zeros(len(EVERYTHING)), np.arange(len(EVERYTHING)) % 2 == 0)
    front = known.front(problem, problem.targets[0])
    assert (front % 2 == 0).all()
    wanted = problem.front(problem.targets[0], EVERYTHING[::2], accuracy[::2])
    np.testing.assert_array_equal(front, 2 * wanted)
