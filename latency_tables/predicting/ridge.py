"""Ridge regression: latency as a linear combination of features.

Notation: n networks, k features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_tables.predicting.documents import array, number

F64 = NDArray[np.float64]
Json = Any

# Relative to the mean eigenvalue of the standardised features' Gram matrix; leave-one-out chooses.
PENALTIES = tuple(10.0**exponent for exponent in range(-8, 2))


@dataclass(frozen=True, slots=True, eq=False)
class Ridge:
    """latency = coefficients . features + constant (Hoerl and Kennard, Technometrics 12, 1970).

    Fitted to relative errors, so that all networks count alike, however fast.
    """

    coefficients_k: F64
    constant_ms: float
    floor_ms: float
    """Half the fastest latency of the fit. A linear combination can cross zero where the features are extreme."""

    @staticmethod
    def fit(features_nk: F64, latency_ms: F64) -> Ridge:
        return ridge_left_out(features_nk, latency_ms)[0]

    def predict(self, features_nk: F64) -> F64:
        # Not a matrix product: its rounding would depend on how many rows come at once.
        total = (features_nk * self.coefficients_k).sum(axis=1) + self.constant_ms
        predicted: F64 = np.maximum(total, self.floor_ms)
        return predicted

    def to_json(self) -> dict[str, Json]:
        return {
            "coefficients": self.coefficients_k.tolist(),
            "constant_ms": self.constant_ms,
            "floor_ms": self.floor_ms,
        }

    @staticmethod
    def from_json(document: dict[str, Json], features: int) -> Ridge:
        return Ridge(
            array(document, "coefficients", (features,)),
            number(document, "constant_ms"),
            number(document, "floor_ms", low=0.0),
        )


def ridge_left_out(features_nk: F64, latency_ms: F64) -> tuple[Ridge, F64]:
    """The fit, and what it would predict of each network without that network, `(n,)`."""
    z_nk = np.column_stack([features_nk, np.ones(len(latency_ms))]) / latency_ms[:, None]
    scale_k = np.sqrt((z_nk**2).mean(axis=0))
    scale_k[scale_k == 0] = np.inf
    unit_nk = z_nk / scale_k
    values, vectors = np.linalg.eigh(unit_nk @ unit_nk.T)
    values = np.maximum(values, 0.0)
    ones = vectors.sum(axis=0)

    def left_out_errors(penalty: float) -> F64:
        """Relative to the measured latency; in closed form from the eigenvectors."""
        shrunk = penalty / (values + penalty)
        errors: F64 = vectors @ (shrunk * ones) / (vectors**2 @ shrunk)
        return errors

    penalties = [share * values.mean() for share in PENALTIES]
    best = min(penalties, key=lambda penalty: float(np.abs(left_out_errors(penalty)).mean()))
    beta_k = unit_nk.T @ (vectors @ (ones / (values + best))) / scale_k
    floor_ms = float(latency_ms.min() / 2)
    left_out = np.maximum(latency_ms * (1 - left_out_errors(best)), floor_ms)
    return Ridge(beta_k[:-1], float(beta_k[-1]), floor_ms), left_out
