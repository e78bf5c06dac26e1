"""How well scores order images: those that have a class before those that lack it. N images, K classes."""

from __future__ import annotations

import torch
from torch import Tensor


def average_precision(scores_NK: Tensor, labels_NK: Tensor) -> Tensor:
    """Of each class (K,) the mean over its images of the precision at the score of each: the share that has the class of all
    images with that score or a higher one. Images of equal scores are thus one step, as in scikit-learn's
    `average_precision_score`. From 0 to 1, higher is better; NaN for a class that no image has.
    """
    sorted_NK, order_NK = scores_NK.sort(dim=0, descending=True)
    has_NK = labels_NK.gather(0, order_NK)
    found_NK = has_NK.long().cumsum(0)
    # Of every image, the last that has its score.
    numbers_NK = torch.arange(len(scores_NK))[:, None].expand_as(found_NK)
    ends_NK = torch.ones_like(has_NK)
    ends_NK[:-1] = sorted_NK[:-1] != sorted_NK[1:]
    last_NK = numbers_NK.where(ends_NK, len(scores_NK)).flip(0).cummin(0).values.flip(0)
    precision_NK = (found_NK.double() / (numbers_NK + 1)).gather(0, last_NK)
    return (precision_NK * has_NK).sum(0) / found_NK[-1]


def mean_known(values: Tensor) -> float:
    """Without those that are NaN; 0 where all are."""
    known = values[~values.isnan()]
    return float(known.mean()) if len(known) else 0.0
