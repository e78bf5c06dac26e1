"""How far the predictions of a sub-network are from labels, and from those of its teacher. B images, K classes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

# As in the paper: both ends of alpha, and the most that the importance weight of a class may be.
ALPHAS = (-1.0, 1.0)
CLIP = 5.0


def balanced(labels_B: NDArray[np.int64], classes: int) -> Tensor:
    """What an image of each class counts (K,), so that all classes together count alike, and an image 1 on average."""
    counts = np.bincount(labels_B, minlength=classes)
    weights = len(labels_B) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return torch.from_numpy(np.where(counts > 0, weights, 0.0)).float()


def label_loss(logits_BK: Tensor, labels_B: Tensor, smoothing: float, weights_K: Tensor | None) -> Tensor:
    """Mean cross-entropy of images, or of what they count by their class."""
    if weights_K is None:
        return F.cross_entropy(logits_BK, labels_B, label_smoothing=smoothing)
    losses_B = F.cross_entropy(logits_BK, labels_B, label_smoothing=smoothing, reduction="none")
    return (weights_K[labels_B] * losses_B).mean()


Distill = Callable[[Tensor, Tensor], Tensor]
"""From logits (B, K) and the teacher's probabilities (B, K) to a mean over images."""


def alpha_divergence(logits_BK: Tensor, teacher_BK: Tensor) -> Tensor:
    """Adaptive alpha-divergence (Wang et al., "AlphaNet", ICML 2021): for each image the larger of the divergences
    with alpha -1, which punishes a sub-network that is sure where its teacher is not, and 1, where it is the other way round.

    The gradient is the paper's, with clipped weights: -1/alpha E_q[min((p/q)^alpha, 5) grad log q], teacher p, student q.
    """
    log_q_BK = F.log_softmax(logits_BK, 1)
    # A probability may be too small for its type.
    log_p_BK = teacher_BK.clamp_min(torch.finfo(teacher_BK.dtype).tiny).log()
    sides = [_one_alpha(log_p_BK, log_q_BK, alpha) for alpha in ALPHAS]
    values_AB = torch.stack([value for value, _ in sides])
    slopes_AB = torch.stack([slope for _, slope in sides])
    largest_B = values_AB.argmax(0, keepdim=True)
    value, slope = (each.gather(0, largest_B).mean() for each in (values_AB, slopes_AB))
    return value + slope - slope.detach()


def _one_alpha(log_p_BK: Tensor, log_q_BK: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Of each image, the divergence (without a gradient), and what has its gradient."""
    with torch.no_grad():
        q_BK = log_q_BK.exp()
        weights_BK = q_BK * (alpha * (log_p_BK - log_q_BK)).exp().clamp_max(CLIP)
        if alpha == 1.0:  # the limit of the general form: the Kullback-Leibler divergence
            value_B = (log_p_BK.exp() * (log_p_BK - log_q_BK)).sum(1)
        else:
            value_B = (weights_BK - q_BK).sum(1) / (alpha * (alpha - 1.0))
    return value_B, -(weights_BK * log_q_BK).sum(1) / alpha


DISTILLATIONS: dict[str, Distill] = {"cross_entropy": F.cross_entropy, "alpha": alpha_divergence}
