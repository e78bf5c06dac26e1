"""Which networks of a space to measure, best ones first."""

from __future__ import annotations

import numpy as np

from latency_tables.errors import LatencyError
from search_spaces import Arch, Codes, Space, costs

DRAWS_A_NETWORK = 60
NEAREST = 4
TRIES = 20
"""Batches of draws in a row without a new network after which the space counts as used up."""


def plan(space: Space, n: int, seed: int = 0) -> tuple[Arch, ...]:
    """Up to `n` different networks to measure: the smallest, the largest, and others spread evenly over log MACs.

    A plan of fewer networks is the beginning of one of more: wherever measuring stops, what is measured is spread.
    Uniform draws leave the ends empty: the middle 90% of 2,000 span half of the range of log MACs in both families. So
    a third of the candidates is uniform, a third takes one value for all choices of a kind, a third leans one way.
    """
    if n < 2:
        raise LatencyError(f"a plan needs at least 2 networks, not {n}")
    rng = np.random.default_rng(seed)
    chosen = space.encode([space.smallest(), space.largest()])
    low, high = np.log(costs(space, chosen, "macs"))
    seen = {row.tobytes() for row in chosen}
    pool, log_macs = chosen[:0], np.empty(0)
    misses = 0
    while len(chosen) < n and (len(pool) or misses < TRIES):
        drawn = np.unique(_drawn(space, rng, DRAWS_A_NETWORK).astype(chosen.dtype), axis=0)
        fresh = drawn[[row.tobytes() not in seen for row in drawn]]
        seen |= {row.tobytes() for row in fresh}
        pool = np.concatenate([pool, fresh])
        log_macs = np.concatenate([log_macs, np.log(costs(space, fresh, "macs"))])
        misses = 0 if len(fresh) else misses + 1
        if len(pool):
            distance = np.abs(log_macs - (low + (high - low) * _fraction(len(chosen) - 1)))
            # One of the few nearest, at random: the very nearest would prefer the crowded middle of each gap.
            pick = int(rng.choice(np.argsort(distance, kind="stable")[:NEAREST]))
            chosen = np.concatenate([chosen, pool[pick : pick + 1]])
            pool, log_macs = np.delete(pool, pick, axis=0), np.delete(log_macs, pick)
    return tuple(space.decode(chosen))


def _fraction(index: int) -> float:
    """Number `index`, from 1, of a sequence that fills 0 to 1 evenly however long it is (van der Corput, 1935)."""
    value, step = 0.0, 0.5
    while index:
        value += step * (index % 2)
        index, step = index // 2, step / 2
    return value


def _drawn(space: Space, rng: np.random.Generator, n: int) -> Codes:
    """Canonical rows, a third of each way of drawing."""
    third = n // 3
    most = space.cardinalities.astype(np.int64) - 1
    kinds = [choice.kind for choice in space.choices]
    quantile = {kind: rng.random(third) for kind in dict.fromkeys(kinds)}
    alike = np.stack([quantile[kind] for kind in kinds], axis=1)
    level = rng.beta(0.5, 0.5, size=(third, 1))
    biased = rng.binomial(most, level, size=(third, len(most)))
    rows = np.concatenate([(alike * (most + 1)).astype(np.int16), biased.astype(np.int16)])
    return np.concatenate([space.sample(rng, third), space.canonical(rows)])
