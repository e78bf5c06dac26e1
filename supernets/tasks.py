"""Tasks: what is to be found out about an image, and what that decides: losses, scores, and what a network claims.

The form of labels says whose they are (`supernets.datasource.TASK_OF_AXES`), so that nothing else has to carry a task along.
Shapes: B images of a batch, N of all, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from supernets.average_precision import average_precision, mean_known
from supernets.datasource import TASK_OF_AXES, TaskName
from supernets.losses import (
    DISTILLATIONS,
    PAIR_DISTILLATIONS,
    Distill,
    balanced,
    balanced_pairs,
    label_loss,
    label_set_loss,
)


@dataclass(frozen=True, slots=True)
class Task:
    """What one task does in its own way. All of it starts from logits (B, K) and labels as `Dataset` has them.

    label_loss: from logits, labels, smoothing and class weights to a mean over images. class_weights: from labels and number
    of classes, for `balanced`. probabilities: of logits, what a teacher teaches. distillations: by name, how far from these.
    decided: what a network says of each image, (B,) or (B, K): two networks agree where all of it is equal. claims: its
    probabilities that can come true, and whether they did. nll: mean negative log-likelihood of the labels. kept: what `score`
    and `by_class` need of a batch, (B, ...), to be joined over batches. score: from 0 to 1, higher is better. by_class: the
    score of each class by itself, NaN where no image has it, and how many have it.
    """

    label_loss: Callable[[Tensor, Tensor, float, Tensor | None], Tensor]
    class_weights: Callable[[NDArray[Any], int], Tensor]
    probabilities: Callable[[Tensor], Tensor]
    distillations: Mapping[str, Distill]
    decided: Callable[[Tensor], Tensor]
    claims: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    nll: Callable[[Tensor, Tensor], Tensor]
    kept: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor], float]
    by_class: Callable[[Tensor, int], tuple[Tensor, Tensor]]


def task_of(labels: Tensor) -> Task:
    """The task that has labels of this form."""
    return TASKS[TASK_OF_AXES[labels.dim()]]


def agreeing(task: Task, logits_BK: Tensor, others_BK: Tensor) -> int:
    """On how many images two networks say the same."""
    same = task.decided(logits_BK) == task.decided(others_BK)
    return int(same.view(len(same), -1).all(1).sum())


def _likeliest(logits_BK: Tensor) -> Tensor:
    return logits_BK.argmax(1)


def _largest_probability(logits_BK: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
    return F.log_softmax(logits_BK.double(), 1).max(1).values.exp(), _likeliest(logits_BK) == labels_B


def _labels_and_hits(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    return torch.stack([labels_B, (_likeliest(logits_BK) == labels_B).long()], 1)


def _accuracy(kept_N2: Tensor) -> float:
    return int(kept_N2[:, 1].sum()) / len(kept_N2)


def _recall(kept_N2: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    labels_N, hit_N = kept_N2[:, 0], kept_N2[:, 1] > 0
    support_K = labels_N.bincount(minlength=classes)
    return labels_N[hit_N].bincount(minlength=classes).double() / support_K, support_K


def _likely_ones(logits_BK: Tensor) -> Tensor:
    """Those of a probability of one half or more."""
    return logits_BK >= 0


def _every_probability(logits_BK: Tensor, labels_BK: Tensor) -> tuple[Tensor, Tensor]:
    return logits_BK.double().sigmoid().flatten(), labels_BK.flatten()


def _logits_and_labels(logits_BK: Tensor, labels_BK: Tensor) -> Tensor:
    return torch.stack([logits_BK, labels_BK.to(logits_BK.dtype)], 2)


def _precision(kept_NK2: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    labels_NK = kept_NK2[..., 1] > 0
    return average_precision(kept_NK2[..., 0], labels_NK), labels_NK.sum(0)


def _mean_average_precision(kept_NK2: Tensor) -> float:
    """Over the classes that some image has: all classes count alike."""
    return mean_known(_precision(kept_NK2, kept_NK2.shape[1])[0])


TASKS: dict[TaskName, Task] = {
    "single_label": Task(
        label_loss=label_loss,
        class_weights=balanced,
        probabilities=lambda logits_BK: logits_BK.softmax(1),
        distillations=DISTILLATIONS,
        decided=_likeliest,
        claims=_largest_probability,
        nll=F.cross_entropy,
        kept=_labels_and_hits,
        score=_accuracy,
        by_class=_recall,
    ),
    "multi_label": Task(
        label_loss=label_set_loss,
        class_weights=balanced_pairs,
        probabilities=torch.sigmoid,
        distillations=PAIR_DISTILLATIONS,
        decided=_likely_ones,
        claims=_every_probability,
        nll=lambda logits_BK, labels_BK: F.binary_cross_entropy_with_logits(logits_BK, labels_BK.to(logits_BK.dtype)),
        kept=_logits_and_labels,
        score=_mean_average_precision,
        by_class=_precision,
    ),
}
