"""The evolution on predictions: who survives, and what it finds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.searching.evolution import Fitness, crowding, evolve, new_rows, survivors
from search_spaces import costs, define_space
from tests.search_spaces.spaces import all_codes, enumerable

SPACE = define_space("tiny", in_channels=1)


def dominates(a, b) -> bool:
    return bool((a <= b).all() and (a < b).any())


def fitness_of(values, excess=None) -> Fitness:
    """For one target, `values (n, m)`."""
    values = np.asarray(values, dtype=float)[:, None]
    return Fitness(values, np.zeros(values.shape[:2]) if excess is None else np.asarray(excess, dtype=float)[:, None])


populations = st.integers(0, 10**6).map(
    lambda seed: (
        np.random.default_rng(seed).integers(0, 6, (20, 2)).astype(float),
        np.random.default_rng(seed).choice([0.0, 0.0, 0.5, 1.5], 20),
    )
)


@given(populations, st.integers(1, 25))
def test_survivors_meet_the_limits_first_and_are_not_dominated_by_who_is_left(population, n):
    values, excess = population
    kept = survivors(fitness_of(values, excess), n)
    assert len(kept) == len(set(kept)) == min(n, 20)
    left = np.setdiff1d(np.arange(20), kept)
    for a in left:
        for b in kept:
            assert excess[a] >= excess[b] or excess[b] == 0 == excess[a]
            if excess[a] == excess[b] == 0:
                assert not dominates(values[a], values[b])


def test_what_misses_the_limits_does_not_push_back_what_meets_them():
    # The first two are the front of what meets the limits, the third is behind it; the first would be behind the others.
    found = fitness_of([[1, 5], [5, 1], [6, 2], [0.5, 4], [0, 3]], [0, 0, 0, 0.2, 0.1])
    assert sorted(survivors(found, 2)) == [0, 1]
    assert survivors(found, 5)[2:].tolist() == [2, 4, 3]


def test_of_one_front_the_less_crowded_survive_wherever_they_stand():
    x = np.array([0.0, 0.1, 0.2, 0.3, 0.6, 1.0])
    for order in (np.arange(6), np.arange(6)[::-1], np.array([2, 4, 0, 3, 5, 1])):
        kept = survivors(fitness_of(np.stack([x, 1 - x], axis=1)[order]), 4)
        assert sorted(x[order][kept]) == [0.0, 0.3, 0.6, 1.0]


def test_every_target_keeps_its_share():
    rng = np.random.default_rng(0)
    values = rng.random((300, 3, 2))
    found = Fitness(values, np.zeros((300, 3)))
    kept = survivors(found, 60)
    assert len(kept) == 60
    for t in range(3):
        alone = survivors(Fitness(values[:, [t]], np.zeros((300, 1))), 20)
        assert set(alone) <= set(kept)


def test_targets_that_agree_leave_no_place_empty():
    values = np.repeat(np.random.default_rng(0).random((300, 1, 2)), 4, axis=1)
    assert len(survivors(Fitness(values, np.zeros((300, 4))), 240)) == 240


def crowded(points):
    """Of one front."""
    return crowding(points, np.zeros(len(points), dtype=np.int64))


def test_crowding_is_within_a_rank():
    rng = np.random.default_rng(0)
    points, rank = rng.random((30, 2)), rng.integers(4, size=30)
    found = crowding(points, rank)
    for level in range(4):
        np.testing.assert_allclose(found[rank == level], crowded(points[rank == level]))


def test_the_crowding_distance_is_that_of_the_paper():
    points = np.array([[0.0, 10.0], [1.0, 6.0], [4.0, 5.0], [10.0, 0.0]])
    np.testing.assert_allclose(crowded(points), [np.inf, 0.4 + 0.5, 0.9 + 0.6, np.inf])
    shuffled = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(crowded(points[shuffled]), crowded(points)[shuffled])
    np.testing.assert_array_equal(crowded(points[:1]), [np.inf])
    np.testing.assert_array_equal(crowded(np.ones((4, 2)))[[0, 3]], [np.inf, np.inf])


def size_and_hidden_worth(space):
    """One target: MACs to be minimised, a made-up accuracy with interactions to be maximised."""
    worth = np.random.default_rng(3).random((len(space.choices),) * 2)

    def fitness(codes):
        accuracy = np.einsum("ij,jk,ik->i", codes, worth, codes)
        return fitness_of(np.stack([costs(space, codes, "macs"), -accuracy], axis=1))

    return fitness


@pytest.mark.parametrize("name", ["one stage", "two stages", "fixed depth"])
def test_it_finds_the_whole_front_of_a_small_space(name):
    space = enumerable(name)
    fitness = size_and_hidden_worth(space)
    rows = all_codes(space)
    values = fitness(rows).values[:, 0]
    front = rows[[not any(dominates(other, own) for other in values) for own in values]]
    rng = np.random.default_rng(0)
    found = evolve(space, space.sample(rng, 4), fitness, rng, population=80, generations=25)
    assert {tuple(row) for row in front} <= {tuple(row) for row in found}


def test_every_row_is_canonical_and_asked_for_once():
    asked = []

    def fitness(codes):
        asked.append(codes)
        return size_and_hidden_worth(SPACE)(codes)

    rng = np.random.default_rng(0)
    # The start is neither canonical nor free of duplicates.
    start = rng.integers(0, SPACE.cardinalities, (40, len(SPACE.choices)))
    found = evolve(SPACE, np.concatenate([start, start]), fitness, rng, population=30, generations=8)
    assert 30 < len(found) <= 60
    for rows in (found, *asked):
        np.testing.assert_array_equal(SPACE.canonical(rows), rows)
        assert len(np.unique(rows, axis=0)) == len(rows)


def test_the_same_seed_gives_the_same_rows_and_the_order_of_the_start_does_not_matter():
    start = SPACE.sample(np.random.default_rng(1), 40)

    def found(rows, seed):
        return evolve(
            SPACE, rows, size_and_hidden_worth(SPACE), np.random.default_rng(seed), population=20, generations=5
        )

    np.testing.assert_array_equal(found(start, 0), found(start, 0))
    np.testing.assert_array_equal(found(start, 0), found(start[::-1], 0))
    assert not np.array_equal(found(start, 0), found(start, 1))


@given(st.integers(0, 10**6))
def test_new_rows_are_those_that_are_not_known_each_once_in_order(seed):
    codes = np.random.default_rng(seed).integers(0, 2, (12, 3)).astype(np.int16)
    known, rows = codes[:4], codes[2:]
    taken = {tuple(row) for row in known.tolist()}
    wanted = [row for row in dict.fromkeys(map(tuple, rows.tolist())) if row not in taken]
    assert [tuple(row) for row in new_rows(rows, known).tolist()] == wanted
