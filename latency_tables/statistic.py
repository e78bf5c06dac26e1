"""Statistics of a measurement: the numbers that a table has of each network, and predictors are fitted to."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from latency_tables.measuring.measurement import Measurement

MEDIAN = "latency_ms"

STATISTICS: dict[str, Callable[[Measurement], float | None]] = {
    MEDIAN: lambda measured: measured.median_us / 1e3,
    "latency_mean_ms": lambda measured: measured.mean_us / 1e3,
    "latency_p90_ms": lambda measured: measured.p90_us / 1e3,
    "latency_p95_ms": lambda measured: measured.p95_us / 1e3,
    "latency_p99_ms": lambda measured: measured.p99_us / 1e3,
    "energy_mj": lambda measured: None if measured.energy is None else measured.energy.joules * 1e3,
}
"""Of one inference, batch included. Positive, and lower is better; None where it was not measured."""


def noise_floor(measured: Measurement, statistic: str = MEDIAN) -> float:
    """How far a statistic of the even and of the odd rounds lie apart, relative: no prediction can be judged finer.

    Infinite where there are no halves to compare: for a single round, and for energy, which is measured at one go.
    """
    of, kept = STATISTICS[statistic], measured.kept
    whole = of(measured)
    if whole is None or len(kept) < 2:
        return math.inf
    parts = (kept[0::2], kept[1::2])
    even, odd = (
        of(replace(measured, rounds=part, reasons=("",) * len(part), counts=(True,) * len(part), energy=None))
        for part in parts
    )
    return math.inf if even is None or odd is None else abs(even - odd) / whole
