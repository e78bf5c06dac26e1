"""Gaussian processes over architectures as other devices and layer features describe them.

Notation: n, m architectures, d known devices, k features, t settings of the covariance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Index = NDArray[np.int64]

CONSTANT = 25.0
"""Prior variance of the level, in units of the spread: wide, as a new device may be any times faster."""
LENGTH = 2.0
# Weights of the three kernels, and of the noise. The evidence of a device's own samples says which of them suit it: with
# 10 samples, averaging over all by evidence ranks nine published devices with 0.941 (NAS-Bench-201) and 0.858 (FBNet), the
# one setting that is best for the other eight with 0.933 and 0.854.
SETTINGS: F64 = np.array(
    list(product([1.0], [1e-4, 1e-3, 1e-2], [0.01, 0.03, 0.1, 0.3, 1.0], [0.003, 0.01, 0.03, 0.1, 0.3, 1.0]))
)
DESIGN: F64 = np.array([1.0, 1e-3, 0.5, 0.1])
"""The setting that samples are planned with, before there is anything to learn one from."""
ROBUST: F64 = np.array([1.0, 1e-3, 0.1, 0.03])
"""The setting under which samples are found to be outliers."""

CREDIBLE = 2.0
DOUBT_STEPS = 6
MEDIAN_SQUARE = 0.455
"""Of a normal distribution with variance 1."""
PRIOR_SAMPLES = 4.0
"""How many samples the known devices' spread counts for in the spread of a new one."""
LEAST_SHARE = 2e-3
CHUNK = 8192


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Architectures as kernels see them, every column about 0 with a spread of about 1."""

    shared_nd: F64
    """What features explain of the known devices' log latencies."""
    rest_nd: F64
    """What they do not: quirks and noise."""
    features_nk: F64

    def __len__(self) -> int:
        return len(self.features_nk)

    def __getitem__(self, index: Index | slice) -> Rows:
        return Rows(self.shared_nd[index], self.rest_nd[index], self.features_nk[index])

    def chunks(self) -> Iterator[Rows]:
        return (self[start : start + CHUNK] for start in range(0, len(self), CHUNK))

    def without(self, device: int) -> Rows:
        """As they would be if this known device were not there."""
        return Rows(np.delete(self.shared_nd, device, 1), np.delete(self.rest_nd, device, 1), self.features_nk)


def radial(a_nk: F64, b_mk: F64) -> F64:
    """exp(-distance^2 / 2 LENGTH^2), `(n, m)`, distances counted for one feature on average."""
    squares = np.einsum("nk,nk->n", a_nk, a_nk)[:, None] + np.einsum("mk,mk->m", b_mk, b_mk) - 2 * _products(a_nk, b_mk)
    similar: F64 = np.exp(np.maximum(squares, 0.0) / (-2 * LENGTH**2 * a_nk.shape[1]))
    return similar


def kernels(a: Rows, b: Rows) -> F64:
    """Linear in what is shared, linear in the rest, radial in the features: `(3, n, m)`."""
    devices = max(1, a.shared_nd.shape[1])
    shared, rest = _products(a.shared_nd, b.shared_nd) / devices, _products(a.rest_nd, b.rest_nd) / devices
    return np.stack([shared, rest, radial(a.features_nk, b.features_nk)])


def _products(a_nk: F64, b_mk: F64) -> F64:
    # Not a matrix product, whose last digits depend on how many rows are asked for at once.
    products: F64 = np.einsum("nk,mk->nm", a_nk, b_mk)
    return products


def _variances(rows: Rows) -> F64:
    """The diagonals of `kernels(rows, rows)`, `(3, n)`."""
    return np.stack([(rows.shared_nd**2).mean(axis=1), (rows.rest_nd**2).mean(axis=1), np.ones(len(rows))])


def _covariance(setting: F64, kernels_3nm: F64) -> F64:
    covariance: F64 = np.tensordot(setting[:3], kernels_3nm, 1) + CONSTANT
    return covariance


@dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    """One setting, fitted to the samples."""

    log_evidence: float
    scale: float
    """Variance of the target in units of the prior's."""
    weights_m: F64
    inverse_mm: F64


def _fit(setting: F64, kernels_3mm: F64, y_m: F64, doubt_m: F64, variance: float) -> _Fit:
    """Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006), eq. 2.25 and 2.30.

    The scale has an inverse-gamma prior about `variance`, integrated out of the evidence.
    """
    inverse: F64 = np.asarray(
        np.linalg.inv(_covariance(setting, kernels_3mm) + np.diag(setting[3] + doubt_m)), dtype=np.float64
    )
    weights: F64 = inverse @ y_m
    squares = PRIOR_SAMPLES * variance + float(y_m @ weights)
    samples = PRIOR_SAMPLES + len(y_m)
    evidence = 0.5 * float(np.linalg.slogdet(inverse)[1]) - 0.5 * samples * np.log(squares)
    return _Fit(evidence, squares / samples, weights, inverse)


def _level(log_ms_m: F64) -> float:
    return float(np.median(log_ms_m))


def doubt(kernels_3mm: F64, y_m: F64, variance: float) -> F64:
    """Extra noise for each sample: 0, or as much as makes it `CREDIBLE` deviations off where the others put it.

    So a wild sample counts the less the wilder it is (redescending; Hampel et al., "Robust Statistics", 1986).
    """
    extra = np.zeros(len(y_m))
    for _ in range(DOUBT_STEPS):
        fit = _fit(ROBUST, kernels_3mm, y_m, extra, variance)
        own = 1 / np.diag(fit.inverse_mm)
        squares = (fit.weights_m * own) ** 2
        # Not the scale of the fit, which one wild sample can make so large that it looks credible itself.
        usual = np.median(squares / own) / MEDIAN_SQUARE
        scale = (PRIOR_SAMPLES * variance + len(y_m) * usual) / (PRIOR_SAMPLES + len(y_m))
        extra = np.maximum(0.0, squares / (CREDIBLE**2 * scale) - (own - extra))
    return extra


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """What m samples say, averaged over t settings in proportion to their evidence."""

    rows: Rows
    log_ms_m: F64
    doubt_m: F64
    spread: float
    settings_t4: F64
    shares_t: F64
    fits: tuple[_Fit, ...]

    @staticmethod
    def of(rows: Rows, log_ms_m: F64, spread: float) -> Posterior:
        """Fit to the sampled rows; `spread` is how far log latencies of a device usually stray."""
        kernels_3mm, centred = kernels(rows, rows), log_ms_m - _level(log_ms_m)
        extra = doubt(kernels_3mm, centred, spread**2)
        evidence = np.array([_fit(s, kernels_3mm, centred, extra, spread**2).log_evidence for s in SETTINGS])
        shares = np.exp(evidence - evidence.max())
        kept = shares >= LEAST_SHARE * shares.sum()
        return Posterior.given(rows, log_ms_m, extra, spread, SETTINGS[kept], shares[kept] / shares[kept].sum())

    @staticmethod
    def given(rows: Rows, log_ms_m: F64, doubt_m: F64, spread: float, settings_t4: F64, shares_t: F64) -> Posterior:
        """With doubts and shares that were found before."""
        kernels_3mm, centred = kernels(rows, rows), log_ms_m - _level(log_ms_m)
        fits = tuple(_fit(setting, kernels_3mm, centred, doubt_m, spread**2) for setting in settings_t4)
        return Posterior(rows, log_ms_m, doubt_m, spread, settings_t4, shares_t, fits)

    def mean(self, rows: Rows) -> F64:
        """Expected logarithms, `(n,)`; those of a row do not depend on the rows beside it."""
        weights_tm = np.stack([fit.weights_m for fit in self.fits]) * self.shares_t[:, None]
        by_kernel_3m = self.settings_t4[:, :3].T @ weights_tm
        level = _level(self.log_ms_m) + CONSTANT * float(weights_tm.sum())
        parts = [
            sum(
                np.einsum("nm,m->n", kernel, w)
                for kernel, w in zip(kernels(part, self.rows), by_kernel_3m, strict=True)
            )
            for part in rows.chunks()
        ]
        return level + np.concatenate([np.zeros(0), *parts])

    def deviation(self, rows: Rows) -> F64:
        """Standard deviations of the logarithms of measurements, `(n,)`, still to be calibrated."""
        return np.concatenate([np.zeros(0), *map(self._deviation, rows.chunks())])

    def _deviation(self, rows: Rows) -> F64:
        kernels_3nm, variances_3n = kernels(rows, self.rows), _variances(rows)
        log_variance, mean, square = np.zeros((3, len(rows)))
        for setting, share, fit in zip(self.settings_t4, self.shares_t, self.fits, strict=True):
            cross = _covariance(setting, kernels_3nm)
            before = setting[:3] @ variances_3n + CONSTANT
            left = np.maximum(before - ((cross @ fit.inverse_mm) * cross).sum(axis=1), 0.0) + setting[3]
            guess = cross @ fit.weights_m
            log_variance += share * np.log(fit.scale * left)
            mean += share * guess
            square += share * guess**2
        # The geometric mean of the variances: the arithmetic one is ruled by the few settings that are all noise.
        deviation: F64 = np.sqrt(np.exp(log_variance) + np.maximum(square - mean**2, 0.0))
        return deviation


def design(pool: Rows, n: int, measured: Rows | None = None) -> Index:
    """`n` rows of the pool, each the one that takes most off the summed variance of all given those before it.

    That is sequential I-optimal design (active learning Cohn; Cohn, Neural Networks 9, 1996), which needs no latency of
    the new device. `measured` rows count as sampled already.
    """
    rows = pool if measured is None else _joined(pool, measured)
    covariance = _covariance(DESIGN, kernels(rows, rows))
    for row in range(len(pool), len(rows)):
        covariance = _sampled(covariance, row)
    free = np.ones(len(pool), dtype=np.bool_)
    taken = np.zeros(n, dtype=np.int64)
    for step in range(n):
        inside = covariance[: len(pool), : len(pool)]
        gain = (inside**2).sum(axis=1) / (np.diag(inside) + DESIGN[3])
        taken[step] = np.where(free, gain, -np.inf).argmax()
        free[taken[step]] = False
        covariance = _sampled(covariance, int(taken[step]))
    return taken


def _sampled(covariance: F64, row: int) -> F64:
    """What is left of the covariance when this row is sampled."""
    column = covariance[:, row] / np.sqrt(covariance[row, row] + DESIGN[3])
    left: F64 = covariance - np.outer(column, column)
    return left


def _joined(a: Rows, b: Rows) -> Rows:
    return Rows(
        np.concatenate([a.shared_nd, b.shared_nd]),
        np.concatenate([a.rest_nd, b.rest_nd]),
        np.concatenate([a.features_nk, b.features_nk]),
    )
