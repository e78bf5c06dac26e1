"""Two ways of doing one thing, timed in turn in one process: times and their ratio, with spread."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

Side = Callable[[], object]
Clock = Callable[[], float]
MIN_REPETITIONS = 15


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median and quartiles of what one side takes in units of the other, over neighbouring repetitions.

    `fastest` is the ratio of the two shortest times, which a busy machine disturbs least.
    """

    median: float
    low: float
    high: float
    fastest: float

    @staticmethod
    def of(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
        # Neighbours in time see the same disturbances: their ratio is steadier than the ratio of medians.
        ratios = np.array(numerators) / np.array(denominators)
        low, middle, high = np.percentile(ratios, (25, 50, 75))
        return Ratio(float(middle), float(low), float(high), min(numerators) / min(denominators))

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f}-{self.high:.3f}, fastest {self.fastest:.3f})"


def in_turn(
    sides: Mapping[str, Side], repetitions: int, clock: Clock = time.perf_counter, min_ms: float = 20.0
) -> dict[str, list[float]]:
    """Milliseconds a call of each side, one entry a repetition; every repetition runs all sides, in alternating order.

    A side shorter than `min_ms` is called several times in a repetition, after one call that does not count.
    """
    calls = {}
    for name, side in sides.items():
        side()
        calls[name] = max(1, round(min_ms / max(_milliseconds(side, 1, clock), 1e-3)))
    times: dict[str, list[float]] = {name: [] for name in sides}
    for repetition in range(repetitions):
        for name in list(sides)[:: 1 if repetition % 2 == 0 else -1]:
            times[name].append(_milliseconds(sides[name], calls[name], clock))
    return times


def _milliseconds(side: Side, calls: int, clock: Clock) -> float:
    start = clock()
    for _ in range(calls):
        side()
    return (clock() - start) * 1000 / calls


def over_archs(ratios: Sequence[Ratio]) -> Ratio:
    """The median over architectures, of every figure."""
    return Ratio(*(median(getattr(ratio, name) for ratio in ratios) for name in Ratio.__slots__))


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, to see that it runs")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--repetitions", type=int, default=MIN_REPETITIONS)
    parser.add_argument(
        "--cpu-time",
        dest="clock",
        action="store_const",
        const=time.process_time,
        default=time.perf_counter,
        help="count processor time, not wall time: for a busy machine, with --threads 1",
    )
    return parser


def print_result(name: str, result: Mapping[str, object]) -> None:
    """The last line of a benchmark: all of it as JSON."""
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    print(json.dumps({"benchmark": name, **result, "machine": machine}))
