"""How good one sub-network is, beyond its accuracy: class by class, and how far its confidence can be believed.

Shapes: B images of a batch, N of all, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from search_spaces import Arch
from supernets.calibrate import answers
from supernets.errors import SupernetError
from supernets.supernet import Stats, Supernet

# As in the paper.
BINS = 15


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a network makes of labelled images.

    `recall`: of each class, the share of its images that were given it, None where there is none; `support`: its images.
    `calibration_error`: expected calibration error (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, eq. 3),
    the mean over images of |accuracy - mean confidence| of the image's bin; confidence is the largest probability, bins are
    `BINS` of equal width, each with its upper end. From 0 to 1, lower is better. `nll`: mean negative log-likelihood of the
    labels, nats; lower is better.
    """

    accuracy: float
    recall: tuple[float | None, ...]
    support: tuple[int, ...]
    calibration_error: float
    nll: float

    @property
    def images(self) -> int:
        """How many were looked at."""
        return sum(self.support)


def evaluate(net: Supernet, arch: Arch, stats: Stats | None, batches: Iterable[tuple[Tensor, Tensor]]) -> Evaluation:
    """One pass over batches of images (B, C, H, W) and labels (B,), in evaluation mode."""
    return judged(answers(net, arch, stats, batches))


def judged(answered: Iterable[tuple[Tensor, Tensor]]) -> Evaluation:
    """Logits (B, K) against labels (B,), batch by batch; `SupernetError` where there is no image."""
    parts, classes = [], 0
    for logits_BK, y_B in answered:
        parts.append(_of_batch(logits_BK, y_B))
        classes = logits_BK.shape[1]
    if not parts:
        raise SupernetError("wanted images to evaluate on, got none")
    y_N, hit_N, confidence_N, nll_N = (torch.cat(each) for each in zip(*parts, strict=True))
    support_K = torch.bincount(y_N, minlength=classes).tolist()
    hits_K = torch.bincount(y_N[hit_N], minlength=classes).tolist()
    return Evaluation(
        int(hit_N.sum()) / len(y_N),
        tuple(hits / of if of else None for hits, of in zip(hits_K, support_K, strict=True)),
        tuple(support_K),
        _calibration_error(confidence_N, hit_N),
        float(nll_N.mean()),
    )


def _of_batch(logits_BK: Tensor, y_B: Tensor) -> tuple[Tensor, ...]:
    """Of each image: its label, whether it was found, the largest probability, and -log of that of the label."""
    log_p_BK = F.log_softmax(logits_BK.double(), 1)
    confidence_B = log_p_BK.max(1).values.exp()
    return y_B, logits_BK.argmax(1) == y_B, confidence_B, F.nll_loss(log_p_BK, y_B, reduction="none")


def _calibration_error(confidence_N: Tensor, hit_N: Tensor) -> float:
    """Of each bin the images times |accuracy - mean confidence|, which is |hits - sum of confidences|; over all images."""
    bin_N = (confidence_N * BINS).ceil().long().clamp(1, BINS) - 1
    gap_bins = torch.bincount(bin_N, weights=hit_N.double() - confidence_N, minlength=BINS)
    return float(gap_bins.abs().sum()) / len(hit_N)
