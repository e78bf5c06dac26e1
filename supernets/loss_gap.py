"""How much an architecture's training loss lies above that of the largest one, learned while training goes on.

AttentiveNAS (Wang et al., CVPR 2021) trains a predictor of accuracy in advance; here every step tells of its own sub-networks,
and the largest one, trained on the same images, takes out how hard these were and how far the training is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces import Codes, Space

F64 = NDArray[np.float64]

# What was seen counts half after 350 more: early gaps say little of late ones.
MEMORY = 0.998
RIDGE = 1.0


@dataclass
class LossGap:
    """A ridge regression on the choices' values, 0 or 1 each, kept as its normal equations."""

    space: Space
    gram: F64
    moment: F64

    @staticmethod
    def empty(space: Space) -> LossGap:
        width = 1 + int(space.cardinalities.sum())
        return LossGap(space, np.zeros((width, width)), np.zeros(width))

    def observe(self, codes: Codes, gaps: F64) -> None:
        """Gaps of canonical rows, nats each: `(n, choices)`, `(n,)`."""
        x = features(self.space, codes)
        self.gram = MEMORY ** len(codes) * self.gram + x.T @ x
        self.moment = MEMORY ** len(codes) * self.moment + x.T @ gaps

    def predict(self, codes: Codes) -> F64:
        """The gap of each canonical row, lower is better; 0 while nothing was observed."""
        ridge = RIDGE * np.eye(len(self.moment))
        found: F64 = features(self.space, codes) @ np.linalg.solve(self.gram + ridge, self.moment)
        return found


def features(space: Space, codes: NDArray[np.integer[Any]]) -> F64:
    """1, and a 1 for each value that an active choice takes: `(n, 1 + values of all choices)`."""
    starts = np.concatenate([[1], 1 + np.cumsum(space.cardinalities, dtype=np.int64)[:-1]])
    found = np.zeros((len(codes), 1 + int(space.cardinalities.sum())))
    found[:, 0] = 1.0
    np.put_along_axis(found, starts + codes.astype(np.int64), space.active(codes).astype(np.float64), axis=1)
    return found
