"""A vectorised multi-objective evolution on predictions, for all devices at once.

As NSGA-II (Deb et al., 2002): better fronts first, within a front the less crowded. What cannot meet a device's limits comes
after all that can, the least violation first (their section VI). Devices share the population: each keeps its own best, and
children come from all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import moocore
import numpy as np
from numpy.typing import NDArray

from search_spaces import Codes, Space, crossover, first_rows, mutate

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Fitness:
    """What a population is worth on each of T targets: `values (n, T, m)`, all of them to be minimised, and how far each
    misses the limits, `excess (n, T)`, 0 where it meets them."""

    values: F64
    excess: F64


def evolve(
    space: Space,
    start: Codes,
    fitness: Callable[[Codes], Fitness],
    rng: np.random.Generator,
    *,
    population: int,
    generations: int,
) -> Codes:
    """The last survivors and their last children: different canonical rows, at most twice `population`."""
    pool = np.unique(space.canonical(start), axis=0)
    found = fitness(pool)
    for _ in range(generations):
        kept = survivors(found, population)
        pool, found = pool[kept], Fitness(found.values[kept], found.excess[kept])
        children = new_rows(_children(space, pool, rng, population), pool)
        if len(children) == 0:
            continue
        born = fitness(children)
        pool = np.concatenate([pool, children])
        found = Fitness(
            np.concatenate([found.values, born.values]),
            np.concatenate([found.excess, born.excess]),
        )
    return pool


def survivors(found: Fitness, population: int) -> NDArray[np.int64]:
    """Indices of the best `population` rows, best first: the best of each target in turn, the second of each, and so on."""
    targets = found.excess.shape[1]
    orders = [_ordered(found.values[:, t], found.excess[:, t], population) for t in range(targets)]
    turns = np.stack(orders, axis=1).ravel()
    _, first = np.unique(turns, return_index=True)
    return turns[np.sort(first)][:population]


def _ordered(values: F64, excess: F64, most: int) -> NDArray[np.int64]:
    """The `most` best rows of one target, or all where there are no more, best first."""
    meets = np.flatnonzero(excess == 0)
    misses = np.flatnonzero(excess > 0)
    misses = misses[np.argsort(excess[misses], kind="stable")]
    # What misses the limits may dominate what meets them, so it has no part in these fronts.
    rank = moocore.pareto_rank(values[meets]) if len(meets) else np.zeros(0, dtype=np.int64)
    crowd = crowding(values[meets], rank)
    return np.concatenate([meets[np.lexsort((-crowd, rank))], misses])[:most]


def crowding(values: F64, rank: NDArray[np.int64]) -> F64:
    """The crowding distance of each point among those of its rank (Deb et al., section III-B); the ends are infinitely far."""
    distance = np.zeros(len(values))
    for column in values.T:
        order = np.lexsort((column, rank))
        sorted_rank, ordered = rank[order], column[order]
        begins = np.diff(sorted_rank, prepend=-1) != 0
        ends = np.append(begins[1:], True) if len(begins) else begins
        spread = (ordered[ends] - ordered[begins])[np.cumsum(begins) - 1]
        gap = np.zeros(len(order))
        gap[1:-1] = ordered[2:] - ordered[:-2]
        distance[order] += np.divide(gap, spread, out=np.zeros(len(order)), where=spread > 0)
        distance[order[begins | ends]] = np.inf
    return distance


def _children(space: Space, pool: Codes, rng: np.random.Generator, n: int) -> Codes:
    mothers, fathers = rng.integers(len(pool), size=(2, n))
    return mutate(space, crossover(space, pool[mothers], pool[fathers], rng), rng)


def new_rows(rows: Codes, known: Codes) -> Codes:
    """The different rows that are not among the known ones."""
    both = np.concatenate([known, rows])
    first = first_rows(both)
    return both[first[first >= len(known)]]
