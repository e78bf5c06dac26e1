"""A pair of networks: a fast one, and an accurate one that is asked where the fast one is not sure enough.

The shortest chain (Wang et al., "Wisdom of Committees", ICLR 2022). Shapes: N images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nas.specialising.chain import ALLOWED, Said, cheapest


@dataclass(frozen=True, slots=True)
class Cascade:
    """Indices of the two networks in what was chosen from, and the probability below which the second one is asked."""

    fast: int
    accurate: int
    threshold: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a pair does on some images: the share sent on, the accuracy, and the expected latency of an image in ms."""

    share: float
    accuracy: float
    latency_ms: float


def chosen_pair(said: Sequence[Said], latency_ms: Sequence[float]) -> Cascade | None:
    """The pair of least expected latency that is as accurate as the most accurate of these networks, but for `ALLOWED`.

    None where a network alone is as accurate in no more time.
    """
    wanted = max(each.accuracy for each in said) - ALLOWED
    least_ms = min(ms for each, ms in zip(said, latency_ms, strict=True) if each.accuracy >= wanted)
    best: Cascade | None = None
    for fast, first in enumerate(said):
        for accurate, second in enumerate(said):
            if latency_ms[fast] >= latency_ms[accurate]:
                continue
            both_ms = latency_ms[fast] + latency_ms[accurate]
            found = cheapest((first, second), (latency_ms[fast], both_ms), wanted, least_ms)
            if found is not None:
                least_ms, best = found.latency_ms, Cascade(fast, accurate, *found.values)
    return best


def outcome(fast: Said, accurate: Said, threshold: float, fast_ms: float, accurate_ms: float) -> Outcome:
    """What a pair does where the first is asked of every image and the second where that is less sure than the threshold."""
    sent_N = fast.sure_N < threshold
    right_N = np.where(sent_N, accurate.right_N, fast.right_N)
    return Outcome(float(sent_N.mean()), float(right_N.mean()), fast_ms + float(sent_N.mean()) * accurate_ms)
