"""Predictors of new devices, carried over from predictors of known ones.

Notation: m measured architectures, d known devices, k features.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from latency_tables.errors import LatencyError
from latency_tables.predicting.carry import (
    MIN_SAMPLES,
    MOST_CANDIDATES,
    QUANTILES,
    Carried,
    as_latencies,
    carry,
    check_count,
)
from latency_tables.predicting.documents import PREDICTOR_FORMAT, array, as_array, field, space_of, write_document
from latency_tables.predicting.features import slot_features
from latency_tables.predicting.kernels import F64, Posterior, Rows, design
from latency_tables.predicting.known import MIN_DEVICES, KnownDevices, middle_and_spread, thinned
from search_spaces import Codes, Space, SpaceError, slot_sizes, slot_values

# Architectures on which known devices are compared.
MOST_COMPARED = 1000
# What a divisor in a file is at least.
SMALLEST = 1e-9

Json = Any


class Known(Protocol):
    """What is asked of the predictor of a known device."""

    @property
    def space(self) -> Space: ...

    def predict(self, codes: Codes) -> F64: ...

    def interval(self, codes: Codes, coverage: float) -> tuple[F64, F64]: ...

    def to_json(self) -> dict[str, Json]: ...


@dataclass(frozen=True, slots=True, eq=False)
class KnownPredictors:
    """Predictors of known devices over one space, and the scales on which they and the layer features are compared."""

    space: Space
    predictors: tuple[Known, ...]
    middle_d: F64
    spread_d: F64
    tables: tuple[F64, ...]
    """For each slot the features of its configurations, `(configurations, k)`; sums over slots are about 0."""

    def __post_init__(self) -> None:
        _check_known(self.space, self.predictors)

    @staticmethod
    def of(space: Space, predictors: Sequence[Known]) -> KnownPredictors:
        """Compare predictors, all fitted over `space`, on architectures drawn from it."""
        _check_known(space, predictors)
        codes = _compared(space)
        log_ms_nd = np.log(np.stack([predictor.predict(codes) for predictor in predictors], axis=1))
        middle, spread = middle_and_spread(log_ms_nd)
        raw = slot_features(space)
        sums = _looked_up(space, raw, codes)
        scale = np.where(sums.std(axis=0) > 0, sums.std(axis=0), 1.0)
        tables = tuple((table - sums.mean(axis=0) / len(raw)) / scale for table in raw)
        return KnownPredictors(space, tuple(predictors), middle, spread, tables)

    @staticmethod
    def from_json(document: dict[str, Json], parse: Callable[[Json], Known]) -> KnownPredictors:
        """From the document of a `TransferPredictor`."""
        space, documents = space_of(document), field(document, "known")
        if not isinstance(documents, list):
            raise LatencyError("known: wanted a list of predictors")
        predictors = []
        for i, one in enumerate(documents):
            try:
                predictors.append(parse(one))
            except LatencyError as error:
                raise LatencyError(f"known[{i}]: {error}") from error
        _check_known(space, predictors)
        scales = (array(document, "middle", (len(documents),)), array(document, "spread", (len(documents),), SMALLEST))
        return KnownPredictors(space, tuple(predictors), *scales, _tables(document, space))

    @property
    def usual_spread(self) -> float:
        return float(np.median(self.spread_d))

    def rows(self, codes: Codes) -> Rows:
        """The architectures as the known devices and the features show them."""
        log_ms_nd = np.log(np.stack([predictor.predict(codes) for predictor in self.predictors], axis=1))
        shared = (log_ms_nd - self.middle_d) / self.spread_d
        return Rows(shared, np.zeros_like(shared), _looked_up(self.space, self.tables, codes))

    def devices(self, codes: Codes) -> KnownDevices:
        """The known devices over these architectures, with latencies as uncertain as their predictors say they are."""
        rng = np.random.default_rng(0)
        noisy = []
        for predictor in self.predictors:
            # The share of a normal distribution that lies within one standard deviation.
            low, high = predictor.interval(codes, 0.6827)
            noisy.append(np.log(predictor.predict(codes)) + rng.standard_normal(len(codes)) * np.log(high / low) / 2)
        return KnownDevices(self.rows(codes), np.stack(noisy, axis=1), self.spread_d)

    def choose(self, candidates: Codes, n: int, measured: Codes | None = None) -> Codes:
        """The `n` of the candidates to measure next on a new device, best first; see the function `choose`."""
        candidates = np.unique(self.space.canonical(candidates), axis=0)
        done = candidates[:0] if measured is None else self.space.canonical(measured)
        free = np.flatnonzero(~(candidates[:, None] == done[None]).all(axis=2).any(axis=1))
        check_count(n, len(free))
        pool = candidates[thinned(free, max(n, MOST_CANDIDATES))]
        chosen: Codes = pool[design(self.rows(pool), n, self.rows(done))]
        return chosen


@dataclass(frozen=True, slots=True, eq=False)
class TransferPredictor:
    """Latencies of a new device over a space, carried over from the predictors of known devices."""

    known: KnownPredictors
    codes: Codes
    """The sampled architectures."""
    carried: Carried

    @staticmethod
    def fit(known: KnownPredictors, codes: Codes, latency_ms: F64) -> TransferPredictor:
        """Fit to the architectures measured on the new device, `(m, choices)`, and their latencies, `(m,)`."""
        codes = known.space.canonical(codes)
        y = as_latencies(latency_ms, len(codes))
        devices = known.devices(np.concatenate([codes, _compared(known.space)]))
        return TransferPredictor(known, codes, carry(devices, np.arange(len(codes)), y))

    @property
    def space(self) -> Space:
        return self.known.space

    def predict(self, codes: Codes) -> F64:
        return self.carried.predict(self.known.rows(codes))

    def interval(self, codes: Codes, coverage: float) -> tuple[F64, F64]:
        return self.carried.interval(self.known.rows(codes), coverage)

    def upper(self, codes: Codes, probability: float) -> F64:
        return self.carried.upper(self.known.rows(codes), probability)

    def to_json(self) -> dict[str, Json]:
        posterior = self.carried.posterior
        return {
            "format": PREDICTOR_FORMAT,
            "kind": "transfer",
            "space": self.space.to_json(),
            "known": [predictor.to_json() for predictor in self.known.predictors],
            "middle": self.known.middle_d.tolist(),
            "spread": self.known.spread_d.tolist(),
            "tables": [table.tolist() for table in self.known.tables],
            "codes": self.codes.tolist(),
            "log_ms": posterior.log_ms_m.tolist(),
            "doubt": posterior.doubt_m.tolist(),
            "settings": posterior.settings_t4.tolist(),
            "shares": posterior.shares_t.tolist(),
            "scores": self.carried.scores.tolist(),
        }

    @staticmethod
    def from_json(document: dict[str, Json], parse: Callable[[Json], Known]) -> TransferPredictor:
        """Read what `to_json` wrote; `parse` reads the known predictors; `LatencyError` names the field that is wrong."""
        known = KnownPredictors.from_json(document, parse)
        codes = _codes(document, known.space)
        settings = array(document, "settings", (None, 4), SMALLEST)
        posterior = Posterior.given(
            known.rows(codes),
            array(document, "log_ms", (len(codes),)),
            array(document, "doubt", (len(codes),), low=0.0),
            known.usual_spread,
            settings,
            array(document, "shares", (len(settings),), low=0.0),
        )
        return TransferPredictor(known, codes, Carried(posterior, array(document, "scores", (QUANTILES,))))

    def save(self, path: str | os.PathLike[str]) -> None:
        write_document(path, self.to_json())


def _check_known(space: Space, predictors: Sequence[Known]) -> None:
    if len(predictors) < MIN_DEVICES:
        raise LatencyError(f"known: wanted predictors of {MIN_DEVICES} or more devices, got {len(predictors)}")
    for i, predictor in enumerate(predictors):
        if predictor.space != space:
            raise LatencyError(f"known[{i}]: space: wanted {space.id}, found {predictor.space.id}")


def _tables(document: dict[str, Json], space: Space) -> tuple[F64, ...]:
    """The features of the slots' configurations."""
    lists, sizes = field(document, "tables"), slot_sizes(space)
    if not isinstance(lists, list) or len(lists) != len(sizes):
        raise LatencyError(f"tables: wanted a list of features for each of {len(sizes)} slots")
    tables = [
        as_array(table, f"tables[{i}]", (size, None)) for i, (table, size) in enumerate(zip(lists, sizes, strict=True))
    ]
    if len({table.shape[1] for table in tables}) != 1:
        raise LatencyError("tables: wanted equally many features for each slot")
    return tuple(tables)


def _codes(document: dict[str, Json], space: Space) -> Codes:
    numbers = array(document, "codes", (None, len(space.choices)), low=0.0)
    if len(numbers) < MIN_SAMPLES:
        raise LatencyError(f"codes: wanted {MIN_SAMPLES} or more architectures, found {len(numbers)}")
    codes = numbers.astype(np.int16)
    try:
        if (codes == numbers).all() and (space.canonical(codes) == codes).all():
            return codes
    except SpaceError as error:
        raise LatencyError(f"codes: {error}") from error
    raise LatencyError("codes: wanted canonical architectures of the space")


def _compared(space: Space) -> Codes:
    ends = space.encode([space.smallest(), space.largest()])
    drawn: Codes = np.concatenate([ends, space.sample(np.random.default_rng(0), MOST_COMPARED)])
    return drawn


def _looked_up(space: Space, tables: tuple[F64, ...], codes: Codes) -> F64:
    total: F64 = slot_values(space, tables, codes).sum(axis=1)
    return total
