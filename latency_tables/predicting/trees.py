"""Boosted trees on what a ridge regression leaves.

Notation: n networks, k features, t trees of depth d, b bins of a feature.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_tables.errors import LatencyError
from latency_tables.predicting.documents import array
from latency_tables.predicting.ridge import Ridge, ridge_left_out

F64 = NDArray[np.float64]
Indices = NDArray[np.int64]
Json = Any

TREES, DEPTH, RATE, BINS = 150, 3, 0.1, 16
# Networks of no effect that every leaf is thought to hold.
SHRINKAGE = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class BoostedTrees:
    """latency = ridge . exp(sum of trees), the trees fitted to the logarithm of what the ridge leaves, left-out.

    Gradient boosting (Friedman, Annals of Statistics 29, 2001) of oblivious trees: all nodes of one level ask the same
    question, as in Prokhorenkova et al., "CatBoost" (NeurIPS 2018), so that a tree is d comparisons and one table.
    """

    ridge: Ridge
    features_td: Indices
    thresholds_td: F64
    leaves_tl: F64
    """Logarithms; leaf l is the number whose bits are the answers, the first question's the highest."""

    @staticmethod
    def fit(features_nk: F64, latency_ms: F64) -> BoostedTrees:
        ridge, left_out = ridge_left_out(features_nk, latency_ms)
        return BoostedTrees(ridge, *_boost(features_nk, np.log(latency_ms / left_out)))

    def predict(self, features_nk: F64) -> F64:
        columns = np.ascontiguousarray(features_nk.T)
        total = np.zeros(len(features_nk))
        for features, thresholds, leaves in zip(self.features_td, self.thresholds_td, self.leaves_tl, strict=True):
            leaf = np.zeros(len(total), dtype=np.intp)
            for feature, threshold in zip(features, thresholds, strict=True):
                leaf = 2 * leaf + (columns[feature] > threshold)
            total += leaves[leaf]
        predicted: F64 = self.ridge.predict(features_nk) * np.exp(total)
        return predicted

    def to_json(self) -> dict[str, Json]:
        return {
            "ridge": self.ridge.to_json(),
            "features": self.features_td.tolist(),
            "thresholds": self.thresholds_td.tolist(),
            "leaves": self.leaves_tl.tolist(),
        }

    @staticmethod
    def from_json(document: dict[str, Json], features: int) -> BoostedTrees:
        asked = array(document, "features", (None, None), low=0.0)
        trees, depth = asked.shape
        if depth > 8 or (asked >= features).any() or (asked % 1 != 0).any():
            raise LatencyError(f"features: wanted at most 8 whole numbers below {features} for each tree")
        if not isinstance(document.get("ridge"), dict):
            raise LatencyError("ridge: wanted an object")
        return BoostedTrees(
            Ridge.from_json(document["ridge"], features),
            asked.astype(np.int64),
            array(document, "thresholds", (trees, depth)),
            array(document, "leaves", (trees, 2**depth)),
        )


def _boost(features_nk: F64, targets_n: F64) -> tuple[Indices, F64, F64]:
    """Questions and leaves of trees, each fitted to what those before it leave."""
    edges = [np.unique(np.quantile(column, np.arange(1, BINS) / BINS, method="lower")) for column in features_nk.T]
    bins_nk = np.stack([np.searchsorted(e, column) for e, column in zip(edges, features_nk.T, strict=True)], axis=1)
    rest = targets_n
    questions, thresholds, leaves = [], [], []
    for _ in range(TREES):
        leaf, asked = _grow(bins_nk, rest)
        sums, counts = (np.bincount(leaf, weights, 2**DEPTH) for weights in (rest, None))
        leaves.append(RATE * sums / (counts + SHRINKAGE))
        rest = rest - leaves[-1][leaf]
        questions.append([feature for feature, _ in asked])
        thresholds.append([float(edges[feature][min(bin_, len(edges[feature]) - 1)]) for feature, bin_ in asked])
    return np.array(questions), np.array(thresholds), np.array(leaves)


def _grow(bins_nk: Indices, rest_n: F64) -> tuple[Indices, list[tuple[int, int]]]:
    """One tree: the leaf of each network, and at each level the (feature, bin) beyond which the answer is yes."""
    n, k = bins_nk.shape
    leaf, asked = np.zeros(n, dtype=np.int64), []
    places_nk, rests = bins_nk + BINS * np.arange(k), np.repeat(rest_n, k)
    for level in range(DEPTH):
        places = (leaf[:, None] * k * BINS + places_nk).ravel()
        shape = (2**level, k, BINS)
        sums, counts = (
            np.bincount(places, w, 2**level * k * BINS).reshape(shape).cumsum(axis=2) for w in (rests, None)
        )
        above, more = sums[:, :, -1:] - sums, counts[:, :, -1:] - counts
        gain = (sums**2 / (counts + SHRINKAGE) + above**2 / (more + SHRINKAGE)).sum(axis=0)
        feature, bin_ = divmod(int(gain.argmax()), BINS)
        asked.append((feature, bin_))
        leaf = 2 * leaf + (bins_nk[:, feature] > bin_)
    return leaf, asked
