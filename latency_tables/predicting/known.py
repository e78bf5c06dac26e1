"""Known devices: what they measured, parted into what features explain and the rest.

Notation: n architectures, d known devices, k features, p functions of an architecture, v their eigenvectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latency_tables.errors import LatencyError
from latency_tables.predicting.kernels import F64, Index, Rows, radial

MIN_DEVICES = 2
FARTHEST = 6.0
"""In spreads; what lies beyond is taken to lie there. Of one published device 1.7% of the latencies are broken."""
LEAST_REST = 0.01
"""A rest that is narrower, relative to its device's spread, is not blown up to the width of the others."""
LANDMARKS = 256
HUBER = 1.5
HUBER_STEPS = 4
PENALTIES: F64 = 10.0 ** np.arange(-2.0, 4.1, 0.5)


@dataclass(frozen=True, slots=True, eq=False)
class KnownDevices:
    """Devices that have a latency for each of n architectures."""

    rows: Rows
    log_ms_nd: F64
    spread_d: F64
    """How far each device's log latencies stray from their median, robustly."""

    @staticmethod
    def of(features: F64, known_ms: F64, codes: NDArray[np.integer] | None = None) -> KnownDevices:
        """From features `(n, k)`, latencies `(n, d)` and, if there are any, integer codes `(n, choices)`.

        Latencies are split into what features (and the values of each choice) explain and a rest: the first is free of
        the known devices' noise, and a new device is much more likely to share it.
        """
        features, known_ms = finite("features", features), finite("known_ms", known_ms)
        if len(known_ms) != len(features) or known_ms.shape[1] < MIN_DEVICES:
            raise LatencyError(
                f"wanted features (n, k) and latencies (n, devices) of at least {MIN_DEVICES} known devices for the "
                f"same architectures, got shapes {features.shape} and {known_ms.shape}"
            )
        if known_ms.min() <= 0:
            raise LatencyError("every latency of a known device must be a positive number of milliseconds")
        log_ms = np.log(known_ms)
        middle, spread = middle_and_spread(log_ms)
        standard = np.clip((log_ms - middle) / spread, -FARTHEST, FARTHEST)
        columns = _standardised(features)
        shared = _smooth(_basis(columns, codes), standard)
        rest = standard - shared
        rest = np.clip(rest / np.maximum(middle_and_spread(rest)[1], LEAST_REST), -FARTHEST, FARTHEST)
        return KnownDevices(Rows(shared - shared.mean(axis=0), rest, columns), log_ms, spread)

    @property
    def usual_spread(self) -> float:
        return float(np.median(self.spread_d))

    def without(self, device: int) -> KnownDevices:
        """As if this device were not known."""
        return KnownDevices(
            self.rows.without(device), np.delete(self.log_ms_nd, device, 1), np.delete(self.spread_d, device)
        )


def finite(name: str, values: F64, dimensions: int = 2) -> F64:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != dimensions or not array.size or not np.isfinite(array).all():
        raise LatencyError(f"{name}: wanted finite numbers in {dimensions} dimensions, got shape {array.shape}")
    return array


def middle_and_spread(values: F64) -> tuple[F64, F64]:
    """Median and scaled median absolute deviation of each column; a spread of 1 where there is none."""
    middle = np.median(values, axis=0)
    spread = 1.4826 * np.median(np.abs(values - middle), axis=0)
    return middle, np.where(spread > 0, spread, 1.0)


def thinned(index: Index, n: int) -> Index:
    """At most `n` of the indices, in order; drawn at random, always the same ones."""
    return index if len(index) <= n else np.sort(np.random.default_rng(0).choice(index, n, replace=False))


def _standardised(features: F64) -> F64:
    spread = features.std(axis=0)
    standardised: F64 = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return standardised


def _basis(features: F64, codes: NDArray[np.integer] | None) -> F64:
    """Functions of an architecture that latencies are smoothed with: `(n, functions)`, each row of some unit length.

    A constant, the features, similarity to landmarks (Nystrom; Williams and Seeger, NeurIPS 2000), and one indicator
    for each value of each choice.
    """
    n, k = features.shape
    marks = features[thinned(np.arange(n), LANDMARKS)]
    values, vectors = np.linalg.eigh(radial(marks, marks))
    whiten = vectors / np.sqrt(np.maximum(values, 1e-6))
    parts = [np.full((n, 1), 3.0), features / np.sqrt(k), radial(features, marks) @ whiten]
    if codes is not None:
        for column in codes.T:
            indicators = (column[:, None] == np.unique(column)) / np.sqrt(codes.shape[1])
            parts.append(indicators - indicators.mean(axis=0))
    return np.concatenate(parts, axis=1)


def _smooth(basis: F64, targets_nd: F64) -> F64:
    """Ridge on the basis, a penalty for each target by generalised cross-validation (Golub, Heath and Wahba, 1979).

    Outliers are pulled to within `HUBER` robust deviations of the fit, and the fit made again (Huber, "Robust
    Statistics", 1981, section 7.8): latencies of phones have heavy tails.
    """
    n = len(basis)
    values, vectors = np.linalg.eigh(basis.T @ basis)
    values = np.maximum(values, 0.0)
    rotated = basis @ vectors
    shrink_pv = values / (values + PENALTIES[:, None])
    pulled = fitted = targets_nd
    for _ in range(HUBER_STEPS + 1):
        moment = rotated.T @ pulled
        explained = moment**2 / np.maximum(values, 1e-12)[:, None]
        # Residual sum of squares for each penalty: what no ridge explains, and what its shrinking leaves.
        squares = (pulled**2).sum(axis=0) - (2 * shrink_pv - shrink_pv**2) @ explained
        best = (squares / (n - shrink_pv.sum(axis=1))[:, None] ** 2).argmin(axis=0)
        fitted = rotated @ (moment / (values[:, None] + PENALTIES[best]))
        wide = HUBER * middle_and_spread(targets_nd - fitted)[1]
        pulled = fitted + np.clip(targets_nd - fitted, -wide, wide)
    return fitted
