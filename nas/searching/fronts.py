"""Pareto fronts of accuracy and latency: who is on them, what they are worth, which points to hand over."""

from __future__ import annotations

from collections.abc import Callable

import moocore
import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

# Latency beyond which a point adds nothing, relative to the predicted latency of the largest network.
REFERENCE_LATENCY = 1.1


def front(accuracy: F64, latency_ms: F64) -> NDArray[np.int64]:
    """Indices of the non-dominated points, fastest first; of equal points one is kept."""
    if len(accuracy) == 0:
        return np.zeros(0, dtype=np.int64)
    points = np.stack([latency_ms, -accuracy], axis=1)
    kept = np.flatnonzero(moocore.is_nondominated(points))
    return kept[np.argsort(latency_ms[kept], kind="stable")]


def hypervolume(accuracy: F64, latency_ms: F64, largest_ms: float) -> float:
    """Share of the box from (latency 0, accuracy 1) to (1.1 x the largest network's latency, accuracy 0) that the points
    dominate; higher is better (Zitzler and Thiele, "Multiobjective Evolutionary Algorithms", 1999)."""
    if len(accuracy) == 0:
        return 0.0
    points = np.stack([latency_ms / (REFERENCE_LATENCY * largest_ms), 1.0 - accuracy], axis=1)
    return float(moocore.hypervolume(points, ref=[1.0, 1.0]))


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
