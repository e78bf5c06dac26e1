"""Judging a predictor on measured networks that it has not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from latency_tables.predicting.additive import AdditivePredictor
from latency_tables.predicting.blame import ChoiceError, SlotError, choice_errors, slot_errors
from latency_tables.predicting.metrics import Quality, quality
from latency_tables.predicting.predictor import LatencyPredictor
from latency_tables.predicting.select import KINDS, Fit, Selection, select
from latency_tables.predicting.transfer import KnownPredictors, TransferPredictor
from latency_tables.statistic import MEDIAN
from latency_tables.table import LatencyTable
from search_spaces import Codes

F64 = NDArray[np.float64]
Indices = NDArray[np.int64]

COVERAGE = 0.9
CARRIED_FOLDS = 5
# The median distance of two normal numbers, each the mean of half of the samples, in standard deviations of the whole.
HALVES_APART = 1.35


@dataclass(frozen=True, slots=True)
class HeldOut:
    """One network that was kept from the fit, and the interval that should hold 90% of them.

    In milliseconds; energies are in millijoules.
    """

    arch_id: str
    predicted_ms: float
    measured_ms: float
    low_ms: float
    high_ms: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """How well a fit to part of a table predicts the rest, and the predictor fitted to all of it."""

    predictor: LatencyPredictor
    kind: str
    """Of the predictor, chosen by cross-validation."""
    errors: Mapping[str, float]
    """The cross-validated error of each kind, on all networks."""
    quality: Quality
    coverage: float
    """Share of the held-out networks within their 90% intervals."""
    noise_floor: float
    """Of the table's statistic: errors cannot be told apart below it; infinite where it is not known."""
    held_out: tuple[HeldOut, ...]
    slot_errors: tuple[SlotError, ...]
    """The slots that are predicted worst first; none where the networks were too few to cross-validate."""
    choice_errors: tuple[ChoiceError, ...]
    statistic: str = MEDIAN


def judge(
    table: LatencyTable,
    *,
    fraction: float = 0.25,
    seed: int = 0,
    kinds: Mapping[str, Fit] = KINDS,
    statistic: str = MEDIAN,
) -> Judgement:
    """Hold out a share of the networks, select and fit on the rest, compare; then select and fit on all.

    `statistic` is one of `STATISTICS`; networks that it was not measured for are left aside.
    """
    table = table.having(statistic)
    space, codes, measured = table.space, table.codes(), table.values(statistic)
    train, test = _split(table, fraction, seed)
    judged = select(space, codes[train], measured[train], kinds=kinds, seed=seed).predictor
    found = select(space, codes, measured, kinds=kinds, seed=seed)
    forecast = _Forecast.of(judged, codes, test)
    judgement = _judgement(table, statistic, [forecast], len(train), found.predictor, found.kind)
    slots, choices = _blame(table, statistic, found)
    return replace(judgement, errors=found.errors, slot_errors=slots, choice_errors=choices)


def fitted(table: LatencyTable, seed: int = 0, statistic: str = MEDIAN) -> LatencyPredictor:
    """The predictor that `judge` fits to the whole table, without judging it."""
    table = table.having(statistic)
    return select(table.space, table.codes(), table.values(statistic), seed=seed).predictor


def judge_carried(table: LatencyTable, known: KnownPredictors, *, seed: int = 0, statistic: str = MEDIAN) -> Judgement:
    """The same of a predictor that is carried over from known devices, whose predictors are of the same statistic.

    It is fitted to few networks, so each of them is held out once: a fifth at a time is predicted by a fit to the rest.
    """
    table = table.having(statistic)
    codes, measured = table.codes(), table.values(statistic)
    by_id = np.argsort([entry.arch.id for entry in table.entries])
    folds = np.array_split(np.random.default_rng(seed).permutation(by_id), min(CARRIED_FOLDS, len(by_id)))
    forecasts = []
    for test in folds:
        train = np.setdiff1d(by_id, test)
        forecasts.append(_Forecast.of(TransferPredictor.fit(known, codes[train], measured[train]), codes, test))
    fewest = len(by_id) - max(map(len, folds))
    return _judgement(table, statistic, forecasts, fewest, TransferPredictor.fit(known, codes, measured), "transfer")


def _split(table: LatencyTable, fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Networks to fit to and networks to hold out, as indices.

    The same networks and seed give the same split, in whatever order they were measured. The smallest and the largest
    are never held out: a predictor should not be asked to extrapolate.
    """
    ids = [entry.arch.id for entry in table.entries]
    ends = {table.space.smallest().id, table.space.largest().id}
    free = sorted((i for i, name in enumerate(ids) if name not in ends), key=lambda i: ids[i])
    n_test = min(len(free), max(1, round(fraction * len(ids))))
    test = np.sort(np.random.default_rng(seed).permutation(free)[:n_test])
    return np.setdiff1d(np.arange(len(ids)), test), test


@dataclass(frozen=True, slots=True, eq=False)
class _Forecast:
    """What a predictor says of networks that it has not seen: indices into the table, milliseconds."""

    test: Indices
    predicted: F64
    low: F64
    high: F64

    @staticmethod
    def of(predictor: LatencyPredictor, codes: Codes, test: Indices) -> _Forecast:
        return _Forecast(test, predictor.predict(codes[test]), *predictor.interval(codes[test], COVERAGE))


def _judgement(
    table: LatencyTable,
    statistic: str,
    forecasts: Sequence[_Forecast],
    n_train: int,
    final: LatencyPredictor,
    kind: str,
) -> Judgement:
    """What the forecasts, from fits to `n_train` networks, are worth."""
    test, predicted, low, high = (
        np.concatenate([getattr(each, part.name) for each in forecasts]) for part in fields(_Forecast)
    )
    measured = table.values(statistic)[test]
    reached = quality(predicted, measured, n_train)
    return Judgement(
        predictor=final,
        kind=kind,
        errors={kind: reached.mape},
        quality=reached,
        coverage=float(np.mean((low <= measured) & (measured <= high))),
        noise_floor=table.noise_floor_of(statistic),
        held_out=tuple(
            HeldOut(table.entries[i].arch.id, *map(float, numbers))
            for i, *numbers in zip(test, predicted, measured, low, high, strict=True)
        ),
        slot_errors=(),
        choice_errors=(),
        statistic=statistic,
    )


def _blame(
    table: LatencyTable, statistic: str, found: Selection
) -> tuple[tuple[SlotError, ...], tuple[ChoiceError, ...]]:
    """What the errors on networks left out in cross-validation go with."""
    if not len(found.left_out):
        return (), ()
    codes, measured, floor = table.codes(), table.values(statistic), table.noise_floor_of(statistic)
    errors = found.left_out_ms / measured[found.left_out] - 1
    noise = floor / HALVES_APART if np.isfinite(floor) else 0.0
    additive = AdditivePredictor.fit(table.space, codes, measured)
    return (
        slot_errors(additive, codes[found.left_out], errors, noise),
        choice_errors(table.space, codes[found.left_out], errors),
    )
