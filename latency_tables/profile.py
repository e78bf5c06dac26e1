"""Profiling a device over a space: a table that grows network by network and survives a kill."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from latency_tables.device import Device, Fingerprint
from latency_tables.errors import LatencyError, TableError
from latency_tables.journal import Journal
from latency_tables.measuring.footprint import Footprint
from latency_tables.measuring.machine import Here, Machine
from latency_tables.measuring.measure import PROTOCOL, Protocol
from latency_tables.measuring.measurement import Measurement
from latency_tables.measuring.needs import Find
from latency_tables.measuring.sessions import Graph
from latency_tables.plan import plan
from latency_tables.table import SHIFTED, LatencyTable, journal_entry, load
from search_spaces import Arch, Space

__all__ = ["Progress", "Weigher", "plan", "profile"]

CHUNK = 12
"""Networks between two looks at the error, where a target for it is given."""
FEWEST = 24
"""Networks before the first look: predictors of fewer are judged on a handful."""
LOOK_S = 5.0
"""Seconds between two looks from one round to the next."""

Weigher = Callable[[Sequence[Graph], Device], Mapping[str, Footprint]]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a profile is: the round, the most rounds there can be, and how many of the networks are done."""

    round: int
    most_rounds: int
    converged: int
    networks: int
    error: float | None = None
    """Of a predictor of the table so far; None before the first look at it."""
    shift: float = 0.0
    """How much slower the canary is than when the table was begun; 0 for a new table."""
    message: str = ""
    """One line for people: what is waited for, or what is wrong."""


def profile(
    space: Space,
    device: Device,
    *,
    path: str | os.PathLike[str],
    build: Callable[[Arch], bytes],
    n_networks: int = 40,
    archs: Sequence[Arch] | None = None,
    seed: int = 0,
    protocol: Protocol | None = None,
    progress: Callable[[Progress], None] | None = None,
    budget_s: float = math.inf,
    target_error: float | None = None,
    error_of: Callable[[LatencyTable], float] | None = None,
    first_look: int = FEWEST,
    look_every: int = CHUNK,
    weigh: Weigher | None = None,
    gauge: Find | None = None,
    machine: Machine | None = None,
) -> LatencyTable:
    """Measure the planned networks of `space`, or these `archs`, on the machine at hand or another, into the table at `path`.

    Every round is on disk when it is finished. A table that is there already is gone on with: measured networks stay,
    and those that had not converged keep their rounds. `TableError` if it is of another space, device, machine or
    protocol.

    `budget_s` is of all of it but waiting for the machine. `error_of` the table is told on the way; with `target_error`,
    networks are measured a few at a time until it is no larger. `weigh` finds the footprints of many networks
    (`measure_footprints`), `gauge` the energy of one (that of `needs_here`).
    """
    if target_error is not None and error_of is None:
        raise LatencyError("profile: target_error says when to stop and needs error_of, which says where we are")
    where = machine or Here()
    table = _table_at(path, space, device, where.fingerprint())
    archs = plan(space, n_networks, seed) if archs is None else tuple(dict.fromkeys(archs))
    work = _Work(archs, device, protocol or Protocol(), build, where, progress or (lambda at: None), table)
    todo = [arch for arch in archs if arch.id not in work.converged]
    if not todo and weigh is None and gauge is None:
        return table
    if device.precision != "fp32":
        where.check(device)
    with where.held(on_wait=work.say):
        work.path, work.end_s = Path(path), time.monotonic() + budget_s
        work.error_of, work.first_look = error_of, first_look
        size = look_every if target_error is not None else max(1, len(todo))
        for start in range(0, len(todo), size):
            if work.left_s <= 0:
                break
            work.measure(todo[start : start + size])
            if target_error is not None and work.look(work.table, 0.0) <= target_error:
                break
        if weigh is not None or gauge is not None:
            work.add_costs(weigh, gauge)
    return work.table


class _Work:
    """A profile under way: its table, and what is in the file."""

    def __init__(
        self,
        archs: tuple[Arch, ...],
        device: Device,
        protocol: Protocol,
        build: Callable[[Arch], bytes],
        machine: Machine,
        tell: Callable[[Progress], None],
        table: LatencyTable,
    ) -> None:
        self.archs = {arch.id: arch for arch in archs}
        self.device = device
        self.protocol = protocol
        self.build = build
        self.machine = machine
        self.tell = tell
        self.table = table
        self.canary_us = table.canary_us
        self.converged = {key for key, found in table.measurements.items() if found.converged and key in self.archs}
        self.error: float | None = None
        self.error_of: Callable[[LatencyTable], float] | None = None
        self.first_look = FEWEST
        self.looked_s = time.monotonic()
        self.path = Path()
        self.end_s = math.inf
        self.journal: Journal | None = None

    @property
    def left_s(self) -> float:
        return self.end_s - time.monotonic()

    def say(self, message: str) -> None:
        """One line to people, between rounds."""
        self.tell(Progress(0, 0, len(self.converged), len(self.archs), self.error, message=message))

    def measure(self, archs: Sequence[Arch]) -> None:
        """Measure these side by side; the table and its file have them then."""
        known = self.table.measurements
        written = {arch.id: len(known[arch.id].rounds) if arch.id in known else 0 for arch in archs}
        latest: dict[str, Measurement] = {}

        def keep(number: int, most: int, found: Mapping[str, Measurement]) -> None:
            # Not before something is measured: a device that does not start leaves no file.
            journal = self.journal or self.save({})
            journal.append([journal_entry(self.archs[key], one, written[key]) for key, one in found.items()])
            written.update({key: len(one.rounds) for key, one in found.items()})
            self.converged.update(key for key, one in found.items() if one.converged)
            latest.update(found)
            self.look(self.table.with_measured(self.archs.values(), latest), LOOK_S)
            self.report(number, most, next(iter(found.values())).reference_us)

        self.save(
            self.machine.measure(
                [Graph(arch.id, self.build(arch)) for arch in archs],
                self.device,
                protocol=replace(self.protocol, budget_s=min(self.protocol.budget_s, max(self.left_s, 1e-3))),
                earlier=known,
                on_round=keep,
            )
        )

    def look(self, table: LatencyTable, every_s: float) -> float:
        """The error of a predictor of the table, found anew if the last look is so long ago; infinite before the first."""
        due = time.monotonic() - self.looked_s >= every_s
        if due and self.error_of is not None and len(table.entries) >= self.first_look:
            self.error, self.looked_s = self.error_of(table), time.monotonic()
        return math.inf if self.error is None else self.error

    def report(self, number: int, most: int, reference_us: float) -> None:
        shift = 0.0 if self.canary_us is None else reference_us / self.canary_us - 1
        message = ""
        if abs(shift) > SHIFTED:
            message = (
                f"the canary takes {reference_us:.1f} us, but took {self.canary_us:.1f} us when this table was measured: "
                "new rounds are kept apart from the earlier ones; wait until the machine is as it was, or profile into "
                "another file"
            )
        self.tell(Progress(number, most, len(self.converged), len(self.archs), self.error, shift, message))

    def add_costs(self, weigh: Weigher | None, gauge: Find | None) -> None:
        """Footprint and energy of the measured networks that lack them, as far as the time goes."""
        known = {key: found for key, found in self.table.measurements.items() if key in self.archs}
        graphs = {key: Graph(key, self.build(self.archs[key])) for key in known}
        if weigh is not None and self.left_s > 0:
            light = [graphs[key] for key, found in known.items() if found.footprint is None]
            known |= {key: replace(known[key], footprint=found) for key, found in weigh(light, self.device).items()}
            self.save(known)
        for key, found in known.items():
            if gauge is not None and found.energy is None and self.left_s > 0:
                energy = gauge(graphs[key], self.device)
                # After each: it takes 1.5 s, and a table of 300 networks is written in 0.23 s.
                self.save({key: replace(found, energy=energy)})  # type: ignore[arg-type]

    def save(self, measured: Mapping[str, Measurement]) -> Journal:
        """The whole table, with an empty journal."""
        self.table = self.table.with_measured(self.archs.values(), measured)
        self.journal = self.table.save(self.path)
        return self.journal


def _table_at(path: str | os.PathLike[str], space: Space, device: Device, here: Fingerprint) -> LatencyTable:
    """The table to go on with: the one in the file, or an empty one."""
    if not Path(path).exists():
        return LatencyTable(space, device, here, PROTOCOL)
    table = load(path, space=space, device=device, protocol=PROTOCOL)
    if table.fingerprint.id != here.id:
        raise TableError(
            f"{path}: fingerprint: measured on {table.fingerprint.cpu}, onnxruntime {table.fingerprint.onnxruntime}; "
            f"this is {here.cpu}, {here.onnxruntime}, or differs in another field; profile into another file"
        )
    return table
