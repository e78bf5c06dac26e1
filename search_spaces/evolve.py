"""Mutation and crossover on whole populations: `(n, choices)` canonical codes in, the same out."""

import numpy as np

from search_spaces.errors import SpaceError
from search_spaces.space import Codes, Space


def mutate(space: Space, codes: Codes, rng: np.random.Generator, probability: float | None = None) -> Codes:
    """Move each active entry to another value with this probability, by default once a row on average.

    Every row with an active choice to move changes: one entry at least is drawn where chance left a row as it was.
    """
    movable = space.active(codes) & (space.cardinalities > 1)
    expected = 1.0 / np.maximum(movable.sum(axis=1, keepdims=True), 1)
    hit = movable & (rng.random(codes.shape) < (expected if probability is None else probability))
    forced = np.where(movable, rng.random(codes.shape), -1.0).argmax(axis=1)
    untouched = ~hit.any(axis=1) & movable.any(axis=1)
    hit[untouched, forced[untouched]] = True
    # A step of 1..k-1 modulo k never lands on the value it left.
    step = 1 + (rng.random(codes.shape) * np.maximum(space.cardinalities - 1, 1)).astype(np.int16)
    return space.canonical(np.where(hit, (codes + step) % space.cardinalities, codes))


def crossover(space: Space, mothers: Codes, fathers: Codes, rng: np.random.Generator) -> Codes:
    """Uniform crossover: each entry comes from one of the two parents of its row, with even odds."""
    if mothers.shape != fathers.shape:
        raise SpaceError(f"parents differ in shape: {mothers.shape} and {fathers.shape}")
    return space.canonical(np.where(rng.random(mothers.shape) < 0.5, mothers, fathers))
