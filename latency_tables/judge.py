"""Judging a predictor on measured networks that it has not seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latency_tables.metrics import Quality, quality
from latency_tables.predictor import AdditivePredictor, LatencyPredictor
from latency_tables.table import LatencyTable
from search_spaces import Codes, Space

Fit = Callable[[Space, Codes, NDArray[np.float64]], LatencyPredictor]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """One network that was kept from the fit."""

    arch_id: str
    predicted_ms: float
    measured_ms: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """How well a fit to part of a table predicts the rest, and the predictor fitted to all of it."""

    predictor: LatencyPredictor
    quality: Quality
    held_out: tuple[HeldOut, ...]


def judge(table: LatencyTable, *, fraction: float = 0.25, seed: int = 0, fit: Fit = AdditivePredictor.fit) -> Judgement:
    """Hold out a share of the networks, fit to the rest, compare; then fit to all.

    The same networks and seed give the same split, in whatever order they were measured. The smallest and the largest
    are never held out: a predictor should not be asked to extrapolate.
    """
    space, codes, measured = table.space, table.codes(), table.latency_ms()
    ids = [entry.arch.id for entry in table.entries]
    ends = {space.smallest().id, space.largest().id}
    free = sorted((i for i, name in enumerate(ids) if name not in ends), key=lambda i: ids[i])
    n_test = min(len(free), max(1, round(fraction * len(ids))))
    test = np.sort(np.random.default_rng(seed).permutation(free)[:n_test])
    train = np.setdiff1d(np.arange(len(ids)), test)
    predicted = fit(space, codes[train], measured[train]).predict(codes[test])
    return Judgement(
        predictor=fit(space, codes, measured),
        quality=quality(predicted, measured[test], len(train)),
        held_out=tuple(
            HeldOut(ids[i], float(guess), float(measured[i])) for i, guess in zip(test, predicted, strict=True)
        ),
    )
