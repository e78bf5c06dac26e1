"""Least squares with non-negative coefficients, on NumPy alone: a board that measures need not have SciPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


def nnls(gram: F64, moment: F64, start: F64 | None = None) -> F64:
    """The x >= 0 that minimises `x' gram x / 2 - moment' x`; for |Ax - b|, `gram` is A'A and `moment` A'b.

    The active-set method of Lawson and Hanson, "Solving Least Squares Problems" (1974), chapter 23. Columns are scaled
    to unit length first; coefficients that the data leave open come out as small as least squares makes them. `start`,
    the solution of a similar problem, saves the way to it.
    """
    scale = np.sqrt(np.maximum(np.diag(gram), 0.0))
    used = scale > 0
    unit = np.where(used, scale, 1.0)
    gram, moment = gram / unit[:, None] / unit, moment / unit
    x = np.zeros(len(moment)) if start is None else np.where(used, start * unit, 0.0)
    free = x > 0
    x = _descend(gram, moment, x, free)
    tolerance = 1e-10 * max(1.0, float(np.abs(moment).max(initial=0.0)))
    for _ in range(10 * len(moment)):
        slope = np.where(free | ~used, -np.inf, moment - gram @ x)
        if slope.max(initial=-np.inf) <= tolerance:
            break
        free[slope.argmax()] = True
        x = _descend(gram, moment, x, free)
    return x / unit


def _descend(gram: F64, moment: F64, x: F64, free: NDArray[np.bool_]) -> F64:
    """From a feasible x to the best one over the `free` coefficients, freeing none and fixing those that hit zero."""
    while free.any():
        target = np.zeros_like(x)
        target[free] = np.linalg.lstsq(gram[np.ix_(free, free)], moment[free], rcond=1e-12)[0]
        negative = free & (target <= 0)
        if not negative.any():
            return target
        step = float(np.min(x[negative] / (x[negative] - target[negative])))
        x = np.where(free, x + step * (target - x), 0.0)
        free &= x > 1e-14
        x = np.where(free, x, 0.0)
    return x
