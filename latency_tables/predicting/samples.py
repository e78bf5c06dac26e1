"""Measured networks as a fit wants them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from latency_tables.errors import LatencyError
from search_spaces import Codes, Space

MIN_NETWORKS = 8

F64 = NDArray[np.float64]


def checked(space: Space, codes: Codes, latency_ms: F64) -> tuple[Codes, F64]:
    """Canonical codes `(n, choices)` and one positive latency in milliseconds for each, at least `MIN_NETWORKS`."""
    y = np.asarray(latency_ms, dtype=np.float64)
    codes = space.canonical(codes)
    if y.shape != (len(codes),):
        raise LatencyError(f"wanted one latency for each of {len(codes)} architectures, got shape {y.shape}")
    if len(y) < MIN_NETWORKS:
        raise LatencyError(f"{len(y)} measured networks are too few for a predictor; measure {MIN_NETWORKS} or more")
    if not (np.isfinite(y) & (y > 0)).all():
        raise LatencyError("every latency must be a positive number of milliseconds")
    return codes, y
