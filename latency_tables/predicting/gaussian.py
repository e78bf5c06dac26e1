"""A Gaussian process on the logarithm of the latency.

Notation: n networks of the fit, m networks to predict, k features.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_tables.predicting.documents import array, number

F64 = NDArray[np.float64]
Json = Any

# What the marginal likelihood chooses from. Lengths are in root mean squares of standardised features.
LENGTHS = (0.5, 1.0, 2.0, 4.0)
LINEAR = (0.0, 1.0, 10.0)
NOISES = tuple(10.0 ** (exponent / 2) for exponent in range(-12, 1))

BLOCK = 64


@dataclass(frozen=True, slots=True)
class Kernel:
    """Covariance of log latencies: `exp(-distance^2 / 2 length^2) + linear x.x'`, and `noise` on the diagonal."""

    length: float
    linear: float
    noise: float

    def __call__(self, a_mk: F64, b_nk: F64) -> F64:
        products = _rows_times(a_mk, b_nk.T)
        # -distance^2 / 2 length^2, in place: what takes time here is memory.
        near = products - (a_mk**2).sum(axis=1)[:, None] / 2
        near -= (b_nk**2).sum(axis=1) / 2
        near /= self.length**2
        np.exp(np.minimum(near, 0.0, out=near), out=near)
        if self.linear:
            near += self.linear * products
        covariance: F64 = near
        return covariance


@dataclass(frozen=True, slots=True, eq=False)
class GaussianProcess:
    """Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006), algorithm 2.1; in 5.4.1 the likelihood.

    Inputs are the logarithms of 1 + features, standardised.
    """

    mean_k: F64
    scale_k: F64
    """What a feature is divided by; infinite for one that the networks of the fit share."""
    inputs_nk: F64
    log_latency_n: F64
    kernel: Kernel
    weights_n: F64
    """The inverse covariance of the networks of the fit, times their log latencies around the mean."""

    @staticmethod
    def fit(features_nk: F64, latency_ms: F64) -> GaussianProcess:
        logs = np.log1p(features_nk)
        deviation = logs.std(axis=0)
        varies = deviation > 1e-9
        scale_k = np.where(varies, deviation * np.sqrt(max(1, varies.sum())), np.inf)
        mean_k = logs.mean(axis=0)
        inputs, targets = (logs - mean_k) / scale_k, np.log(latency_ms)
        return GaussianProcess.of(mean_k, scale_k, inputs, targets, _likeliest(inputs, targets - targets.mean()))

    @staticmethod
    def of(mean_k: F64, scale_k: F64, inputs_nk: F64, log_latency_n: F64, kernel: Kernel) -> GaussianProcess:
        covariance = kernel(inputs_nk, inputs_nk) + kernel.noise * np.eye(len(inputs_nk))
        weights = np.linalg.solve(covariance, log_latency_n - log_latency_n.mean())
        return GaussianProcess(mean_k, scale_k, inputs_nk, log_latency_n, kernel, weights)

    def predict(self, features_nk: F64) -> F64:
        level = self.log_latency_n.mean()
        inputs = (np.log1p(features_nk) - self.mean_k) / self.scale_k
        predicted: F64 = np.exp(np.einsum("mn,n->m", self.kernel(inputs, self.inputs_nk), self.weights_n) + level)
        return predicted

    def to_json(self) -> dict[str, Json]:
        return {
            "mean": self.mean_k.tolist(),
            "scale": np.where(np.isfinite(self.scale_k), self.scale_k, 0.0).tolist(),
            "inputs": self.inputs_nk.tolist(),
            "log_latency": self.log_latency_n.tolist(),
            "length": self.kernel.length,
            "linear": self.kernel.linear,
            "noise": self.kernel.noise,
        }

    @staticmethod
    def from_json(document: dict[str, Json], features: int) -> GaussianProcess:
        scale = array(document, "scale", (features,), low=0.0)
        inputs = array(document, "inputs", (None, features))
        kernel = Kernel(
            number(document, "length", low=1e-3),
            number(document, "linear", low=0.0),
            number(document, "noise", low=1e-12),
        )
        return GaussianProcess.of(
            array(document, "mean", (features,)),
            np.where(scale > 0, scale, np.inf),
            inputs,
            array(document, "log_latency", (len(inputs),)),
            kernel,
        )


def _likeliest(inputs_nk: F64, targets_n: F64) -> Kernel:
    """The kernel of the greatest marginal likelihood, its amplitude maximised over."""
    best, likeliest = -np.inf, Kernel(LENGTHS[0], 0.0, 1.0)
    for length, linear in product(LENGTHS, LINEAR):
        covariance = Kernel(length, linear, 0.0)(inputs_nk, inputs_nk)
        values, vectors = np.linalg.eigh(covariance)
        squares = (vectors.T @ targets_n) ** 2
        for share in NOISES:
            noise = share * float(np.trace(covariance)) / len(targets_n)
            spectrum = np.maximum(values, 0.0) + noise
            amplitude = max(float((squares / spectrum).mean()), 1e-30)
            likelihood = -len(targets_n) * np.log(amplitude) - np.log(spectrum).sum()
            if likelihood > best:
                best, likeliest = likelihood, Kernel(length, linear, noise)
    return likeliest


def _rows_times(rows_mk: F64, matrix_kn: F64) -> F64:
    """The matrix product in blocks of equal size: its rounding depends on how many rows there are."""
    m = len(rows_mk)
    padded = np.pad(rows_mk, ((0, -m % BLOCK), (0, 0)))
    blocks = padded.reshape(-1, BLOCK, rows_mk.shape[1]) @ matrix_kn
    product_mn: F64 = blocks.reshape(len(padded), -1)[:m]
    return product_mn
