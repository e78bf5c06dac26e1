"""Pareto fronts of accuracy and latency: who is on them, what they are worth, which points to hand over."""

from __future__ import annotations

from collections.abc import Callable

import moocore
import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

# Latency (or any other cost) beyond which a point adds nothing, relative to that of the largest network.
REFERENCE = 1.1


def non_dominated(points: F64) -> NDArray[np.int64]:
    """Indices of the points that no other dominates, in order; of equal points one is kept. All columns are minimised."""
    return np.flatnonzero(moocore.is_nondominated(points)) if len(points) else np.zeros(0, dtype=np.int64)


def volume(points: F64) -> float:
    """Share of the box [0, 1]^m that the points dominate, all columns minimised (Zitzler and Thiele, "Multiobjective
    Evolutionary Algorithms", 1999)."""
    inside = points[(points < 1).all(axis=1)]
    return float(moocore.hypervolume(inside, ref=np.ones(points.shape[1]))) if len(inside) else 0.0


def front(accuracy: F64, latency_ms: F64) -> NDArray[np.int64]:
    """Indices of the non-dominated points, fastest first; of equal points one is kept."""
    kept = non_dominated(np.stack([latency_ms, -accuracy], axis=1))
    return kept[np.argsort(latency_ms[kept], kind="stable")]


def hypervolume(accuracy: F64, latency_ms: F64, largest_ms: float) -> float:
    """Share of the box from (latency 0, accuracy 1) to (1.1 x the largest network's latency, accuracy 0) that the points
    dominate; higher is better."""
    return volume(np.stack([latency_ms / (REFERENCE * largest_ms), 1.0 - accuracy], axis=1))


def knee(accuracy: F64, latency_ms: F64) -> int:
    """Index of the point farthest above the line between the two ends of a front (Das, "On characterizing the 'knee' of
    the Pareto curve", 1999), with both axes scaled to [0, 1]."""
    if len(accuracy) < 3:
        return int(np.argmax(accuracy))
    x = (latency_ms - latency_ms.min()) / (np.ptp(latency_ms) or 1.0)
    y = (accuracy - accuracy.min()) / (np.ptp(accuracy) or 1.0)
    return int(np.argmax(y - x))


PICKS: dict[str, Callable[[F64, F64], int]] = {
    "fastest": lambda accuracy, latency_ms: int(np.argmin(latency_ms)),
    "knee": knee,
    "most-accurate": lambda accuracy, latency_ms: int(np.argmax(accuracy)),
}
