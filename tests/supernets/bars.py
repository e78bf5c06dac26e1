"""Trainings of a second: images that a small supernet learns at once, and what trainings are compared by."""

import numpy as np
import torch

from search_spaces import Arch, Space
from supernets.batches import Batches, calibration_batches
from supernets.calibrate import accuracy, calibrate
from supernets.dataset import Dataset, Images
from supernets.settings import Augmentation, TrainSettings
from supernets.state import TrainState
from supernets.supernet import Supernet
from tests.contracts.supernet_contract import small_space

CLASSES = 4


class Outage(Exception):
    """The machine goes down."""


def interrupt(done: int, total: int, text: str) -> None:
    raise Outage


def bars(space: Space, count: int = 64, seed: int = 0) -> Dataset:
    """Noisy images with a bright bar whose height is the class: bars may be shifted aside and mirrored."""
    channels, size = space.settings["in_channels"], space.settings["resolutions"][-1]
    rng = np.random.default_rng(seed)

    def drawn(n: int) -> Images:
        labels = np.arange(n, dtype=np.int64) % CLASSES
        pixels = rng.integers(0, 120, (n, channels, size, size)).astype(np.uint8)
        for i, label in enumerate(labels):
            pixels[i, :, label * size // CLASSES : (label + 1) * size // CLASSES] += 120
        return Images(pixels, labels)

    return Dataset.of(drawn(count), drawn(24), drawn(24), tuple("abcd"), "bars")


def space_of(family: str, **changes) -> Space:
    return small_space(family, num_classes=CLASSES, **changes)


SETTINGS = TrainSettings(
    epochs=3,
    batch=16,
    learning_rate=0.05,
    warmup=0.1,
    label_smoothing=0.0,
    ema_decay=0.9,
    augment=Augmentation(shift_px=1, mirror=True),
    layout="fp32_channels_last",
    evaluations=1,
)


def timeless(state: TrainState) -> list[dict[str, float]]:
    """The history without the clock."""
    return [{field: value for field, value in row.items() if field != "seconds"} for row in state.history]


def same(a: Supernet, b: Supernet) -> bool:
    other = b.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in a.state_dict().items())


def judged(state: TrainState, dataset: Dataset, arch: Arch) -> float:
    """On test images, with statistics of its own."""
    stats = calibrate(state.average, arch, calibration_batches(dataset, SETTINGS.augment, seed=0))
    return accuracy(state.average, arch, stats, Batches.of(dataset.test, dataset))
