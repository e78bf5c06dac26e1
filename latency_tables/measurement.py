"""What was measured of one graph on one device: raw samples, their summary and the conditions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_tables.errors import LatencyError

Json = Any

CONFIDENCE = 0.95
PLAIN = {"key": str, "rejected_rounds": int, "disturbed": bool, "converged": bool, "spinning": bool}


@dataclass(frozen=True, slots=True)
class Measurement:
    """Wall times of single inferences, batch included. Lower is better.

    `rounds_us` holds the samples of every round that was kept, in the order taken. Beside each round stand the slower
    of the two canary readings around it, and the share of its time that the calling thread had a processor.
    """

    key: str
    rounds_us: tuple[tuple[float, ...], ...]
    canary_us: tuple[float, ...]
    cpu_shares: tuple[float, ...]
    reference_us: float
    """The undisturbed canary, as far as this measurement saw it."""
    rejected_rounds: int
    disturbed: bool
    """Too few rounds were undisturbed, so that the least disturbed ones were kept beside them."""
    converged: bool
    """The interval of the median is as narrow as the protocol asked for."""
    spinning: bool
    """Idle worker threads kept spinning between inferences."""
    load_average: float | None = None
    """Over the last minute, at the end; None where the system does not tell."""

    def __post_init__(self) -> None:
        if not self.rounds_us or not all(self.rounds_us):
            raise LatencyError(f"measurement {self.key}: every one of at least one round needs a sample")
        if not len(self.canary_us) == len(self.cpu_shares) == len(self.rounds_us):
            raise LatencyError(f"measurement {self.key}: canary_us and cpu_shares must have one value for each round")
        times = (self.reference_us, *self.canary_us, *(sample for samples in self.rounds_us for sample in samples))
        bad = next((time for time in times if not (math.isfinite(time) and time > 0)), None)
        if bad is not None:
            raise LatencyError(f"measurement {self.key}: a time must be a positive number of microseconds, not {bad}")
        if not all(math.isfinite(share) and share >= 0 for share in self.cpu_shares):
            raise LatencyError(f"measurement {self.key}: a share of time must be a number from 0")

    @property
    def samples_us(self) -> NDArray[np.float64]:
        return np.array([sample for samples in self.rounds_us for sample in samples])

    @property
    def runs(self) -> int:
        return sum(map(len, self.rounds_us))

    @property
    def median_us(self) -> float:
        return float(np.median(self.samples_us))

    @property
    def mean_us(self) -> float:
        return float(np.mean(self.samples_us))

    @property
    def stdev_us(self) -> float:
        return float(np.std(self.samples_us))

    @property
    def min_us(self) -> float:
        return float(np.min(self.samples_us))

    @property
    def p90_us(self) -> float:
        return float(np.percentile(self.samples_us, 90))

    @property
    def p95_us(self) -> float:
        return float(np.percentile(self.samples_us, 95))

    @property
    def p99_us(self) -> float:
        return float(np.percentile(self.samples_us, 99))

    @property
    def noise_floor(self) -> float:
        """How far the medians of the even and the odd rounds lie apart, relative: no prediction can be judged finer.

        Infinite for a single round.
        """
        if len(self.rounds_us) < 2:
            return math.inf
        even, odd = (float(np.median(np.concatenate(self.rounds_us[start::2]))) for start in (0, 1))
        return abs(even - odd) / self.median_us

    @property
    def precision(self) -> float:
        """Half the width of the 95% interval of the median, relative to it; infinite for a single round."""
        return median_precision([float(np.median(samples)) for samples in self.rounds_us])

    def to_json(self) -> dict[str, Json]:
        return {part.name: getattr(self, part.name) for part in fields(self)}

    @staticmethod
    def from_json(document: Mapping[str, Json]) -> Measurement:
        """Read what `to_json` wrote; `LatencyError` names what is wrong."""
        names = [part.name for part in fields(Measurement)]
        if not isinstance(document, Mapping) or sorted(document) != sorted(names):
            raise LatencyError(f"a measurement is an object with the fields {', '.join(names)}")
        found = dict(document)
        try:
            for name, kind in PLAIN.items():
                if type(found[name]) is not kind:
                    raise TypeError(f"{name} must be {kind.__name__}, not {found[name]!r}")
            found["rounds_us"] = tuple(tuple(map(_number, samples)) for samples in found["rounds_us"])
            found["canary_us"] = tuple(map(_number, found["canary_us"]))
            found["cpu_shares"] = tuple(map(_number, found["cpu_shares"]))
            found["reference_us"] = _number(found["reference_us"])
            return Measurement(**found)
        except TypeError as error:
            raise LatencyError(f"measurement {found['key']}: {error}") from error


def median_precision(medians_us: list[float]) -> float:
    """Half the width of the interval of the median of round medians, relative to it; infinite for fewer than two.

    From order statistics, so without assuming a distribution. Rounds count as independent, the samples of one round do
    not: they share the state of the machine. Below six rounds the interval is their whole range, of less than 95%.
    """
    ordered = sorted(medians_us)
    if len(ordered) < 2:
        return math.inf
    rank = _rank(len(ordered))
    return (ordered[-1 - rank] - ordered[rank]) / 2 / float(np.median(ordered))


@lru_cache(maxsize=4096)
def _rank(n: int) -> int:
    """How many of n values to drop on each side for the interval of the median (binomial with probability one half)."""
    rank, below = 0, 1 + n
    while below / 2**n <= (1 - CONFIDENCE) / 2:
        rank += 1
        below += math.comb(n, rank + 1)
    return rank


def _number(value: Json) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"wanted a number, not {value!r}")
    return float(value)
