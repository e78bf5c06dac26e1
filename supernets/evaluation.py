"""How good one sub-network is, beyond its accuracy: class by class, and how far its confidence can be believed.

Shapes: B images of a batch, N of all, K classes, M claims.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from search_spaces import Arch
from supernets.calibrate import answers
from supernets.errors import SupernetError
from supernets.supernet import Stats, Supernet
from supernets.tasks import task_of

# As in the paper.
BINS = 15


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a network makes of labelled images.

    `accuracy`: as of `supernets.calibrate.accuracy`. `by_class`: of each class, the share of its images that were given it
    (recall), None where there is none; `support`: its images. `calibration_error`: expected calibration error (Guo et al.,
    "On Calibration of Modern Neural Networks", ICML 2017, eq. 3), the mean over images of |accuracy - mean confidence| of the
    image's bin; confidence is the largest probability, bins are `BINS` of equal width, each with its upper end. From 0 to 1,
    lower is better. `nll`: mean negative log-likelihood of the labels, nats; lower is better.

    Where images have any number of labels, `by_class` is average precision, and the last two are means over all pairs of an
    image and a class: of the probability that it has it against whether it does, and of the binary cross-entropy.
    """

    accuracy: float
    by_class: tuple[float | None, ...]
    support: tuple[int, ...]
    images: int
    calibration_error: float
    nll: float


def evaluate(net: Supernet, arch: Arch, stats: Stats | None, batches: Iterable[tuple[Tensor, Tensor]]) -> Evaluation:
    """One pass over batches of images (B, C, H, W) and labels, in evaluation mode."""
    return judged(answers(net, arch, stats, batches))


def judged(answered: Iterable[tuple[Tensor, Tensor]]) -> Evaluation:
    """Logits (B, K) against labels, batch by batch; `SupernetError` where there is no image."""
    kept, confidences, truths = [], [], []
    images, nll, classes = 0, 0.0, 0
    for logits_BK, labels in answered:
        task, classes = task_of(labels), logits_BK.shape[1]
        kept.append(task.kept(logits_BK, labels))
        confidence_M, true_M = task.claims(logits_BK, labels)
        confidences.append(confidence_M)
        truths.append(true_M)
        images += len(labels)
        nll += len(labels) * float(task.nll(logits_BK.double(), labels))
    if not images:
        raise SupernetError("wanted images to evaluate on, got none")
    kept_N, confidence_M, true_M = torch.cat(kept), torch.cat(confidences), torch.cat(truths)
    found_K, support_K = task.by_class(kept_N, classes)
    return Evaluation(
        task.score(kept_N),
        tuple(None if n == 0 else found for found, n in zip(found_K.tolist(), support_K.tolist(), strict=True)),
        tuple(support_K.tolist()),
        images,
        _calibration_error(confidence_M, true_M),
        nll / images,
    )


def _calibration_error(confidence_M: Tensor, true_M: Tensor) -> float:
    """Of each bin the claims times |share that is true - mean confidence|: |true ones - sum of confidences|; over all."""
    bin_M = (confidence_M * BINS).ceil().long().clamp(1, BINS) - 1
    gap_bins = torch.bincount(bin_M, weights=true_M.double() - confidence_M, minlength=BINS)
    return float(gap_bins.abs().sum()) / len(true_M)
