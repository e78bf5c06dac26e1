"""Profiling a device over a space: which networks to measure, and a table that grows and survives a kill."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latency_tables.device import Device, fingerprint
from latency_tables.errors import LatencyError, TableError
from latency_tables.lock import exclusive
from latency_tables.measure import PROTOCOL, Protocol, measure
from latency_tables.measurement import Measurement
from latency_tables.sessions import Graph, Opener, open_session
from latency_tables.table import LatencyTable, load
from search_spaces import Arch, Codes, Space, costs

DRAWS_A_NETWORK = 60


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a profile is: the round, the most rounds there can be, and how many of the networks are done."""

    round: int
    most_rounds: int
    converged: int
    networks: int


def profile(
    space: Space,
    device: Device,
    *,
    path: str | os.PathLike[str],
    build: Callable[[Arch], bytes],
    n_networks: int = 40,
    seed: int = 0,
    protocol: Protocol | None = None,
    progress: Callable[[Progress], None] | None = None,
    lock_timeout_s: float = 60.0,
    open_graph: Opener = open_session,
) -> LatencyTable:
    """Measure the planned networks of `space` on the machine at hand, into the table at `path`.

    The file is written after every round. A table that is there already is gone on with: measured networks stay, and
    those that had not converged keep their rounds. `TableError` if it is of another space, device, machine or protocol.
    """
    table = _table_at(path, space, device)
    archs = plan(space, n_networks, seed)
    known = table.measurements
    todo = [arch for arch in archs if arch.id not in known or not known[arch.id].converged]
    if not todo:
        return table

    def keep(number: int, most: int, measured: Mapping[str, Measurement]) -> None:
        nonlocal table
        table = table.with_measured(todo, measured)
        table.save(path)
        if progress is not None:
            now = table.measurements
            progress(
                Progress(number, most, sum(arch.id in now and now[arch.id].converged for arch in archs), len(archs))
            )

    with exclusive(lock_timeout_s):
        graphs = [Graph(arch.id, build(arch)) for arch in todo]
        measured = measure(graphs, device, protocol=protocol, earlier=known, on_round=keep, open_graph=open_graph)
    table = table.with_measured(todo, measured)
    table.save(path)
    return table


def plan(space: Space, n: int, seed: int = 0) -> tuple[Arch, ...]:
    """Up to `n` different networks to measure: the smallest, the largest, and others spread evenly over log MACs.

    Uniform draws leave the ends empty: the middle 90% of 2,000 span half of the range of log MACs in both families. So
    a third of the candidates is uniform, a third takes one value for all choices of a kind, a third leans one way.
    """
    if n < 2:
        raise LatencyError(f"a plan needs at least 2 networks, not {n}")
    rng = np.random.default_rng(seed)
    ends = space.encode([space.smallest(), space.largest()])
    pool = np.unique(np.concatenate([ends, _pool(space, rng, n * DRAWS_A_NETWORK)]), axis=0)
    log_macs = np.log(costs(space, pool, "macs"))
    free = ~(pool[:, None] == ends[None]).all(axis=2).any(axis=1)
    chosen: list[int] = []
    low, high = np.log(costs(space, ends, "macs"))
    for target in np.linspace(low, high, n)[1:-1]:
        if not free.any():
            break
        # One of the few nearest, at random: the very nearest would prefer the crowded middle of each gap.
        distance = np.where(free, np.abs(log_macs - target), np.inf)
        near = np.argpartition(distance, min(4, len(pool)) - 1)[:4]
        pick = int(rng.choice(near[free[near]]))
        free[pick] = False
        chosen.append(pick)
    rows = np.concatenate([ends[:1], pool[chosen], ends[1:]]).astype(np.int16)
    return tuple(dict.fromkeys(space.decode(rows)))


def _pool(space: Space, rng: np.random.Generator, n: int) -> Codes:
    """Canonical rows, a third of each way of drawing."""
    third = n // 3 + 1
    most = space.cardinalities.astype(np.int64) - 1
    kinds = [choice.kind for choice in space.choices]
    quantile = {kind: rng.random(third) for kind in dict.fromkeys(kinds)}
    alike = np.stack([quantile[kind] for kind in kinds], axis=1)
    level = rng.beta(0.5, 0.5, size=(third, 1))
    biased = rng.binomial(most, level, size=(third, len(most)))
    rows = np.concatenate([(alike * (most + 1)).astype(np.int16), biased.astype(np.int16)])
    return np.concatenate([space.sample(rng, third), space.canonical(rows)])


def _table_at(path: str | os.PathLike[str], space: Space, device: Device) -> LatencyTable:
    """The table to go on with: the one in the file, or an empty one."""
    here = fingerprint()
    if not Path(path).exists():
        return LatencyTable(space, device, here, PROTOCOL)
    table = load(path, space=space, device=device, protocol=PROTOCOL)
    if table.fingerprint.id != here.id:
        raise TableError(
            f"{path}: fingerprint: measured on {table.fingerprint.cpu}, onnxruntime {table.fingerprint.onnxruntime}; "
            f"this is {here.cpu}, {here.onnxruntime}, or differs in another field; profile into another file"
        )
    return table
