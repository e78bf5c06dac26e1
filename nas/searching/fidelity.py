"""Accuracy on fewer images first: how far to trust it, and which architectures are worth all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.searching.guided import Known, pick
from nas.searching.problem import Problem
from nas.searching.warmup import correlation
from search_spaces import Codes

F64 = NDArray[np.float64]

# Of the architectures that were evaluated on few images, those that get all of them.
PROMOTED = 0.5


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How well accuracy on `first` images ranks the `n` architectures that were evaluated on `images` as well."""

    first: int
    images: int
    n: int
    spearman: float | None
    kendall: float | None
    promoted: float
    """Share of all evaluated architectures that got all the images."""


def sampling_variance(accuracy: F64, images: NDArray[np.int64], total: int, labels: float = 1.0) -> F64:
    """Of an accuracy on `images` of `total` images about that on all of them: a sample without replacement, `(n,)`.

    Mean average precision is a mean over labels, so an image counts for as many draws as it has `labels`. The standard
    deviation by that, relative to the one of 300 samples: 1.1-1.4 for 50-400 of 767 mosaics (3.4 labels an image,
    scores of 0.85-0.95), and 2.0-2.6 with a draw an image; 0.8-2.0 for made-up logits of 2-80 classes, each in 1-30% of
    the images, and 0.1-8.8. What it does not tell: where a class has fewer than about 20 of the images, these score
    some points more than all of them.
    """
    p = np.clip(accuracy, 0.05, 0.95)
    return np.asarray(p * (1 - p) / labels * np.maximum(1 / np.maximum(images, 1) - 1 / max(total, 1), 0.0))


def promising(problem: Problem, known: Known, codes: Codes, accuracy: F64, variance: F64) -> NDArray[np.int64]:
    """Indices of the rows that deserve all the images: the half expected to add most to the fronts, in order."""
    n = math.ceil(PROMOTED * len(codes))
    return np.sort(pick(problem, known, codes, accuracy, np.sqrt(variance), n))


def fidelity(first: int, images: int, pairs: Sequence[tuple[float, float]], evaluated: int) -> Fidelity:
    """From the accuracies on few and on all images of the architectures that have both."""
    few, all_ = np.array(pairs).reshape(-1, 2).T
    ranked = correlation("few", few, all_)
    # Two can only agree or not.
    spearman, kendall = (ranked.spearman, ranked.kendall) if len(few) > 2 else (None, None)
    return Fidelity(first, images, len(few), spearman, kendall, len(few) / max(evaluated, 1))
