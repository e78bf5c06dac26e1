"""Batches of a dataset: shuffled ones to train on, augmented ones to calibrate with, ordered ones to evaluate on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from supernets.augment import Normalisation, augmented
from supernets.dataset import Dataset, Images
from supernets.listing import Labels
from supernets.settings import Augmentation

BATCH = 256


@dataclass(frozen=True, eq=False)
class Batches:
    """Images in order, kept as 8 bits and normalised (B, C, H, W) batch by batch, with their labels."""

    pixels: NDArray[np.uint8]
    labels: Labels
    normalise: Normalisation

    @staticmethod
    def of(images: Images, dataset: Dataset, limit: int | None = None) -> Batches:
        """All images of a split, or the first `limit`: splits are in random order, so these are a fair sample."""
        return Batches(images.pixels[:limit], images.labels[:limit], Normalisation(dataset.mean, dataset.std))

    def __len__(self) -> int:
        return -(-len(self.labels) // BATCH)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        if not 0 <= number < len(self):
            raise IndexError(f"batch {number} of {len(self)}")
        span = slice(number * BATCH, (number + 1) * BATCH)
        return self.normalise(_tensor(self.pixels[span])), _tensor(self.labels[span])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self[number] for number in range(len(self)))


def batch_of(images: Images, batch: int, step: int, seed: int) -> tuple[Tensor, Tensor]:
    """The `step`-th batch: 8-bit images (B, C, H, W) and labels. Every epoch is a permutation of its own."""
    epoch, position = divmod(step, len(images) // batch)
    order = np.random.default_rng((seed, 0, epoch)).permutation(len(images))
    index = np.sort(order[position * batch : (position + 1) * batch])
    return _tensor(images.pixels[index]), _tensor(images.labels[index])


def training_batch(
    dataset: Dataset, augment: Augmentation, batch: int, step: int, seed: int, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """What a training is shown in a step: `batch_of` its training images, augmented as drawn for that step."""
    images, labels = batch_of(dataset.train, batch, step, seed)
    generator = torch.Generator().manual_seed(seed_of(seed, 1, step))
    return augmented(images.to(device), augment, generator), labels.to(device)


def calibration_batches(dataset: Dataset, augment: Augmentation, seed: int, batches: int = 4) -> list[Tensor]:
    """Augmented training images (B, C, H, W), normalised: what batch norm is calibrated on, the same for every Arch."""
    normalise = Normalisation(dataset.mean, dataset.std)
    batch = min(BATCH, len(dataset.train))
    generator = torch.Generator().manual_seed(seed_of(seed, 2, 0))
    drawn = (batch_of(dataset.train, batch, i, seed)[0] for i in range(batches))
    return [normalise(augmented(images, augment, generator)) for images in drawn]


def seed_of(*parts: int) -> int:
    """A generator's seed from the seed of the run, the purpose and the step."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _tensor(array: NDArray[np.uint8] | Labels) -> Tensor:
    """A tensor of its own: the arrays may be mapped from files."""
    return torch.from_numpy(np.array(array))
