"""Carrying latencies over: a new device from 5-50 measured architectures and other devices that measured all.

Notation: n architectures, m of them sampled.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from latency_tables.errors import LatencyError
from latency_tables.predicting.kernels import F64, Index, Posterior, Rows, design
from latency_tables.predicting.known import KnownDevices, finite, thinned

MIN_SAMPLES = 3
MOST_CANDIDATES = 1000
# On how many other architectures known devices are mispredicted, to calibrate intervals.
MOST_SCORED = 300
QUANTILES = 999
# Devices that err as the posterior says, added to the known ones. From three known devices alone, 90% intervals held 69%
# of a space's latencies in the worst of 24 settings; from nine they do not matter.
PRIOR_DEVICES = 3


@dataclass(frozen=True, slots=True, eq=False)
class Carried:
    """A new device's latencies, from its samples and the known devices."""

    posterior: Posterior
    scores: F64
    """Errors in units of the posterior's deviation when known devices play the new one; their quantiles, ascending."""

    def __post_init__(self) -> None:
        if (np.diff(self.scores) < 0).any():
            raise LatencyError("scores: wanted numbers in ascending order")

    def predict(self, rows: Rows) -> F64:
        """Milliseconds, `(n,)`: the median of what is expected."""
        predicted: F64 = np.exp(self.posterior.mean(rows))
        return predicted

    def interval(self, rows: Rows, coverage: float) -> tuple[F64, F64]:
        """Bounds in milliseconds between which this share of measured latencies should lie."""
        far = _quantile(np.abs(self.scores), coverage)
        mean, deviation = self.posterior.mean(rows), self.posterior.deviation(rows)
        return np.exp(mean - far * deviation), np.exp(mean + far * deviation)

    def upper(self, rows: Rows, probability: float) -> F64:
        """Milliseconds that a measured latency stays below with this probability."""
        far = _quantile(self.scores, probability)
        bound: F64 = np.exp(self.posterior.mean(rows) + far * self.posterior.deviation(rows))
        return bound


def carry(known: KnownDevices, sampled: Index, latency_ms: F64) -> Carried:
    """Fit a new device to its latencies `(m,)` of the `sampled` architectures, indices into those of `known`.

    Each known device plays the new one, measured on the same architectures with the others known; how far it is then
    mispredicted calibrates the intervals (conformal prediction over devices; after Vovk et al. 2005).
    """
    sampled = np.asarray(sampled, dtype=np.int64)
    y = as_latencies(latency_ms, len(sampled))
    posterior = Posterior.of(known.rows[sampled], np.log(y), known.usual_spread)
    return Carried(posterior, _scores(known, sampled))


def choose(known: KnownDevices, n: int, pool: Index | None = None, measured: Index | None = None) -> Index:
    """`n` architectures to measure next on a new device, best first, as indices into those of `known`.

    From `pool`, by default all; those `measured` already are taken into account and not chosen again. More than
    `MOST_CANDIDATES` in the pool are thinned at random, always in the same way.
    """
    everything = np.arange(len(known.rows)) if pool is None else np.asarray(pool, dtype=np.int64)
    done = np.zeros(0, dtype=np.int64) if measured is None else np.asarray(measured, dtype=np.int64)
    free = np.setdiff1d(everything, done)
    check_count(n, len(free))
    candidates = thinned(free, max(n, MOST_CANDIDATES))
    return candidates[design(known.rows[candidates], n, known.rows[done])]


def _scores(known: KnownDevices, sampled: Index) -> F64:
    others = np.setdiff1d(np.arange(len(known.rows)), sampled)
    scored = thinned(others, MOST_SCORED) if len(others) else sampled
    errors = [_normal(PRIOR_DEVICES * len(scored))]
    for device in range(known.log_ms_nd.shape[1]):
        rest, log_ms = known.without(device), known.log_ms_nd[:, device]
        posterior = Posterior.of(rest.rows[sampled], log_ms[sampled], rest.usual_spread)
        rows = rest.rows[scored]
        errors.append((log_ms[scored] - posterior.mean(rows)) / posterior.deviation(rows))
    quantiles: F64 = np.quantile(np.concatenate(errors), np.linspace(0, 1, QUANTILES))
    return quantiles


def _normal(n: int) -> F64:
    """`n` quantiles of the normal distribution."""
    return np.array([NormalDist().inv_cdf((i + 0.5) / n) for i in range(n)])


def check_count(n: int, free: int) -> None:
    if not 1 <= n <= free:
        raise LatencyError(f"wanted 1 to {free} architectures, as many as are not measured yet; not {n}")


def as_latencies(latency_ms: F64, wanted: int) -> F64:
    y = finite("latency_ms", latency_ms, dimensions=1)
    if len(y) != wanted or wanted < MIN_SAMPLES:
        raise LatencyError(
            f"wanted one latency for each sampled architecture and {MIN_SAMPLES} or more, "
            f"got {len(y)} for {wanted} architectures"
        )
    if y.min() <= 0:
        raise LatencyError("every latency must be a positive number of milliseconds")
    return y


def _quantile(values: F64, share: float) -> float:
    if not 0 < share < 1:
        raise LatencyError(f"coverage and probability must lie between 0 and 1, not {share}")
    return float(np.quantile(values, share))
