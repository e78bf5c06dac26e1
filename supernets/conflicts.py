"""Whether sub-networks pull their shared weights the same way: cosines between the gradients of their losses.

Two gradients conflict where their cosine is negative: a step that helps one network harms the other (Yu et al., "Gradient
Surgery for Multi-Task Learning", NeurIPS 2020, definition 1). Where they do, sub-networks can be given supernets of their
own, cut along choices whose gradients match least (Hu et al., "Generalizing Few-Shot NAS with Gradient Matching", ICLR 2022).

Shapes: B images.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean, pstdev

import numpy as np
import torch
from torch import Tensor

from search_spaces import Arch
from supernets.augment import Normalisation
from supernets.batches import training_batch
from supernets.calibrate import resize, resolution
from supernets.dataset import Dataset
from supernets.proxies import Candidate
from supernets.settings import TrainSettings
from supernets.supernet import Supernet

LARGEST_SMALLEST, LARGEST_RANDOM, RANDOM_RANDOM = "largest-smallest", "largest-random", "random-random"
OTHER_IMAGES = "largest, other images"
"""The largest network with itself on the batch before: how far the images alone turn a gradient."""
PAIRS = (LARGEST_SMALLEST, LARGEST_RANDOM, RANDOM_RANDOM, OTHER_IMAGES)
OVERALL = ""
"""The part that is the whole network."""

Gradient = Mapping[str, Tensor]
"""By parameter, without those that a network does not have."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """Cosines, from -1 to 1, between gradients of one kind of pair, in one layer or over all weights (`OVERALL`)."""

    pair: str
    layer: str
    cosines: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Higher is better: 1 where both want the same."""
        return fmean(self.cosines)

    @property
    def std(self) -> float:
        """Over pairs and batches."""
        return pstdev(self.cosines)

    @property
    def negative(self) -> float:
        """The share of pairs in conflict; lower is better."""
        return sum(cosine < 0 for cosine in self.cosines) / len(self.cosines)


def conflicts(
    net: Supernet,
    batches: Iterable[tuple[Tensor, Tensor]],
    networks: int,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[Conflict, ...]:
    """All kinds of pairs over the whole network and in each layer, over batches of normalised images and labels.

    On each batch the largest, the smallest and `networks` others, drawn anew, all of them with that batch. `progress` hears of
    batches done.
    """
    space, rng = net.space, np.random.default_rng(seed)
    found: dict[tuple[str, str], list[float]] = {}
    before: Gradient | None = None
    for done, (x_BCHW, y_B) in enumerate(batches, 1):
        archs = [space.largest(), space.smallest(), *space.decode(space.sample(rng, networks))]
        gradients = [gradient(net, arch, x_BCHW, y_B) for arch in archs]
        for pair, one, other in _pairs(gradients, before):
            for layer, cosine in cosines(one, other).items():
                found.setdefault((pair, layer), []).append(cosine)
        before = gradients[0]
        progress(done)
    order = sorted(found, key=lambda key: (key[1] != OVERALL, PAIRS.index(key[0])))
    return tuple(Conflict(pair, layer, tuple(found[pair, layer])) for pair, layer in order)


def gradient(net: Supernet, arch: Arch, x_BCHW: Tensor, y_B: Tensor) -> Gradient:
    """Of the cross-entropy of the labels, with batch norm by the batch as in training; the net stays as it is."""
    loss = Candidate(net, arch, resize(x_BCHW, resolution(arch)), y_B).loss()
    named = dict(net.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: each for name, each in zip(named, found, strict=True) if each is not None}


def cosines(one: Gradient, other: Gradient) -> dict[str, float]:
    """By layer, `OVERALL` first, the cosine over the weights that both gradients move; layers without such are left out.

    A slice leaves the rest of a weight without a gradient, so weights that only one network has do not count.
    """
    sums: dict[str, Tensor] = {}
    for name in one:
        if name in other:
            a, b = one[name].double(), other[name].double()
            products = torch.stack([(a * b).sum(), (a.square() * (b != 0)).sum(), (b.square() * (a != 0)).sum()])
            for part in (OVERALL, _layer_of(name)):
                sums[part] = sums.get(part, 0) + products
    return {part: float(dot / (aa * bb).sqrt()) for part, (dot, aa, bb) in sums.items() if aa > 0 and bb > 0}


def training_batches(dataset: Dataset, settings: TrainSettings, batches: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches as the first ones of a training: augmented and normalised images (B, C, H, W), and labels (B,)."""
    normalise = Normalisation(dataset.mean, dataset.std)
    for step in range(batches):
        batch = min(settings.batch, len(dataset.train))
        images, labels = training_batch(dataset, settings.augment, batch, step, settings.seed)
        yield normalise(images), labels


def _pairs(gradients: list[Gradient], before: Gradient | None) -> Iterator[tuple[str, Gradient, Gradient]]:
    largest, smallest, *others = gradients
    yield LARGEST_SMALLEST, largest, smallest
    yield from ((LARGEST_RANDOM, largest, other) for other in others)
    yield from ((RANDOM_RANDOM, one, other) for one, other in itertools.combinations(others, 2))
    if before is not None:
        yield OTHER_IMAGES, before, largest


def _layer_of(parameter: str) -> str:
    """`s1.b0.mid` of `s1.b0.mid.weight`, `s1.b0.mid.transforms.5to3` and `s1.b0.mid_norm.bias`."""
    return parameter.partition(".transforms.")[0].removesuffix(".weight").removesuffix(".bias").removesuffix("_norm")
