"""Laws of mutation and crossover."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import Space, SpaceError, crossover, mutate
from tests.search_spaces.spaces import families, spaces_and_codes

SEEDS = st.integers(0, 2**32 - 1)

FINGERPRINT = """
import hashlib, numpy as np
from search_spaces import crossover, define_space, mutate
space, rng = define_space("tiny"), np.random.default_rng(7)
codes = space.sample(rng, 50)
codes = crossover(space, mutate(space, codes, rng), codes[::-1], rng)
print(hashlib.sha256(codes.tobytes()).hexdigest(), space.decode(codes)[0].id)
"""


@pytest.fixture(params=families())
def space(request: pytest.FixtureRequest) -> Space:
    return families()[request.param]


def assert_canonical(space, codes):
    assert codes.dtype == np.int16
    np.testing.assert_array_equal(space.canonical(codes), codes)


@given(spaces_and_codes(), SEEDS, st.one_of(st.none(), st.floats(0, 1)))
def test_mutants_are_canonical_and_differ_where_anything_can_move(case, seed, probability):
    space, codes = case
    parents = space.canonical(codes)
    mutants = mutate(space, parents, np.random.default_rng(seed), probability)
    assert_canonical(space, mutants)
    movable = (space.active(parents) & (space.cardinalities > 1)).any(axis=1)
    np.testing.assert_array_equal((mutants != parents).any(axis=1), movable)


@given(spaces_and_codes(), SEEDS)
def test_a_child_has_each_gene_from_a_parent_or_opens_it_anew(case, seed):
    space, codes = case
    mothers, fathers = space.canonical(codes), space.canonical(codes[::-1])
    children = crossover(space, mothers, fathers, np.random.default_rng(seed))
    assert_canonical(space, children)
    assert ((children == mothers) | (children == fathers) | (children == 0)).all()


@given(spaces_and_codes(), SEEDS)
def test_crossing_a_row_with_itself_changes_nothing(case, seed):
    space, codes = case
    parents = space.canonical(codes)
    np.testing.assert_array_equal(crossover(space, parents, parents, np.random.default_rng(seed)), parents)


def test_mutation_moves_one_choice_a_row_on_average(space):
    parents = space.sample(np.random.default_rng(0), 4000)
    mutants = mutate(space, parents, np.random.default_rng(1))
    both = space.active(parents) & space.active(mutants)
    moved = ((mutants != parents) & both).sum(axis=1).mean()
    # Binomial of mean 1, with the zeros (37%) made ones.
    assert 1.2 < moved < 1.5


def test_mutation_of_probability_one_moves_every_active_choice(space):
    parents = space.sample(np.random.default_rng(0), 100)
    mutants = mutate(space, parents, np.random.default_rng(1), probability=1.0)
    both = space.active(parents) & space.active(mutants) & (space.cardinalities > 1)
    assert (mutants != parents)[both].all()


def test_mutation_reaches_every_other_value(space):
    parents = np.repeat(space.encode([space.largest()]), 3000, axis=0)
    mutants = mutate(space, parents, np.random.default_rng(0), probability=0.5)
    for j, choice in enumerate(space.choices):
        assert set(mutants[:, j]) == set(range(len(choice.values))), choice.name


def test_parents_of_different_shape_are_refused(space):
    with pytest.raises(SpaceError, match="parents differ in shape"):
        crossover(space, space.sample(np.random.default_rng(0), 2), space.sample(np.random.default_rng(0), 3), None)


def test_the_same_seed_gives_the_same_rows_in_another_process():
    found = {
        subprocess.run(
            [sys.executable, "-c", FINGERPRINT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
