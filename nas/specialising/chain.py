"""Classifiers in a chain, each of which answers where it is sure enough and else leaves the image to the next: networks one
after the other, or the exits of one.

A cascade by the largest probability of the softmax (Viola and Jones, "Rapid Object Detection using a Boosted Cascade of Simple
Features", CVPR 2001). Shapes: N images, L those that are left, T thresholds.
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
"""Accuracy that a chain may lack, on validation images, of the network that it stands in for."""
THRESHOLDS = 200
"""Tried for each classifier: so many steps of the share that goes on. More would fit the validation images, no better."""
TOGETHER = 1_000_000
"""Of several classifiers, so many combinations in all. Most are passed by: for four exits and 5,000 images it takes 1.9 s."""
NEVER = 2.0
"""The threshold of a classifier that never answers: no probability is as large."""


@dataclass(frozen=True, slots=True)
class Said:
    """What one classifier says of images: how sure it is of its class, (N,), and whether that is right, (N,)."""

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
class Thresholds:
    """Of all classifiers but the last, the probability from which each answers; and what is expected of an image then."""

    values: tuple[float, ...]
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Link:
    """One classifier of a chain on some images: the share that it answers, its accuracy on these (None without any), and how
    long such an image takes from the first classifier to this one."""

    share: float
    accuracy: float | None
    latency_ms: float


def cheapest(said: Sequence[Said], latency_ms: Sequence[float], wanted: float, below_ms: float) -> Thresholds | None:
    """The thresholds of least expected latency at no less than the accuracy `wanted`; None where none takes less than
    `below_ms`. `latency_ms`: how long it takes until each classifier has answered, those before it included."""
    count = len(said) - 1
    steps = THRESHOLDS if count == 1 else min(THRESHOLDS, int(TOGETHER ** (1 / count)))
    grids = [np.append(thresholds_of(each.sure_N, steps), NEVER) for each in said[:-1]]
    search = _Search(said, latency_ms, grids, wanted * len(said[0].sure_N) - 1e-6, below_ms)
    return search.best(0, np.arange(len(said[0].sure_N)), 0, 0.0, ())


@dataclass
class _Search:
    """Goes over all thresholds of all classifiers but the last two in turn, and over those of the last but one at once."""

    said: Sequence[Said]
    latency_ms: Sequence[float]
    grids: Sequence[F64]
    right: float
    """Images that have to be right."""
    least_ms: float
    """The least expected latency so far."""

    def best(
        self, at: int, left_L: NDArray[np.intp], right: int, total_ms: float, chosen: tuple[float, ...]
    ) -> Thresholds | None:
        """The best of what can be done with the images left to classifier `at`, or None where nothing is better than before;
        `right` and `total_ms` are of the images that were answered before."""
        images = len(self.said[0].sure_N)
        sure_L, right_L = self.said[at].sure_N[left_L], self.said[at].right_N[left_L]
        grid_T, here_ms = self.grids[at], self.latency_ms[at]
        if at == len(self.grids) - 1:
            sent_T, right_T = sent_on(Said(sure_L, right_L), self.said[-1].right_N[left_L], grid_T)
            expected_T = (total_ms + (len(left_L) - sent_T) * here_ms + sent_T * self.latency_ms[-1]) / images
            meeting = np.flatnonzero((right + right_T >= self.right) & (expected_T < self.least_ms))
            if not len(meeting):
                return None
            index = meeting[np.argmin(expected_T[meeting])]
            self.least_ms = float(expected_T[index])
            return Thresholds((*chosen, float(grid_T[index])), self.least_ms)
        found = None
        for threshold in grid_T:
            goes_L = sure_L < threshold
            stays = len(left_L) - int(goes_L.sum())
            so_far_ms = total_ms + stays * here_ms
            if (so_far_ms + (len(left_L) - stays) * self.latency_ms[at + 1]) / images < self.least_ms:
                good = right + int(right_L[~goes_L].sum())
                found = self.best(at + 1, left_L[goes_L], good, so_far_ms, (*chosen, float(threshold))) or found
        return found


def thresholds_of(sure_N: F64, steps: int) -> F64:
    """From one that sends on nothing to one that sends on nearly all, in even steps of the share."""
    return np.unique(np.quantile(sure_N, np.linspace(0, 1, steps)))


def sent_on(first: Said, second_right_N: Bools, threshold_T: F64) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of two classifiers at each threshold, the images sent on and those that are right in the end: sums over the images in the
    order of how sure the first one is."""
    order = np.argsort(first.sure_N, kind="stable")
    sent_T = np.searchsorted(first.sure_N[order], threshold_T, side="left")
    gain_N = second_right_N[order].astype(np.int64) - first.right_N[order]
    return sent_T, first.right_N.sum() + np.concatenate([[0], np.cumsum(gain_N)])[sent_T]


def answered_by(said: Sequence[Said], thresholds: Sequence[float]) -> NDArray[np.int64]:
    """Which classifier answers each image, (N,)."""
    sure_CN = np.stack([*(each.sure_N >= t for each, t in zip(said, thresholds, strict=False)), said[-1].sure_N >= 0])
    first_N: NDArray[np.int64] = sure_CN.argmax(0)
    return first_N


def links(said: Sequence[Said], thresholds: Sequence[float], latency_ms: Sequence[float]) -> tuple[Link, ...]:
    """What each classifier of a chain does."""
    by_N = answered_by(said, thresholds)
    found = []
    for index, (each, ms) in enumerate(zip(said, latency_ms, strict=True)):
        own_N = by_N == index
        found.append(Link(float(own_N.mean()), float(each.right_N[own_N].mean()) if own_N.any() else None, ms))
    return tuple(found)


def expected(found: Sequence[Link]) -> tuple[float, float]:
    """Accuracy and expected latency of a chain."""
    return sum(each.share * (each.accuracy or 0.0) for each in found), sum(
        each.share * each.latency_ms for each in found
    )
