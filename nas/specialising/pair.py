"""A pair of networks: a fast one, and an accurate one that is asked where the fast one is not sure enough.

A cascade by the largest probability of the softmax (Viola and Jones, "Rapid Object Detection using a Boosted Cascade of Simple
Features", CVPR 2001; Wang et al., "Wisdom of Committees", ICLR 2022). Shapes: N images, F networks, T thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.specialising.checks import Answers

F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]

ALLOWED = 0.001
"""Accuracy that a pair may lack, on validation images, of the most accurate network alone."""
THRESHOLDS = 200
"""Tried for each fast network: so many steps of the share that is sent on. More would fit the validation images, no better."""


@dataclass(frozen=True, slots=True)
class Said:
    """What one network says of images: how sure it is of its class, (N,), and whether that is right, (N,)."""

    sure_N: F64
    right_N: Bools

    @staticmethod
    def of(answers: Answers) -> Said:
        """`answers` give one class an image."""
        sure_N = answers.logits_NK.double().softmax(1).max(1).values
        return Said(sure_N.numpy(), answers.right_N.numpy())

    @property
    def accuracy(self) -> float:
        return float(self.right_N.mean())


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
        threshold_T = _thresholds(first.sure_N)
        for accurate, second in enumerate(said):
            if latency_ms[fast] >= latency_ms[accurate]:
                continue
            share_T, accuracy_T = _outcomes(first, second, threshold_T)
            expected_T = latency_ms[fast] + share_T * latency_ms[accurate]
            meeting = np.flatnonzero((accuracy_T >= wanted) & (expected_T < least_ms))
            if len(meeting):
                at = meeting[np.argmin(expected_T[meeting])]
                least_ms, best = float(expected_T[at]), Cascade(fast, accurate, float(threshold_T[at]))
    return best


def outcome(fast: Said, accurate: Said, threshold: float, fast_ms: float, accurate_ms: float) -> Outcome:
    """What a pair does where the first is asked of every image and the second where that is less sure than the threshold."""
    sent_N = fast.sure_N < threshold
    right_N = np.where(sent_N, accurate.right_N, fast.right_N)
    return Outcome(float(sent_N.mean()), float(right_N.mean()), fast_ms + float(sent_N.mean()) * accurate_ms)


def _thresholds(sure_N: F64) -> F64:
    """From one that sends on nothing to one that sends on nearly all, in even steps of the share."""
    return np.unique(np.quantile(sure_N, np.linspace(0, 1, THRESHOLDS)))


def _outcomes(fast: Said, accurate: Said, threshold_T: F64) -> tuple[F64, F64]:
    """The share sent on and the accuracy at each threshold: sums over the images in the order of how sure the fast one is."""
    order = np.argsort(fast.sure_N, kind="stable")
    sent_T = np.searchsorted(fast.sure_N[order], threshold_T, side="left")
    gain_N = accurate.right_N[order].astype(np.int64) - fast.right_N[order]
    right_T = fast.right_N.sum() + np.concatenate([[0], np.cumsum(gain_N)])[sent_T]
    return sent_T / len(order), right_T / len(order)
