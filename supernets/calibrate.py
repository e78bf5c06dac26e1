"""Batch-norm statistics of one architecture, and its accuracy with them.

The running statistics of a supernet mix all the sub-networks that were trained, so an architecture that is evaluated, compared
or deployed gets its own, from training images (Yu and Huang, "Universally Slimmable Networks", ICCV 2019). They must be
*augmented* ones: on CIFAR-10, largest and smallest sub-network, running statistics gave 77.6 / 73.2%, statistics of clean
images 74.6 / 71.2%, of augmented ones 79.6 / 77.5%.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

from search_spaces import Arch
from supernets.elastic import ElasticBatchNorm2d
from supernets.errors import SupernetError
from supernets.supernet import Stats, Supernet
from supernets.tasks import task_of


def resize(x_BCHW: Tensor, size: int) -> Tensor:
    """The images at `size` x `size` px: bilinear with antialiasing, or as they are where they fit."""
    if x_BCHW.shape[-1] == size and x_BCHW.shape[-2] == size:
        return x_BCHW
    return F.interpolate(x_BCHW, (size, size), mode="bilinear", align_corners=False, antialias=True)


def resolution(arch: Arch) -> int:
    """Height and width in px of the images that this architecture takes."""
    return int(arch.values["resolution"])


def calibrate(net: Supernet, arch: Arch, batches: Sequence[Tensor]) -> Stats:
    """Mean and unbiased variance of every batch norm, also of exits, averaged over batches of augmented training images."""
    if not batches:
        raise SupernetError("calibration needs at least one batch of images")
    totals: dict[str, tuple[Tensor, Tensor]] = {}

    def collect(name: str, norm: ElasticBatchNorm2d, x_BCHW: Tensor) -> Tensor:
        channels = x_BCHW.shape[1]
        mean, var = torch.zeros(channels, device=x_BCHW.device), torch.zeros(channels, device=x_BCHW.device)
        # With momentum 1 the "running" statistics that come back are exactly those of this batch.
        y_BCHW: Tensor = norm(x_BCHW, mean, var, batch=True, momentum=1.0)
        if name in totals:
            totals[name][0].add_(mean)
            totals[name][1].add_(var)
        else:
            totals[name] = (mean, var)
        return y_BCHW

    with torch.no_grad():
        for x_BCHW in batches:
            net.run_all(resize(x_BCHW.to(net.device), resolution(arch)), arch, collect)
    return {name: (mean / len(batches), var / len(batches)) for name, (mean, var) in totals.items()}


def accuracy(net: Supernet, arch: Arch, stats: Stats | None, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The score in [0, 1] over batches of images (B, C, H, W) and labels, in evaluation mode: top-1 accuracy, or mean average
    precision where images have any number of labels."""
    return scored(answers(net, arch, stats, batches))


def scored(answered: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The same of logits (B, K) and labels, batch by batch."""
    kept = []
    for logits_BK, y_B in answered:
        task = task_of(y_B)
        kept.append(task.kept(logits_BK, y_B))
    return task.score(torch.cat(kept))


def answers(
    net: Supernet, arch: Arch, stats: Stats | None, batches: Iterable[tuple[Tensor, Tensor]]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits (B, K) on the CPU, and labels, of batches of images (B, C, H, W), in evaluation mode."""
    for x_BCHW, y_B in batches:
        # For one batch at a time: whoever reads the answers may compute with gradients in between.
        with torch.no_grad(), evaluating(net):
            logits_BK = net(resize(x_BCHW.to(net.device), resolution(arch)), arch, stats)
        yield logits_BK.cpu(), y_B


@contextmanager
def evaluating(net: Supernet) -> Iterator[None]:
    """Evaluation mode for a while."""
    training = net.training
    net.eval()
    try:
        yield
    finally:
        net.train(training)
