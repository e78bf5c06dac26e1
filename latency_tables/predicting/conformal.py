"""Conformal intervals: how far measurements lie from predictions, learned from networks that the fit had not seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_tables.errors import LatencyError
from latency_tables.predicting.documents import array

F64 = NDArray[np.float64]
Json = Any

# No latency is nothing: what no prediction and no bound is below.
FLOOR_MS = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Conformal:
    """Scores `measured / predicted - 1` of networks that were left out of the fit, ascending.

    Bounds are quantiles of the scores (Lei et al., "Distribution-Free Predictive Inference for Regression", JASA 2018,
    section 2), and these come from leave-one-out or cross-validation (Barber et al., "Predictive inference with the
    jackknife+", Annals of Statistics 2021). The rank `(n + 1) coverage` is interpolated: rounded up, as the
    papers do, 20 scores would promise 90% and hold 95%. The most that n scores can promise is n / (n + 1); no scores
    can promise nothing.
    """

    scores: F64

    def __post_init__(self) -> None:
        if (np.diff(self.scores) < 0).any():
            raise LatencyError("scores: wanted numbers in ascending order")

    @staticmethod
    def of(predicted: F64, measured: F64) -> Conformal:
        """From networks that were left out, `(n,)` each."""
        return Conformal(np.sort(measured / predicted - 1))

    @staticmethod
    def from_json(document: dict[str, Json]) -> Conformal:
        """From the `scores` of a predictor's document."""
        return Conformal(array(document, "scores", (None,)))

    def interval(self, predicted: F64, coverage: float) -> tuple[F64, F64]:
        """Bounds in milliseconds, `(n,)` each, as far below the prediction as above it."""
        off = _quantile(np.sort(np.abs(self.scores)), "coverage", coverage)
        return np.maximum(predicted * (1 - off), FLOOR_MS), predicted * (1 + off)

    def upper(self, predicted: F64, probability: float) -> F64:
        """Milliseconds, `(n,)`, that a measurement stays below with this probability."""
        off = _quantile(self.scores, "probability", probability)
        bound: F64 = np.maximum(predicted * (1 + off), FLOOR_MS)
        return bound


def _quantile(ascending: F64, name: str, share: float) -> float:
    """The value of rank `(n + 1) share`, counted from 1 and interpolated."""
    if not 0 < share < 1:
        raise LatencyError(f"{name} must lie between 0 and 1, not {share}")
    n = len(ascending)
    if not n:
        raise LatencyError("this predictor was not calibrated, so it knows no bounds; let `select` fit it")
    return float(np.interp((n + 1) * share, np.arange(1, n + 1), ascending))


UNCALIBRATED = Conformal(np.zeros(0))
