"""Zero-cost proxies: what an untrained network and one batch of images say about the accuracy it may reach.

Collected by Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS", ICLR 2021. They are here to be compared with: on
CIFAR-10, MACs alone order the networks of `tiny` better than any of them (0.78 against 0.17-0.65, Spearman; docs/LOG.md).

Each architecture is judged as in these papers, as a network of its own whose weights are drawn as a training of it would draw
them. A slice of an untrained supernet is not that, since its weights are drawn for the largest layer and a narrow one starts
too weak; and on slices of a trained one the best of these scores told no more (0.64 against 0.65).

Shapes: B batch, C channels, H height, W width, P pixels of all channels.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from search_spaces import Arch, Choice, Space, network
from supernets.batches import seed_of
from supernets.calibrate import calibrate, resize, resolution
from supernets.elastic import ElasticBatchNorm2d
from supernets.errors import SupernetError
from supernets.supernet import FUNCTIONS, Supernet
from supernets.tasks import task_of
from supernets.threads import torch_threads

# Keeps the logarithm and the inverse of an eigenvalue finite, as in the paper.
EIGENVALUE_FLOOR = 1e-5
UNCLIPPED = FUNCTIONS | {"relu6": FUNCTIONS["relu"]}


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """What a proxy looks at: one architecture of a net, and a batch of images at its resolution with their labels."""

    net: Supernet
    arch: Arch
    images_BCHW: Tensor
    labels_B: Tensor

    @property
    def weights(self) -> list[Tensor]:
        """Those of convolutions and the classifier. Norms and biases count for nothing while they are at their start."""
        layers = network(self.net.space, self.arch)
        return [self.net.get_parameter(f"{layer.name}.weight") for layer in layers if layer.weight_shape]

    def logits(self, x_BCHW: Tensor) -> Tensor:
        """As in a training step: batch norm by the batch."""
        return self.net.run(x_BCHW, self.arch, _by_batch)

    def loss(self) -> Tensor:
        """The loss of the first training step."""
        return plain_loss(self.logits(self.images_BCHW), self.labels_B)


def plain_loss(logits_BK: Tensor, labels: Tensor) -> Tensor:
    """On labels alone, neither smoothed nor weighted."""
    return task_of(labels).label_loss(logits_BK, labels, 0.0, None)


Proxy = Callable[[Candidate], float]


def grad_norm(candidate: Candidate) -> float:
    """Sum over layers of the Euclidean norm of the loss's gradient (Abdelfattah et al., section 3.2.1)."""
    gradients = torch.autograd.grad(candidate.loss(), candidate.weights)
    return sum(float(gradient.norm()) for gradient in gradients)


def snip(candidate: Candidate) -> float:
    """Sum of |w * dL/dw|, what the loss feels of each weight (Lee et al., "SNIP: Single-shot Network Pruning based on
    Connection Sensitivity", ICLR 2019, eq. 4 before the division by that sum)."""
    weights = candidate.weights
    gradients = torch.autograd.grad(candidate.loss(), weights)
    return sum(float((w.detach() * g).abs().sum()) for w, g in zip(weights, gradients, strict=True))


def synflow(candidate: Candidate) -> float:
    """log of the sum of w * dR/dw, where R, the synaptic flow, is the sum of the outputs for an image of ones through the
    absolute values of the weights (Tanaka et al., "Pruning neural networks without any data by iteratively conserving
    synaptic flow", NeurIPS 2020). It looks at no image, and passes batch norm by, which would undo what it sums up. So would
    the softmax of attention: queries of zero weigh all pixels alike.

    In double precision, as the flow grows 10-50 times with each layer; a clip at 6 would end it and is left out. The
    logarithm keeps the order.
    """
    positive = replace(candidate, net=copy.deepcopy(candidate.net).double())
    weights = positive.weights
    with torch.no_grad():
        for weight in weights:
            weight.abs_()
        for layer in network(positive.net.space, positive.arch):
            if layer.op == "attention":
                positive.net.get_parameter(f"{layer.inputs[0]}.weight").zero_()
    ones_BCHW = torch.ones_like(candidate.images_BCHW[:1], dtype=torch.float64)
    flow = positive.net.run(ones_BCHW, positive.arch, lambda name, norm, y_BCHW: y_BCHW, UNCLIPPED).sum()
    gradients = torch.autograd.grad(flow, weights)
    return math.log(sum(float((w.detach() * g).sum()) for w, g in zip(weights, gradients, strict=True)))


def jacob_cov(candidate: Candidate) -> float:
    """How differently the network sees the images: `jacobian_score` of the sum of the outputs by the pixels of each image.

    Batch norm by the batch, as in the paper: with fixed statistics it told less (CIFAR-10, 200 networks of `tiny`, Spearman
    with accuracy 0.63 instead of 0.68, and 0.22 instead of 0.37 among networks of about the same MACs).
    """
    x_BCHW = candidate.images_BCHW.detach().requires_grad_()
    (jacobian_BCHW,) = torch.autograd.grad(candidate.logits(x_BCHW).sum(), [x_BCHW])
    return jacobian_score(jacobian_BCHW.flatten(1).double())


def jacobian_score(jacobian_BP: Tensor) -> float:
    """-sum(log(s + k) + 1 / (s + k)) over the eigenvalues s of the correlations between rows (images, pixels), k = 1e-5.

    From Mellor et al., "Neural Architecture Search without Training", in its first version (arXiv 2006.04647v1); the later one,
    of ICML 2021, counts activation patterns instead. Highest, -B, where no two rows have anything in common. A constant
    row correlates with nothing, not even with itself.
    """
    unit_BP = F.normalize(jacobian_BP - jacobian_BP.mean(1, keepdim=True), dim=1)
    eigenvalues_B = torch.linalg.eigvalsh(unit_BP @ unit_BP.T) + EIGENVALUE_FLOOR
    return -float((eigenvalues_B.log() + 1 / eigenvalues_B).sum())


def gradsign(candidate: Candidate) -> float:
    """Sum over weights of |sum over images of the sign of this image's dL/dw|: how far images agree on where to go
    (Zhang and Jia, "GradSign: Model Performance Inference with Theoretical Insights", ICLR 2022, algorithm 1).

    Batch norm has the statistics of the batch, held fixed: an image's gradient must not depend on the others beside it, and
    its own statistics alone are not what training would see. One image after the other: torch.func.vmap over 32 was 1.4-1.9x
    faster on networks of `tiny`, but took 11 GB for the largest of `mobilenet_v3` at 64 px, and was no faster there.
    """
    net, arch, weights = candidate.net, candidate.arch, candidate.weights
    stats = calibrate(net, arch, [candidate.images_BCHW])

    def by_stats(name: str, norm: ElasticBatchNorm2d, y_BCHW: Tensor) -> Tensor:
        normed: Tensor = norm(y_BCHW, *stats[name], batch=False, momentum=0.0)
        return normed

    agreement = [torch.zeros_like(weight) for weight in weights]
    for x_CHW, y in zip(candidate.images_BCHW, candidate.labels_B, strict=True):
        loss = plain_loss(net.run(x_CHW[None], arch, by_stats), y[None])
        for total, gradient in zip(agreement, torch.autograd.grad(loss, weights), strict=True):
            total += gradient.sign()
    return sum(float(total.abs().sum(dtype=torch.float64)) for total in agreement)


PROXIES: dict[str, Proxy] = {
    "grad_norm": grad_norm,
    "snip": snip,
    "synflow": synflow,
    "jacob_cov": jacob_cov,
    "gradsign": gradsign,
}


def proxy_scores(
    space: Space,
    archs: Sequence[Arch],
    images_BCHW: Tensor,
    labels_B: Tensor,
    names: Sequence[str],
    *,
    seed: int = 0,
) -> dict[str, NDArray[np.float64]]:
    """By proxy, the score of each architecture (n,); higher is better.

    Images are normalised as for training, 16-32 of them; `SupernetError` where they or the names do not fit. Weights are drawn
    from `seed` and the architecture, so a score depends neither on the others nor on their order. On one thread, as rounding
    depends on the number.
    """
    _check(space, images_BCHW, labels_B, names)
    scores = {name: np.empty(len(archs)) for name in names}
    with torch_threads(1), torch.enable_grad():
        for i, arch in enumerate(archs):
            candidate = untrained(space, arch, images_BCHW, labels_B, seed)
            for name in names:
                scores[name][i] = PROXIES[name](candidate)
    return scores


def untrained(space: Space, arch: Arch, images_BCHW: Tensor, labels_B: Tensor, seed: int) -> Candidate:
    """The architecture with weights of its own, drawn as a training of nothing else would draw them."""
    alone = only(space, arch)
    net, same = Supernet(alone, seed_of(seed, 4, int(arch.id, 16))), alone.largest()
    x_BCHW = resize(images_BCHW.float(), resolution(arch))
    return Candidate(net, same, x_BCHW, labels_B)


def only(space: Space, arch: Arch) -> Space:
    """The space of this one network: each choice has one value, and inactive ones have any."""
    values = arch.values
    choices = (Choice(choice.name, (values.get(choice.name, choice.values[0]),)) for choice in space.choices)
    return Space(space.family, space.settings, tuple(choices))


def _by_batch(name: str, norm: ElasticBatchNorm2d, y_BCHW: Tensor) -> Tensor:
    normed: Tensor = norm(y_BCHW, None, None, batch=True, momentum=0.0)
    return normed


def _check(space: Space, images_BCHW: Tensor, labels_B: Tensor, names: Sequence[str]) -> None:
    """One line about what a proxy could not work with."""
    for name in names:
        if name not in PROXIES:
            near = get_close_matches(name, PROXIES, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(PROXIES)}"
            raise SupernetError(f"unknown proxy {name!r}; {hint}")
    shape, channels, classes = tuple(images_BCHW.shape), space.settings["in_channels"], space.settings["num_classes"]
    if len(shape) != 4 or shape[0] < 2 or shape[1] != channels or not images_BCHW.is_floating_point():
        found = f"{str(images_BCHW.dtype).removeprefix('torch.')} of shape {shape}"
        raise SupernetError(f"proxies need 2 or more normalised images (n, {channels}, height, width), not {found}")
    wanted = shape[:1] if labels_B.dim() == 1 else (shape[0], classes)
    if tuple(labels_B.shape) != wanted or not bool(((labels_B >= 0) & (labels_B < classes)).all()):
        raise SupernetError(f"proxies need a label from 0 to {classes - 1} for each of {shape[0]} images")
