"""Measuring graphs on the device at hand, side by side, with a canary that tells when the machine was disturbed."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from latency_tables.device import Device
from latency_tables.errors import LatencyError
from latency_tables.measurement import Measurement, median_precision
from latency_tables.sessions import SPINNING, Graph, Opener, Run, open_session

PROTOCOL = 1
"""The version of how we measure. Tables of different versions are not mixed. Version 1, with its reasons:

- Whole networks, with the runtime's profiling off: sums of profiled operators were 0.82-1.46x of the true latency.
- Rounds. Each round visits every graph once, in an order drawn anew: slow drift of the machine then hits all alike.
  A visit is a few unrecorded inferences, which bring code and weights back into the caches, then about `visit_ms` of
  recorded ones, one by one. Garbage collection is off meanwhile.
- A canary, a fixed small network, is timed between every few graphs. A visit counts when the slower of the readings
  on its two sides is within `disturbed` of the reference, the lower quartile of all readings so far: then neither the
  clock frequency nor a neighbour on the same core has changed.
- A visit counts only if its thread had the processor all the time: CPU time over wall time is within `preempted` of
  the graph's best visit. With two busy processes on two cores this caught 94-100% of the visits that were over 10%
  slow, and what was left spread by 2% instead of 35%; the canary, done within one time slice, saw none of them.
- A visit that does not count is rejected, and the graph visited once more.
- A graph is done when the interval of its median is narrow enough; the statistic is the median over all kept samples.
- Sessions stay open while their models fit `open_bytes`, and their idle threads do not spin (`sessions.SPINNING`).
"""

CANARY = Path(__file__).with_name("canary.onnx")

OnRound = Callable[[int, int, Mapping[str, Measurement]], None]
"""Called after each round with its number, the most rounds there can be, and what is measured so far."""

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Protocol:
    """How long and how exactly to measure. Rounds are those that count; rejected ones come on top."""

    min_rounds: int = 8
    max_rounds: int = 40
    max_rejected: int = 40
    """Rejected visits of a graph after which it is visited no more."""
    target_precision: float = 0.02
    """Half width of the interval of the median, relative to it."""
    visit_ms: float = 3.0
    min_runs: int = 3
    max_runs: int = 50
    warm_up_ms: float = 0.3
    """Unrecorded inferences that begin a visit; always at least one."""
    warm_up_s: float = 2.0
    """The longest wait for the canary to settle before the first round."""
    budget_s: float = 120.0
    """Ends the measurement after the block in which it runs out, but never before every graph has one round."""
    disturbed: float = 0.1
    preempted: float = 0.05
    canary_every: int = 6
    """Graphs between two canary readings."""
    canary_runs: int = 7
    open_bytes: int = 2_000_000_000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("min_rounds", "min_runs", "canary_every", "canary_runs"):
            if getattr(self, name) < 1:
                raise LatencyError(f"protocol: {name} must be at least 1, not {getattr(self, name)}")
        for name in ("target_precision", "visit_ms", "budget_s", "disturbed", "preempted"):
            if not getattr(self, name) > 0:
                raise LatencyError(f"protocol: {name} must be above 0, not {getattr(self, name)}")
        if self.max_rounds < self.min_rounds or self.max_runs < self.min_runs:
            raise LatencyError("protocol: max_rounds and max_runs must be at least min_rounds and min_runs")


@dataclass(frozen=True, slots=True)
class _Visit:
    samples_us: tuple[float, ...]
    canary_us: float
    cpu_share: float
    median_us: float


@dataclass(slots=True)
class _Subject:
    """A graph under measurement."""

    graph: Graph
    visits: list[_Visit]
    run: Run | None = None


def measure(
    graphs: Sequence[Graph],
    device: Device,
    *,
    protocol: Protocol | None = None,
    earlier: Mapping[str, Measurement] | None = None,
    on_round: OnRound | None = None,
    open_graph: Opener = open_session,
    clock: Clock = time.perf_counter,
    cpu_clock: Clock = time.thread_time,
) -> dict[str, Measurement]:
    """Measure all graphs side by side, by `PROTOCOL`: key -> Measurement.

    Rounds of `earlier` measurements of the same keys count as this one's own, so that an interrupted measurement goes
    on. Hold `exclusive` meanwhile. A graph that does not load or run ends the whole measurement with `LatencyError`.
    """
    if len({graph.key for graph in graphs}) != len(graphs):
        raise LatencyError("two graphs to measure have the same key")
    subjects = [_Subject(graph, _visits_of((earlier or {}).get(graph.key))) for graph in graphs]
    bench = _Bench(device, protocol or Protocol(), open_graph, (clock, cpu_clock), subjects)
    if graphs:
        bench.warm_up()
        bench.go_round(on_round)
    return bench.results()


def _visits_of(known: Measurement | None) -> list[_Visit]:
    rounds = zip(known.rounds_us, known.canary_us, known.cpu_shares, strict=True) if known else ()
    return [_Visit(samples, canary, share, float(np.median(samples))) for samples, canary, share in rounds]


class _Bench:
    """The device with its canary and the graphs on it, for one call of `measure`."""

    def __init__(
        self,
        device: Device,
        protocol: Protocol,
        open_graph: Opener,
        clocks: tuple[Clock, Clock],
        subjects: list[_Subject],
    ) -> None:
        self.device = device
        self.protocol = protocol
        self.open_graph = open_graph
        self.clock, self.cpu_clock = clocks
        self.subjects = subjects
        self.deadline = self.clock() + protocol.budget_s
        self.keep_open = sum(len(subject.graph.model) for subject in subjects) <= protocol.open_bytes
        self.canary = open_graph(Graph("canary", CANARY.read_bytes()), replace(device, batch=1))
        self.readings_us: list[float] = []

    def read_canary(self) -> float:
        """One reading: the median of a few runs after one that is not counted."""
        self.canary()
        with _without_gc():
            reading = float(np.median([self.canary() for _ in range(self.protocol.canary_runs)]))
        self.readings_us.append(reading)
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
            todo = [subject for subject in self.subjects if not self.is_done(subject)]
            order = [todo[index] for index in rng.permutation(len(todo))]
            for start in range(0, len(order), protocol.canary_every):
                if self.clock() >= self.deadline and all(subject.visits for subject in self.subjects):
                    return
                self.visit_block(order[start : start + protocol.canary_every])
            if not todo:
                return
            if on_round is not None:
                on_round(number, most, self.results())

    def visit_block(self, block: list[_Subject]) -> None:
        """Visit a few graphs between two canary readings; the slower reading is charged to each."""
        before = self.read_canary()
        taken = [(subject, self.visit(subject)) for subject in block]
        worst = max(before, self.read_canary())
        for subject, (samples, share) in taken:
            subject.visits.append(_Visit(samples, worst, share, float(np.median(samples))))

    def visit(self, subject: _Subject) -> tuple[tuple[float, ...], float]:
        """Samples of one visit in microseconds, and the share of that time that the calling thread had a processor."""
        protocol = self.protocol
        run = subject.run or self.open_graph(subject.graph, self.device)
        with _without_gc():
            warm = [run()]
            while sum(warm) < protocol.warm_up_ms * 1e3:
                warm.append(run())
            runs = int(np.clip(protocol.visit_ms * 1e3 / min(warm), protocol.min_runs, protocol.max_runs))
            start, cpu_start = self.clock(), self.cpu_clock()
            samples = tuple(run() for _ in range(runs))
            cpu_s, wall_s = self.cpu_clock() - cpu_start, self.clock() - start
        subject.run = run if self.keep_open else None
        return samples, cpu_s / wall_s if wall_s > 0 else 1.0

    @property
    def reference_us(self) -> float:
        """The undisturbed canary: the lower quartile of its readings."""
        return float(np.percentile(self.readings_us, 25))

    def disturbance(self, subject: _Subject) -> list[float]:
        """How disturbed each visit was; up to 1 it counts."""
        reference = self.reference_us
        # Against the graph's own best: a thread that waits for an accelerator is off the processor by its nature.
        best = max((visit.cpu_share for visit in subject.visits), default=0.0) or 1.0
        return [
            max(
                abs(visit.canary_us / reference - 1) / self.protocol.disturbed,
                (1 - visit.cpu_share / best) / self.protocol.preempted,
            )
            for visit in subject.visits
        ]

    def calm(self, subject: _Subject) -> list[_Visit]:
        """The visits that count."""
        levels = self.disturbance(subject)
        return [visit for visit, level in zip(subject.visits, levels, strict=True) if level <= 1]

    def is_done(self, subject: _Subject) -> bool:
        calm = self.calm(subject)
        rejected = len(subject.visits) - len(calm)
        return len(calm) >= self.protocol.max_rounds or rejected >= self.protocol.max_rejected or self.is_precise(calm)

    def is_precise(self, visits: list[_Visit]) -> bool:
        if len(visits) < self.protocol.min_rounds:
            return False
        return median_precision([visit.median_us for visit in visits]) <= self.protocol.target_precision

    def results(self) -> dict[str, Measurement]:
        """What is measured so far, of every graph that was visited."""
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        return {subject.graph.key: self.result(subject, load) for subject in self.subjects if subject.visits}

    def result(self, subject: _Subject, load: float | None) -> Measurement:
        """The calm visits; where these are too few, the least disturbed ones with them."""
        levels = self.disturbance(subject)
        calm = sum(level <= 1 for level in levels)
        # Where too few are calm, up to the level of the least disturbed ones that make the number full.
        limit = max(1.0, sorted(levels)[: self.protocol.min_rounds][-1])
        kept = [visit for visit, level in zip(subject.visits, levels, strict=True) if level <= limit]
        return Measurement(
            key=subject.graph.key,
            rounds_us=tuple(visit.samples_us for visit in kept),
            canary_us=tuple(visit.canary_us for visit in kept),
            cpu_shares=tuple(visit.cpu_share for visit in kept),
            reference_us=self.reference_us,
            rejected_rounds=len(subject.visits) - calm,
            disturbed=len(kept) > calm,
            converged=len(kept) == calm and self.is_precise(kept),
            spinning=SPINNING,
            load_average=load,
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
