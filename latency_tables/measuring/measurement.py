"""What was measured of one ONNX graph on one device: raw samples of every round, its conditions, and their summary."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_tables.errors import LatencyError
from latency_tables.measuring.energy import Energy
from latency_tables.measuring.footprint import Footprint

Json = Any

UNIT = "us"
CONFIDENCE = 0.95
ENDED = ("precision", "rounds", "rejected", "budget", "interrupted")


@dataclass(frozen=True, slots=True)
class Round:
    """One visit to a graph: wall times of single inferences, batch included, and the conditions. None: not told."""

    samples_us: tuple[float, ...]
    canary_us: float
    """The slower of the two canary readings around it."""
    cpu_share: float
    """Share of the time that the calling thread had a processor."""
    waiting: float | None = None
    """Largest share of the time that one worker thread was ready to run and had no processor."""
    steal: float | None = None
    """Largest share of the time that the hypervisor kept one of our cores to itself."""
    pressure: float | None = None
    """Share of the time that some task of the whole system waited for a processor."""
    frequency_mhz: float | None = None
    temperature_c: float | None = None
    neighbour: float | None = None
    """Share of the time that the busiest core beside ours worked; None for a graph that does not feel it."""

    def __post_init__(self) -> None:
        if not self.samples_us:
            raise LatencyError("every round needs a sample")
        for time in (self.canary_us, *self.samples_us):
            if not (math.isfinite(time) and time > 0):
                raise LatencyError(f"a time must be a positive number of microseconds, not {time}")
        for name in ("cpu_share", "waiting", "steal", "pressure", "neighbour"):
            share = getattr(self, name)
            if share is not None and not (math.isfinite(share) and share >= 0):
                raise LatencyError(f"{name}: a share of time must be a number from 0, not {share}")

    @property
    def median_us(self) -> float:
        return median(self.samples_us)


# A measurement's file has one list for each of these, one value a round: shorter than one object a round.
COLUMNS = tuple(part.name for part in fields(Round))


@dataclass(frozen=True, slots=True)
class Measurement:
    """Wall times of single inferences in `UNIT`, batch included. Lower is better.

    `rounds` holds all rounds in the order taken. The summary is that of the rounds that count; `reasons` says for each
    round what disturbed it, and is empty for a calm one.
    """

    key: str
    rounds: tuple[Round, ...]
    reasons: tuple[str, ...]
    counts: tuple[bool, ...]
    """Calm rounds count. Where they are too few, the least disturbed others count as well."""
    reference_us: float
    """The undisturbed canary, as far as this measurement saw it."""
    ended: str
    """What ended it: the asked precision, the most rounds, too many rejected ones, the budget, or an interruption."""
    spinning: bool
    """Idle worker threads kept spinning between inferences."""
    cores: tuple[int, ...] = ()
    """Processor cores that the threads were bound to; empty where the system does not let us."""
    priority: str = ""
    """Of the threads: `realtime 1`, or `nice` and a number of which lower is higher; empty where the system has neither."""
    load_average: float | None = None
    """Over the last minute, at the end; None where the system does not tell."""
    footprint: Footprint | None = None
    energy: Energy | None = None

    def __post_init__(self) -> None:
        if not len(self.reasons) == len(self.counts) == len(self.rounds):
            raise LatencyError(f"measurement {self.key}: reasons and counts must have one value for each round")
        if not any(self.counts):
            raise LatencyError(f"measurement {self.key}: at least one round must count")
        if not (math.isfinite(self.reference_us) and self.reference_us > 0):
            raise LatencyError(f"measurement {self.key}: reference_us must be positive, not {self.reference_us}")
        if self.ended not in ENDED:
            raise LatencyError(f"measurement {self.key}: ended must be one of {', '.join(ENDED)}, not {self.ended!r}")

    @property
    def kept(self) -> tuple[Round, ...]:
        """The rounds that count."""
        return tuple(round_ for round_, counts in zip(self.rounds, self.counts, strict=True) if counts)

    @property
    def samples_us(self) -> NDArray[np.float64]:
        return np.array([sample for round_ in self.kept for sample in round_.samples_us])

    @property
    def converged(self) -> bool:
        """The interval of the median is as narrow as was asked for."""
        return self.ended == "precision"

    @property
    def disturbed(self) -> bool:
        """Too few rounds were calm, so that the least disturbed ones count as well."""
        return any(counts and reason for counts, reason in zip(self.counts, self.reasons, strict=True))

    @property
    def rejected(self) -> dict[str, int]:
        """How many rounds were disturbed, by reason."""
        return dict(sorted(Counter(filter(None, self.reasons)).items()))

    @property
    def rejected_rounds(self) -> int:
        return sum(self.rejected.values())

    @property
    def runs(self) -> int:
        return sum(len(round_.samples_us) for round_ in self.kept)

    @property
    def median_us(self) -> float:
        return float(np.median(self.samples_us))

    def corrected_us(self, reference_us: float | None = None) -> float:
        """The median with the machine's drift divided out: as if the canary had always taken `reference_us`."""
        reference = self.reference_us if reference_us is None else reference_us
        relative = [np.asarray(round_.samples_us) / round_.canary_us for round_ in self.kept]
        return float(np.median(np.concatenate(relative))) * reference

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
        kept = [round_.samples_us for round_ in self.kept]
        if len(kept) < 2:
            return math.inf
        even, odd = (float(np.median(np.concatenate(kept[start::2]))) for start in (0, 1))
        return abs(even - odd) / self.median_us

    @property
    def precision(self) -> float:
        """Half the width of the 95% interval of the median, relative to it; infinite for a single round."""
        return median_precision([round_.median_us for round_ in self.kept])

    def summary(self) -> dict[str, Json]:
        """What a report shows, as JSON: times in `unit`, how exact, and what disturbed it."""
        times = {name: getattr(self, f"{name}_us") for name in ("mean", "stdev", "min", "p90", "p95", "p99")}
        return {
            "unit": UNIT,
            "count": self.runs,
            "p50": self.median_us,
            "corrected": self.corrected_us(),
            **times,
            "precision": _finite(self.precision),
            "noise_floor": _finite(self.noise_floor),
            "rounds": len(self.kept),
            "rejected": self.rejected,
            "disturbed": self.disturbed,
            "ended": self.ended,
            "footprint": self.footprint and self.footprint.to_json(),
            "energy": self.energy and self.energy.to_json(),
        }

    def to_json(self) -> dict[str, Json]:
        return self.since(0)

    def since(self, start: int) -> dict[str, Json]:
        """As `to_json`, without what is known of the first `start` rounds; `from_json` joins it to them."""
        plain = {part.name: getattr(self, part.name) for part in fields(Measurement) if part.name != "rounds"}
        columns = {name: [getattr(round_, name) for round_ in self.rounds[start:]] for name in COLUMNS}
        parts = {"footprint": self.footprint, "energy": self.energy}
        return {
            **plain,
            **{name: part and part.to_json() for name, part in parts.items()},
            "counts": [int(counts) for counts in self.counts],
            "rounds": {name: values for name, values in columns.items() if any(v is not None for v in values)},
        }

    @staticmethod
    def from_json(document: Json, earlier: tuple[Round, ...] = ()) -> Measurement:
        """Read what `to_json` wrote, or `since` after the `earlier` rounds; `LatencyError` names what is wrong."""
        names = [part.name for part in fields(Measurement)]
        if not isinstance(document, Mapping) or sorted(document) != sorted(names):
            raise LatencyError(f"a measurement is an object with the fields {', '.join(names)}")
        try:
            found = {name: READERS[name](document[name]) for name in names}
        except (LatencyError, TypeError) as error:
            raise LatencyError(f"measurement {document['key']}: {error}") from error
        return Measurement(**{**found, "rounds": earlier + found["rounds"]})


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


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: Json) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"wanted a number, not {value!r}")
    return float(value)


def _maybe(value: Json) -> float | None:
    return None if value is None else _number(value)


def _plain(kind: type) -> Any:
    """Reads a value that has to be of one type."""

    def read(value: Json) -> Json:
        if type(value) is not kind:
            raise TypeError(f"wanted {kind.__name__}, not {value!r}")
        return value

    return read


def _each(kind: type) -> Any:
    """Reads a list whose values are of one type."""
    read = _plain(kind)
    return lambda values: tuple(map(read, _plain(list)(values)))


def _rounds(columns: Json) -> tuple[Round, ...]:
    """Rounds from one list for each field; the lists of what the system does not tell are left out."""
    if not isinstance(columns, Mapping) or not set(columns) <= set(COLUMNS):
        raise TypeError(f"rounds: wanted an object with lists of {', '.join(COLUMNS)}")
    if not columns:
        return ()
    readers: dict[str, Any] = {"samples_us": lambda samples: tuple(map(_number, _plain(list)(samples)))}
    read: dict[str, Iterable[Any]] = {
        name: [readers.get(name, _maybe)(value) for value in _plain(list)(values)] for name, values in columns.items()
    }
    if len({len(list(values)) for values in read.values()}) != 1:
        raise TypeError("rounds: the lists must have one value for each round")
    return tuple(Round(**dict(zip(read, values, strict=True))) for values in zip(*read.values(), strict=True))


READERS: dict[str, Any] = {
    "key": _plain(str),
    "rounds": _rounds,
    "reasons": _each(str),
    "counts": lambda values: tuple(map(bool, _each(int)(values))),
    "reference_us": _number,
    "ended": _plain(str),
    "spinning": _plain(bool),
    "cores": _each(int),
    "priority": _plain(str),
    "load_average": _maybe,
    "footprint": lambda value: None if value is None else Footprint.from_json(value),
    "energy": lambda value: None if value is None else Energy.from_json(value),
}
