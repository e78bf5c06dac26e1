"""How good predictions are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latency_tables.errors import LatencyError

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Quality:
    """Predictions against measurements of networks that the predictor has not seen."""

    mape: float
    """Mean of |predicted / measured - 1|. Lower is better."""
    within_5: float
    """Share of predictions less than 5% off. Higher is better."""
    within_10: float
    spearman: float
    """Rank correlation: whether faster networks are predicted faster. Higher is better; NaN if all are equal."""
    n_train: int
    n_test: int


def mape(predicted: F64, measured: F64) -> float:
    """Mean absolute error relative to the measured value. Lower is better."""
    return float(np.mean(_relative(predicted, measured)))


def within(predicted: F64, measured: F64, tolerance: float) -> float:
    """Share of predictions at most `tolerance` off, relative to the measured value. Higher is better."""
    return float(np.mean(_relative(predicted, measured) <= tolerance))


def spearman(a: F64, b: F64) -> float:
    """Spearman's rank correlation, ties averaged; NaN if either side is constant."""
    ranks_a, ranks_b = _ranks(a), _ranks(b)
    ranks_a -= ranks_a.mean()
    ranks_b -= ranks_b.mean()
    norm = np.sqrt((ranks_a @ ranks_a) * (ranks_b @ ranks_b))
    return float(ranks_a @ ranks_b / norm) if norm > 0 else float("nan")


def quality(predicted: F64, measured: F64, n_train: int) -> Quality:
    return Quality(
        mape=mape(predicted, measured),
        within_5=within(predicted, measured, 0.05),
        within_10=within(predicted, measured, 0.10),
        spearman=spearman(predicted, measured),
        n_train=n_train,
        n_test=len(measured),
    )


def _relative(predicted: F64, measured: F64) -> F64:
    if predicted.shape != measured.shape or not len(measured):
        raise LatencyError(f"wanted as many predictions as measurements, got {predicted.shape} and {measured.shape}")
    relative: F64 = np.abs(predicted / measured - 1)
    return relative


def _ranks(values: F64) -> F64:
    """Ranks from 1; equal values share the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    ranks: F64 = (last - (count - 1) / 2)[place].astype(np.float64)
    return ranks
