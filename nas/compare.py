"""Fronts across devices: what networks that were searched for one device cost on another one.

The reference on a device is the front of all networks at hand. Where every front comes from the same evaluations, as in one
run, this is the device's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_tables.predicting.metrics import spearman
from latency_tables.predicting.predictor import LatencyPredictor
from nas.errors import JobError
from nas.searching.fronts import front, hypervolume
from nas.tables import finite
from search_spaces import Space

COMPARISON_FORMAT = "nas.comparison/1"
# Architectures behind the rank correlation of two devices.
SAMPLES = 2000

F64 = NDArray[np.float64]
Json = Any


@dataclass(frozen=True, slots=True)
class Costed:
    """The networks of one front with their latencies on one device, `(n,)` each."""

    val_accuracy: F64
    latency_ms: F64


def compare(
    space: Space, fronts: Mapping[str, Sequence[Mapping[str, Json]]], predictors: Mapping[str, LatencyPredictor]
) -> dict[str, Json]:
    """The cross-device matrix as JSON: a row for each front, a column for each device.

    `fronts` has by name the networks as `search.json` does (`arch_id`, `arch`, `val_accuracy`). `hypervolume_share` is what
    a front keeps of the reference's hypervolume (1 is all of it); `extra_latency` how much slower, relative, the fastest of
    its networks is that is at least as accurate as one of the reference: the mean over the reference. `rank_correlation`
    has Spearman's coefficient of the latencies of two devices over random architectures of the space.
    """
    if not any(fronts.values()):
        raise JobError("every front is empty, so there is nothing to compare")
    codes = {name: space.encode(space.arch(row["arch"]) for row in rows) for name, rows in fronts.items()}
    scores = {name: np.array([row["val_accuracy"] for row in rows], dtype=np.float64) for name, rows in fronts.items()}
    largest = space.encode([space.largest()])
    shares: list[list[float | None]] = [[] for _ in fronts]
    extras: list[list[float | None]] = [[] for _ in fronts]
    latencies: dict[str, dict[str, F64]] = {}
    for device, predictor in predictors.items():
        costed = {name: Costed(scores[name], predictor.predict(codes[name])) for name in fronts}
        latencies[device] = {name: each.latency_ms for name, each in costed.items()}
        reference = _reference(list(costed.values()))
        largest_ms = float(predictor.predict(largest)[0])
        whole = hypervolume(reference.val_accuracy, reference.latency_ms, largest_ms)
        for i, each in enumerate(costed.values()):
            kept = hypervolume(each.val_accuracy, each.latency_ms, largest_ms)
            shares[i].append(kept / whole if whole > 0 else None)
            extras[i].append(finite(extra_latency(each, reference)))
    networks = [
        {
            "front_of": name,
            "arch_id": row["arch_id"],
            "val_accuracy": row["val_accuracy"],
            "latency_ms": {device: float(latencies[device][name][i]) for device in predictors},
        }
        for name, rows in fronts.items()
        for i, row in enumerate(rows)
    ]
    return {
        "format": COMPARISON_FORMAT,
        "space": space.id,
        "fronts": list(fronts),
        "devices": list(predictors),
        "hypervolume_share": shares,
        "extra_latency": extras,
        "rank_correlation": _rank_correlation(space, list(predictors.values())),
        "networks": networks,
    }


def picks_elsewhere(comparison: Mapping[str, Json], picked: Mapping[str, str]) -> list[dict[str, Json]]:
    """Of one network of each front what it costs on every device, as JSON; `picked` has its id by the name of the front.

    `ratio` is relative to the fastest network of that device's own front that is no less accurate: 1 at home. None where
    there is no such network.
    """
    networks = comparison["networks"]
    own = {device: [row for row in networks if row["front_of"] == device] for device in comparison["devices"]}
    found = []
    for row in networks:
        if picked.get(row["front_of"]) != row["arch_id"]:
            continue
        ratio: dict[str, float | None] = {}
        for device, latency_ms in row["latency_ms"].items():
            rivals = [o["latency_ms"][device] for o in own[device] if o["val_accuracy"] >= row["val_accuracy"]]
            ratio[device] = latency_ms / min(rivals) if rivals else None
        kept = {key: row[key] for key in ("arch_id", "val_accuracy", "latency_ms")}
        found.append({"device": row["front_of"], **kept, "ratio": ratio})
    return found


def extra_latency(found: Costed, reference: Costed) -> float:
    """How much slower `found` is than the reference at the accuracies of the reference: the mean over these, relative.

    For each, the fastest network of `found` that is at least as accurate counts; accuracies that it does not reach do
    not. NaN where it reaches none.
    """
    slower = [
        float(found.latency_ms[good].min() / latency - 1)
        for accuracy, latency in zip(reference.val_accuracy, reference.latency_ms, strict=True)
        if (good := found.val_accuracy >= accuracy).any()
    ]
    return float(np.mean(slower)) if slower else float("nan")


def _reference(fronts: Sequence[Costed]) -> Costed:
    """The front of all of them together."""
    accuracy = np.concatenate([each.val_accuracy for each in fronts])
    latency_ms = np.concatenate([each.latency_ms for each in fronts])
    kept = front(accuracy, latency_ms)
    return Costed(accuracy[kept], latency_ms[kept])


def _rank_correlation(space: Space, predictors: Sequence[LatencyPredictor]) -> list[list[float | None]]:
    codes = space.sample(np.random.default_rng(0), SAMPLES)
    latencies = [predictor.predict(codes) for predictor in predictors]
    return [[finite(spearman(a, b)) for b in latencies] for a in latencies]
