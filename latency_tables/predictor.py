"""Predicting latencies: a sum of one cost a slot, fitted to whole networks.

Notation: n networks, s slots, k features; y measured latencies, `Z_nk` the features of whole networks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from latency_tables.errors import LatencyError
from latency_tables.features import slot_features
from latency_tables.files import write_atomically
from latency_tables.nnls import nnls
from search_spaces import Codes, Space, canonical_json, slot_index, slot_sizes, slots

PREDICTOR_FORMAT = "nas.latency_predictor/1"
MIN_NETWORKS = 8
# No latency is nothing: what a prediction is never below.
FLOOR_MS = 1e-6

# How far the costs of a slot's configurations stray from the prior, one by one and all together, in units of the
# noise; leave-one-out picks. Fitted to 30 networks of `tiny` (1 thread; batch 8) the mean error on unseen ones is
# 3.0; 3.4% with the prior alone, 2.4; 2.3% with each configuration on its own, 2.3; 2.2% with both; on `mobilenet_v3`
# 2.0, 1.8, 1.7%. Letting the coefficients of the features stray as well gained 0.1% at most.
OWN_SPREADS = (0.0, 1.0, 2.5, 5.0, 10.0, 20.0)
SLOT_SPREADS = (0.0, 2.5, 5.0, 10.0, 20.0)

F64 = NDArray[np.float64]
Json = Any


class LatencyPredictor(Protocol):
    """Latencies of architectures that were not measured."""

    def predict(self, codes: Codes) -> F64:
        """Milliseconds for each row of canonical codes: `(n, choices)` -> `(n,)`. Lower is better."""

    def interval(self, codes: Codes, coverage: float) -> tuple[F64, F64]:
        """Bounds in milliseconds, `(n,)` each, between which this share of measured latencies should lie."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file that `load_predictor` reads."""


@dataclass(frozen=True, slots=True, eq=False)
class AdditivePredictor:
    """latency = constant + the cost of the configuration that the architecture takes in each slot.

    Prior: costs are non-negative combinations of layer features. Posterior: Gaussian, each cost straying from its prior
    in proportion to it, on its own and together with its slot; so few networks suffice and many overrule the prior.
    """

    space: Space
    constant_ms: float
    tables_ms: tuple[F64, ...]
    residuals: F64
    """Leave-one-out |measured / predicted - 1| of the networks of the fit, ascending."""

    def __post_init__(self) -> None:
        if tuple(map(len, self.tables_ms)) != slot_sizes(self.space):
            raise LatencyError("tables_ms: the tables are not those of the space's slots")
        numbers = np.concatenate([*self.tables_ms, self.residuals, [self.constant_ms]])
        if not np.isfinite(numbers).all() or numbers.min() < 0 or not len(self.residuals):
            raise LatencyError("a predictor's costs and residuals must be finite numbers, not below 0")

    @staticmethod
    def fit(space: Space, codes: Codes, latency_ms: F64) -> AdditivePredictor:
        """Fit to the measured networks `(n, choices)` and their latencies `(n,)`, at least `MIN_NETWORKS`."""
        y = np.asarray(latency_ms, dtype=np.float64)
        codes = space.canonical(codes)
        if y.shape != (len(codes),):
            raise LatencyError(f"wanted one latency for each of {len(codes)} architectures, got shape {y.shape}")
        if len(y) < MIN_NETWORKS:
            raise LatencyError(
                f"{len(y)} measured networks are too few for a predictor; measure {MIN_NETWORKS} or more"
            )
        if not (np.isfinite(y) & (y > 0)).all():
            raise LatencyError("every latency must be a positive number of milliseconds")
        return _fit(space, codes, y)

    def predict(self, codes: Codes) -> F64:
        total = np.full(len(codes), self.constant_ms)
        for slot, table in zip(slots(self.space), self.tables_ms, strict=True):
            total += table[slot_index(self.space, slot, codes)]
        predicted: F64 = np.maximum(total, FLOOR_MS)
        return predicted

    def interval(self, codes: Codes, coverage: float) -> tuple[F64, F64]:
        """By conformal prediction from relative residuals (Vovk et al. 2005); at most n / (n + 1) can be promised."""
        if not 0 < coverage < 1:
            raise LatencyError(f"coverage must lie between 0 and 1, not {coverage}")
        n = len(self.residuals)
        rank = min(n, int(np.ceil((n + 1) * coverage)))
        off = float(self.residuals[rank - 1])
        point = self.predict(codes)
        return np.maximum(point * (1 - off), FLOOR_MS), point * (1 + off)

    def to_json(self) -> dict[str, Json]:
        return {
            "format": PREDICTOR_FORMAT,
            "kind": "additive",
            "space": self.space.to_json(),
            "constant_ms": self.constant_ms,
            "tables_ms": [table.tolist() for table in self.tables_ms],
            "residuals": self.residuals.tolist(),
        }

    @staticmethod
    def from_json(document: dict[str, Json]) -> AdditivePredictor:
        """Read what `to_json` wrote; `LatencyError` names what is wrong."""
        try:
            return AdditivePredictor(
                Space.from_json(document["space"]),
                float(document["constant_ms"]),
                tuple(np.array(table, dtype=np.float64) for table in document["tables_ms"]),
                np.array(document["residuals"], dtype=np.float64),
            )
        except LatencyError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise LatencyError(f"broken predictor: {type(error).__name__} {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        write_atomically(path, canonical_json(self.to_json()) + "\n")


PREDICTORS: dict[str, Callable[[dict[str, Json]], AdditivePredictor]] = {"additive": AdditivePredictor.from_json}


def load_predictor(path: str | os.PathLike[str], *, space: Space | None = None) -> AdditivePredictor:
    """Read what a predictor's `save` wrote; give `space` to refuse a predictor of another one."""
    try:
        document = json.loads(Path(path).read_bytes())
        found = document.get("format") if isinstance(document, dict) else type(document).__name__
        if found != PREDICTOR_FORMAT:
            raise LatencyError(f"format: wanted {PREDICTOR_FORMAT!r}, found {found!r}")
        if document.get("kind") not in tuple(PREDICTORS):
            raise LatencyError(f"kind: wanted one of {', '.join(PREDICTORS)}, found {document.get('kind')!r}")
        predictor = PREDICTORS[document["kind"]](document)
    except OSError as error:
        raise LatencyError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise LatencyError(f"{path}: {error}") from error
    if space is not None and predictor.space != space:
        raise LatencyError(
            f"{path}: space: the predictor is of {predictor.space.id}, wanted {space.id}; fit one for it"
        )
    return predictor


@dataclass(frozen=True, slots=True)
class _Prior:
    """Costs from features alone, and what they leave unexplained of each network, relative to its latency."""

    constant: float
    tables: tuple[F64, ...]
    residual_n: F64
    left_out_nn: F64
    """Column i: the residuals of all networks under the prior that is fitted without network i."""


def _fit(space: Space, codes: Codes, y: F64) -> AdditivePredictor:
    indices = [slot_index(space, slot, codes) for slot in slots(space)]
    prior = _fit_prior(space, indices, y)
    # The constant is one more slot, with one configuration.
    tables = [*prior.tables, np.array([prior.constant])]
    indices = [*indices, np.zeros(len(y), dtype=np.int64)]
    costs_sn = [table[index] / y for table, index in zip(tables, indices, strict=True)]
    same = sum(np.outer(cost, cost) * (i[:, None] == i) for cost, i in zip(costs_sn, indices, strict=True))
    slot = sum(np.outer(cost, cost) for cost in costs_sn)
    best_error, best = np.inf, (0.0, 0.0)
    left_out = np.zeros(len(y))
    for own, shared in product(OWN_SPREADS, SLOT_SPREADS):
        inverse = np.linalg.inv(own**2 * same + shared**2 * slot + np.eye(len(y)))
        # Sundararajan and Keerthi, Neural Computation 13 (2001), eq. 11, with the prior refitted as well.
        errors = np.einsum("ij,ji->i", inverse, prior.left_out_nn) / np.diag(inverse)
        if (error := float(np.abs(errors).mean())) < best_error:
            best_error, best, left_out = error, (own, shared), errors
    own, shared = best
    weight = np.linalg.solve(own**2 * same + shared**2 * slot + np.eye(len(y)), prior.residual_n)
    fitted = [
        _posterior(table, index, cost * weight, own, shared)
        for table, index, cost in zip(tables, indices, costs_sn, strict=True)
    ]
    # Errors are relative to the measured latency, residuals to the predicted one.
    ratio = 1 / np.maximum(1 - left_out, 1e-3)
    return AdditivePredictor(space, float(fitted[-1][0]), tuple(fitted[:-1]), np.sort(np.abs(ratio - 1)))


def _fit_prior(space: Space, indices: list[NDArray[np.int64]], y: F64) -> _Prior:
    """Costs from features, fitted to relative errors: all networks count alike, however fast."""
    features = slot_features(space)
    whole = sum((table[index] for table, index in zip(features, indices, strict=True)), np.zeros(()))
    z_nk = np.concatenate([whole, np.ones((len(y), 1))], axis=1) / y[:, None]
    gram, moment = z_nk.T @ z_nk, z_nk.sum(axis=0)
    beta = nnls(gram, moment)
    left_out = np.stack([nnls(gram - np.outer(row, row), moment - row) for row in z_nk], axis=1)
    return _Prior(
        constant=float(beta[-1]),
        tables=tuple(table @ beta[:-1] for table in features),
        residual_n=1 - z_nk @ beta,
        left_out_nn=1 - z_nk @ left_out,
    )


def _posterior(table: F64, index: NDArray[np.int64], pull_n: F64, own: float, shared: float) -> F64:
    """One slot's costs moved by what the networks say: each for itself, and all of the slot alike."""
    alone = np.bincount(index, weights=pull_n, minlength=len(table))
    moved: F64 = np.maximum(table * (1 + own**2 * alone + shared**2 * pull_n.sum()), 0.0)
    return moved
