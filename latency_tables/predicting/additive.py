"""Predicting latencies by a sum of one cost a slot, fitted to whole networks.

Notation: n networks, L different layers of the space, k features; y measured latencies.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_tables.errors import LatencyError
from latency_tables.predicting.conformal import FLOOR_MS, Conformal
from latency_tables.predicting.documents import PREDICTOR_FORMAT, as_array, field, number, space_of, write_document
from latency_tables.predicting.features import TILE_CHANNELS, Indices, layer_class, space_layers
from latency_tables.predicting.nnls import nnls
from latency_tables.predicting.samples import checked
from search_spaces import Codes, Layer, Space, slot_index, slot_sizes, slot_values, slots

F64 = NDArray[np.float64]
Json = Any

# Two layers' deviations are alike while their shapes are within about this many doublings of each other. Mean error on
# unseen networks over two tables of `tiny` and two of `mobilenet_v3`, at 20-200 networks: 2.38%, and 2.47% with a
# squared exponential of length 2.
LENGTH = 4.0


@dataclass(frozen=True, slots=True)
class Spreads:
    """How far costs stray from the prior, relative to it, in units of the noise."""

    smooth: float = 15.0
    """Of layers, alike where their shapes are alike."""
    layer: float = 0.0
    """Of each layer on its own, wherever it stands."""
    config: float = 0.0
    """Of each configuration of each slot on its own: what a block costs where it stands."""


# What leave-one-out chooses from, one kind of spread at a time. Over the same tables the error is 2.38% with all, 3.49
# without `smooth`, 2.42 without `layer`, 2.37 without `config`, which alone can learn what is not a sum over layers.
CHOICES: dict[str, tuple[float, ...]] = {
    "smooth": (0.0, 5.0, 15.0, 40.0, 80.0),
    "layer": (0.0, 5.0),
    "config": (0.0, 3.0, 8.0, 20.0),
}
SWEEPS = 2


@dataclass(frozen=True, slots=True, eq=False)
class AdditivePredictor:
    """latency = constant + the cost of the configuration that the architecture takes in each slot.

    Prior: costs of layers are non-negative combinations of their features. Posterior: Gaussian, each cost straying from
    its prior in proportion to it, smoothly over the shapes of layers and each for itself (Rasmussen and Williams,
    "Gaussian Processes for Machine Learning", 2006, section 2.7). So few networks suffice and many overrule the prior.
    `docs/predictors.md` has the equations.
    """

    space: Space
    constant_ms: float
    tables_ms: tuple[F64, ...]
    conformal: Conformal

    @staticmethod
    def fit(space: Space, codes: Codes, latency_ms: F64) -> AdditivePredictor:
        """Fit to the measured networks `(n, choices)` and their latencies `(n,)`, at least `MIN_NETWORKS`.

        Intervals come from leave-one-out errors.
        """
        return fit_layers(space, codes, latency_ms)[0]

    def predict(self, codes: Codes) -> F64:
        predicted: F64 = np.maximum(
            self.constant_ms + slot_values(self.space, self.tables_ms, codes).sum(axis=1), FLOOR_MS
        )
        return predicted

    def slot_costs_ms(self, codes: Codes) -> F64:
        """What each slot adds to each network, `(n, slots)`."""
        return slot_values(self.space, self.tables_ms, codes)

    def interval(self, codes: Codes, coverage: float) -> tuple[F64, F64]:
        return self.conformal.interval(self.predict(codes), coverage)

    def upper(self, codes: Codes, probability: float) -> F64:
        return self.conformal.upper(self.predict(codes), probability)

    def with_conformal(self, conformal: Conformal) -> AdditivePredictor:
        return replace(self, conformal=conformal)

    def to_json(self) -> dict[str, Json]:
        return {
            "format": PREDICTOR_FORMAT,
            "kind": "additive",
            "space": self.space.to_json(),
            "constant_ms": self.constant_ms,
            "tables_ms": [table.tolist() for table in self.tables_ms],
            "scores": self.conformal.scores.tolist(),
        }

    @staticmethod
    def from_json(document: dict[str, Json]) -> AdditivePredictor:
        """Read what `to_json` wrote; `LatencyError` names the field that is wrong."""
        space, tables = space_of(document), field(document, "tables_ms")
        sizes = slot_sizes(space)
        if not isinstance(tables, list) or len(tables) != len(sizes):
            raise LatencyError(f"tables_ms: wanted a list of {len(sizes)} tables, one for each slot of the space")
        return AdditivePredictor(
            space,
            number(document, "constant_ms", low=0.0),
            tuple(
                as_array(table, f"tables_ms[{i}]", (size,), low=0.0)
                for i, (table, size) in enumerate(zip(tables, sizes, strict=True))
            ),
            Conformal.from_json(document),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        write_document(path, self.to_json())


@dataclass(frozen=True, slots=True)
class _Prior:
    """Costs from features alone, and what they leave unexplained of each network, relative to its latency."""

    beta_k: F64
    residual_n: F64
    left_out_nn: F64
    """Column i: the residuals of all networks under the prior that is fitted without network i."""


def fit_layers(space: Space, codes: Codes, latency_ms: F64) -> tuple[AdditivePredictor, F64]:
    """What `AdditivePredictor.fit` gives, and the milliseconds of each of the different layers of `space_layers`, `(L,)`."""
    codes, y = checked(space, codes, latency_ms)
    layers = space_layers(space)
    counts_nL = layers.counts(space, codes)
    prior = _fit_prior(np.column_stack([counts_nL @ layers.features_Lk, np.ones(len(y))]) / y[:, None])
    cost_L, constant = layers.features_Lk @ prior.beta_k[:-1], prior.beta_k[-1:]
    shares_nL = counts_nL * cost_L / y[:, None]
    # The constant is one more slot, with one configuration.
    tables = [*layers.slot_sums(cost_L), constant]
    indices = [*(slot_index(space, slot, codes) for slot in slots(space)), np.zeros(len(y), dtype=np.int64)]
    shares = [table[index] / y for table, index in zip(tables, indices, strict=True)]
    covariances = {
        "smooth": sum((shares_nL[:, of] @ alike @ shares_nL[:, of].T for of, alike in _alike(space)), np.zeros(())),
        "layer": shares_nL @ shares_nL.T,
        "config": sum((np.outer(c, c) * (i[:, None] == i) for c, i in zip(shares, indices, strict=True)), np.zeros(())),
    }
    spreads, left_out = _choose(covariances, prior)
    pull_n = np.linalg.solve(_covariance(covariances, spreads), prior.residual_n)
    moved_L = cost_L * (1 + _strayed(space, shares_nL.T @ pull_n, spreads))
    moved = [*layers.slot_sums(moved_L), constant]
    strays = [
        table * spreads.config**2 * np.bincount(index, share * pull_n, len(table))
        for table, index, share in zip(tables, indices, shares, strict=True)
    ]
    costs = [np.maximum(table + stray, 0.0) for table, stray in zip(moved, strays, strict=True)]
    conformal = Conformal.of(y * np.maximum(1 - left_out, 1e-3), y)
    predictor = AdditivePredictor(space, float(costs[-1][0]), tuple(costs[:-1]), conformal)
    return predictor, np.maximum(moved_L, 0.0)


def _fit_prior(z_nk: F64) -> _Prior:
    """Costs from features, fitted to relative errors: all networks count alike, however fast."""
    gram, moment = z_nk.T @ z_nk, z_nk.sum(axis=0)
    # Features that always come together share what they explain, lest rounding decides which of them has it.
    gram[:-1, :-1] += np.diag(1e-8 * np.diag(gram)[:-1])
    beta = nnls(gram, moment)
    left_out = np.stack([nnls(gram - np.outer(row, row), moment - row, beta) for row in z_nk], axis=1)
    return _Prior(beta, 1 - z_nk @ beta, 1 - z_nk @ left_out)


def _choose(covariances: dict[str, F64], prior: _Prior) -> tuple[Spreads, F64]:
    """The spreads with the smallest mean leave-one-out error, and these errors, relative to the measured latency."""
    best = Spreads()
    errors = _left_out_errors(covariances, prior, best)
    for name in list(CHOICES) * SWEEPS:
        for value in CHOICES[name]:
            tried = replace(best, **{name: value})
            new = errors if tried == best else _left_out_errors(covariances, prior, tried)
            if np.abs(new).mean() < np.abs(errors).mean():
                best, errors = tried, new
    return best, errors


def _left_out_errors(covariances: dict[str, F64], prior: _Prior, spreads: Spreads) -> F64:
    """Sundararajan and Keerthi, Neural Computation 13 (2001), eq. 11, with the prior refitted as well."""
    inverse = np.linalg.inv(_covariance(covariances, spreads))
    errors: F64 = np.einsum("ij,ji->i", inverse, prior.left_out_nn) / np.diag(inverse)
    return errors


def _covariance(covariances: dict[str, F64], spreads: Spreads) -> F64:
    """Of the networks' relative residuals: what costs stray, and noise of unit variance."""
    total: F64 = np.eye(len(covariances["layer"]))
    for name, covariance in covariances.items():
        total = total + getattr(spreads, name) ** 2 * covariance
    return total


def _strayed(space: Space, pull_L: F64, spreads: Spreads) -> F64:
    """How far each layer's cost moves, relative to its prior: by its own pull and that of layers like it."""
    moved = spreads.layer**2 * pull_L
    for of, alike in _alike(space):
        moved[of] += spreads.smooth**2 * (alike @ pull_L[of])
    return moved


@lru_cache(maxsize=16)
def _alike(space: Space) -> tuple[tuple[Indices, F64], ...]:
    """For each class of layers its indices, and how alike each two of them deviate: 1 for equal shapes.

    The Matern covariance of smoothness 3/2 (Rasmussen and Williams, eq. 4.17).
    """
    layers = space_layers(space).distinct
    classes = [layer_class(layer) for layer in layers]
    shapes = np.array([_shape(layer) for layer in layers])
    found = []
    for name in dict.fromkeys(classes):
        of = np.array([i for i, other in enumerate(classes) if other == name])
        squares = (shapes[of] ** 2).sum(axis=1)
        apart2 = np.maximum(squares[:, None] + squares - 2 * shapes[of] @ shapes[of].T, 0.0)
        apart = np.sqrt(3 * apart2) / LENGTH
        found.append((of, (1 + apart) * np.exp(-apart)))
    return tuple(found)


def _shape(layer: Layer) -> Sequence[float]:
    """Doublings of everything that a layer is sized by, and whether channels fill whole tiles."""
    channels = (layer.in_shape[0], layer.out_shape[0])
    sizes = np.log2([*channels, layer.out_shape[1], layer.kernel, layer.stride])
    return (*sizes.tolist(), *(float(extent % TILE_CHANNELS > 0) for extent in channels))
