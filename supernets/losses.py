"""How far the predictions of a sub-network are from labels, and from those of its teacher. B images, K classes.

An image has one class, or it has any number of them; then a network says of each class by itself how likely it is, and
losses are the mean over these B x K pairs times the square root of K. The gradient of K answers of yes or no that do not depend
on each other is that much longer than the gradient of one, so a learning rate suits any number of classes, and one that suits
single labels, too. On mosaics of four digits, `sandwich`, SGD at a rate of 0.2, mean average precision of the largest and the
smallest network: 10 classes (digits) after 90 steps 72 / 60% with the plain mean, 93 / 75% so and 73 / 65% with the sum over
classes; 40 classes (a digit in a corner) after 240 steps 27 / 21, 52 / 37 and 25 / 17%.
"""

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


def balanced_pairs(labels_BK: NDArray[np.bool_], classes: int) -> Tensor:
    """What an image counts for a class that it lacks and for one that it has (2, K), so that both kinds count alike together,
    and an image 1 on average."""
    having_K = np.count_nonzero(labels_BK, axis=0)
    counts_2K = np.stack([len(labels_BK) - having_K, having_K])
    weights_2K = len(labels_BK) / (np.count_nonzero(counts_2K, axis=0) * np.maximum(counts_2K, 1))
    return torch.from_numpy(np.where(counts_2K > 0, weights_2K, 0.0)).float()


def label_set_loss(logits_BK: Tensor, labels_BK: Tensor, smoothing: float, weights_2K: Tensor | None) -> Tensor:
    """Binary cross-entropy of the classes that images have; smoothing goes half to either answer."""
    wanted_BK = labels_BK.to(logits_BK.dtype) * (1.0 - smoothing) + 0.5 * smoothing
    weights_BK = None if weights_2K is None else torch.where(labels_BK, weights_2K[1], weights_2K[0])
    return _scale(logits_BK) * F.binary_cross_entropy_with_logits(logits_BK, wanted_BK, weights_BK)


def _scale(logits_BK: Tensor) -> float:
    return float(logits_BK.shape[1] ** 0.5)


Distill = Callable[[Tensor, Tensor], Tensor]
"""From logits (B, K) and the teacher's probabilities (B, K) to a mean over images."""


def alpha_divergence(logits_BK: Tensor, teacher_BK: Tensor) -> Tensor:
    """Adaptive alpha-divergence (Wang et al., "AlphaNet", ICML 2021): for each image the larger of the divergences
    with alpha -1, which punishes a sub-network that is sure where its teacher is not, and 1, where it is the other way round.

    The gradient is the paper's, with clipped weights: -1/alpha E_q[min((p/q)^alpha, 5) grad log q], teacher p, student q.
    """
    return _alpha_divergence(_log(teacher_BK), F.log_softmax(logits_BK, 1))


def alpha_divergence_of_pairs(logits_BK: Tensor, teacher_BK: Tensor) -> Tensor:
    """The same for each class of an image, whose two values are yes and no."""
    log_q_BK2 = torch.stack([F.logsigmoid(-logits_BK), F.logsigmoid(logits_BK)], 2)
    log_p_BK2 = _log(torch.stack([1.0 - teacher_BK, teacher_BK], 2))
    return _scale(logits_BK) * _alpha_divergence(log_p_BK2.flatten(0, 1), log_q_BK2.flatten(0, 1))


def cross_entropy_of_pairs(logits_BK: Tensor, teacher_BK: Tensor) -> Tensor:
    """Binary cross-entropy of each class of an image."""
    return _scale(logits_BK) * F.binary_cross_entropy_with_logits(logits_BK, teacher_BK)


def _log(probabilities: Tensor) -> Tensor:
    # A probability may be too small for its type.
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def _alpha_divergence(log_p_BK: Tensor, log_q_BK: Tensor) -> Tensor:
    """From logarithms of probabilities; those of a row add up to 1."""
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
PAIR_DISTILLATIONS: dict[str, Distill] = {"cross_entropy": cross_entropy_of_pairs, "alpha": alpha_divergence_of_pairs}
"""The same where images have any number of labels."""
