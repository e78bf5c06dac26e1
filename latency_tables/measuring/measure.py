"""Measuring graphs on the device at hand, side by side, with a canary that tells when the machine was disturbed."""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from latency_tables.device import Device
from latency_tables.errors import LatencyError
from latency_tables.measuring.conditions import System
from latency_tables.measuring.disturbance import Verdict, is_precise
from latency_tables.measuring.measurement import Measurement, Round
from latency_tables.measuring.placement import Placement, placed
from latency_tables.measuring.protocol import PROTOCOL, Protocol
from latency_tables.measuring.sessions import CANARY, SPINNING, Graph, Opener, Run, canary_device, open_session

__all__ = ["CANARY", "PROTOCOL", "Clock", "OnRound", "Protocol", "measure"]

SETTLED = 0.05
"""A fresh session is stable when its last three runs are within this of its fastest."""

OWN_CACHE_BYTES = 1 << 20
"""A common second-level cache. Models that fit were within 5% of idle beside busy cores in all of 128 cases."""

OnRound = Callable[[int, int, Mapping[str, Measurement]], None]
"""Called after each round with its number, the most rounds there can be, and the graphs that it visited."""

Clock = Callable[[], float]


@dataclass(slots=True)
class _Subject:
    """A graph under measurement."""

    graph: Graph
    known: Measurement | None
    """What was measured earlier."""
    rounds: list[Round]
    run: Run | None = None
    workers: frozenset[int] = frozenset()


def measure(
    graphs: Sequence[Graph],
    device: Device,
    *,
    protocol: Protocol | None = None,
    earlier: Mapping[str, Measurement] | None = None,
    on_round: OnRound | None = None,
    open_graph: Opener = open_session,
    open_canary: Opener | None = None,
    clock: Clock = time.perf_counter,
    cpu_clock: Clock = time.thread_time,
    system: Callable[[Sequence[int]], System] = System,
) -> dict[str, Measurement]:
    """Measure all graphs side by side, by `PROTOCOL`: key -> Measurement.

    Rounds of `earlier` measurements of the same keys count as this one's own where the canary was as it is now, so that
    an interrupted measurement goes on. Hold `exclusive` meanwhile. A graph that does not load or run ends the whole
    measurement with `LatencyError`.
    """
    if len({graph.key for graph in graphs}) != len(graphs):
        raise LatencyError("two graphs to measure have the same key")
    known = [(earlier or {}).get(graph.key) for graph in graphs]
    subjects = [
        _Subject(graph, found, list(found.rounds) if found else []) for graph, found in zip(graphs, known, strict=True)
    ]
    with placed(device.threads) as placement:
        canary = (open_canary or open_graph)(Graph("canary", CANARY.read_bytes()), canary_device(device))
        bench = _Bench(
            device, protocol or Protocol(), open_graph, canary, (clock, cpu_clock), subjects, placement, system
        )
        if graphs:
            bench.warm_up()
            bench.go_round(on_round)
        return bench.results(subjects)


class _Bench:
    """The device with its canary and the graphs on it, for one call of `measure`."""

    def __init__(
        self,
        device: Device,
        protocol: Protocol,
        open_graph: Opener,
        canary: Run,
        clocks: tuple[Clock, Clock],
        subjects: list[_Subject],
        placement: Placement,
        system: Callable[[Sequence[int]], System],
    ) -> None:
        self.device = device
        self.protocol = protocol
        self.open_graph = open_graph
        self.clock, self.cpu_clock = clocks
        self.subjects = subjects
        self.placement = placement
        self.system = system(placement.cores)
        self.deadline = self.clock() + protocol.budget_s
        self.keep_open = sum(len(subject.graph.model) for subject in subjects) <= protocol.open_bytes
        self.canary = canary
        self.readings_us: list[float] = []
        self.reference_us = math.nan
        """The undisturbed canary: the lower quartile of its readings."""

    def read_canary(self) -> float:
        """One reading: the median of a few runs after one that is not counted."""
        self.canary()
        with _without_gc():
            reading = float(np.median([self.canary() for _ in range(self.protocol.canary_runs)]))
        self.readings_us.append(reading)
        self.reference_us = float(np.percentile(self.readings_us, 25))
        return reading

    def warm_up(self) -> None:
        """Read the canary until five readings in a row agree, or time is up; only those five are kept."""
        end = self.clock() + self.protocol.warm_up_s
        while True:
            self.read_canary()
            self.readings_us = self.readings_us[-5:]
            spread = max(self.readings_us) / min(self.readings_us) - 1
            if (len(self.readings_us) == 5 and spread <= self.protocol.disturbed / 2) or self.clock() >= end:
                return

    def go_round(self, on_round: OnRound | None) -> None:
        """Visit all graphs that are not done, round after round, until all are or the budget ends."""
        protocol = self.protocol
        rng = np.random.default_rng(protocol.seed)
        most = protocol.max_rounds + protocol.max_rejected
        for number in range(1, most + 1):
            # Asked anew each round: as the reference sinks, visits that seemed calm turn out disturbed.
            todo = [subject for subject in self.subjects if self.ended(subject) is None]
            order = [todo[index] for index in rng.permutation(len(todo))]
            for start in range(0, len(order), protocol.canary_every):
                if self.clock() >= self.deadline and all(subject.rounds for subject in self.subjects):
                    return
                self.visit_block(order[start : start + protocol.canary_every])
            if not todo:
                return
            if on_round is not None:
                on_round(number, most, self.results(todo))

    def visit_block(self, block: list[_Subject]) -> None:
        """Visit a few graphs between two canary readings; the slower reading is charged to each."""
        for subject in block:
            self.open(subject)
        start, before = self.system.counters(), self.read_canary()
        taken = [(subject, self.visit(subject)) for subject in block]
        worst = max(before, self.read_canary())
        found = self.system.since(start)
        for subject, (samples, share, waiting) in taken:
            neighbour = found.neighbour if len(subject.graph.model) > OWN_CACHE_BYTES else None
            conditions = (found.steal, found.pressure, found.frequency_mhz, found.temperature_c, neighbour)
            subject.rounds.append(Round(samples, worst, share, waiting, *conditions))

    def open(self, subject: _Subject) -> None:
        """Give the subject a session that has settled, and find out which threads are its workers."""
        if subject.run is not None:
            return
        threads = self.system.threads()
        run = self.open_graph(subject.graph, self.device)
        subject.workers = self.system.threads() - threads
        end = self.clock() + self.protocol.settle_ms / 1e3
        times = [run()]
        while self.clock() < end and (len(times) < 3 or max(times[-3:]) > (1 + SETTLED) * min(times)):
            times.append(run())
        subject.run = run

    def visit(self, subject: _Subject) -> tuple[tuple[float, ...], float, float | None]:
        """Samples of one visit in microseconds, the share of that time that the calling thread had a processor, and
        the largest share that a worker waited for one."""
        protocol, run = self.protocol, subject.run
        assert run is not None
        with _without_gc():
            warm = [run()]
            while sum(warm) < protocol.warm_up_ms * 1e3:
                warm.append(run())
            runs = int(np.clip(protocol.visit_ms * 1e3 / min(warm), protocol.min_runs, protocol.max_runs))
            waited = self.system.waited_s(subject.workers)
            start, cpu_start = self.clock(), self.cpu_clock()
            samples = tuple(run() for _ in range(runs))
            cpu_s, wall_s = self.cpu_clock() - cpu_start, self.clock() - start
        if not self.keep_open:
            subject.run = None
        if not wall_s > 0:
            return samples, 1.0, None
        waits = [now - then for then, now in zip(waited, self.system.waited_s(subject.workers), strict=True)]
        # The kernel adds up a wait when it ends, so one that began before the visit can be longer than it.
        return samples, cpu_s / wall_s, min(1.0, max(0.0, *waits) / wall_s) if waits else None

    def verdict(self, subject: _Subject) -> Verdict:
        return Verdict.of(subject.rounds, self.reference_us, self.protocol)

    def ended(self, subject: _Subject, verdict: Verdict | None = None) -> str | None:
        """Why the subject needs no more visits; None while it does."""
        verdict = verdict or self.verdict(subject)
        earlier = len(subject.known.rounds) if subject.known else 0
        rejected = sum(map(bool, verdict.reasons[earlier:]))
        if is_precise(subject.rounds, verdict, self.protocol):
            return "precision"
        if verdict.calm >= self.protocol.max_rounds:
            return "rounds"
        return "rejected" if rejected >= self.protocol.max_rejected else None

    def results(self, subjects: Sequence[_Subject]) -> dict[str, Measurement]:
        """What is measured so far, of those that were visited."""
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        return {subject.graph.key: self.result(subject, load) for subject in subjects if subject.rounds}

    def result(self, subject: _Subject, load: float | None) -> Measurement:
        verdict = self.verdict(subject)
        over, known = self.clock() >= self.deadline, subject.known
        return Measurement(
            key=subject.graph.key,
            rounds=tuple(subject.rounds),
            reasons=verdict.reasons,
            counts=verdict.counts(self.protocol.min_rounds),
            reference_us=self.reference_us,
            ended=self.ended(subject, verdict) or ("budget" if over else "interrupted"),
            spinning=SPINNING,
            cores=self.placement.cores,
            priority=self.placement.priority,
            load_average=load,
            footprint=None if known is None else known.footprint,
            energy=None if known is None else known.energy,
        )


@contextmanager
def _without_gc() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
