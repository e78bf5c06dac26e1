"""What a runner holds: the supernet with the images that its sub-networks are calibrated on and scored with."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from torch import Tensor

from nas.deployed import Deployed, score_of
from nas.errors import JobError
from search_spaces import Arch, Space, float_arch, precision_of
from supernets.batches import Batches
from supernets.calibrate import accuracy, calibrate
from supernets.supernet import Supernet
from supernets.threads import torch_threads

# One thread an evaluator, however many run side by side: rounding may depend on the number of threads, and the same
# architecture must score the same under any number of jobs.
THREADS = 1


@dataclass(frozen=True, slots=True)
class Score:
    """Accuracy on validation images (mean average precision where images have any number of labels), the seconds that it
    took, and how many images were read."""

    val_accuracy: float
    seconds: float
    images: int


@dataclass(frozen=True)
class Evaluator:
    """Scores architectures of `space` by calibrating batch norm on `calibration` and judging its answers on `validation`.

    `net` is a supernet of `space` without precision. What has integers is scored as it is deployed, in ONNX Runtime.
    """

    net: Supernet
    space: Space
    calibration: list[Tensor]
    validation: Batches

    def score(self, arch: Arch, images: int | None = None) -> Score:
        """The score on the first `images` validation images, or on all where there are no more."""
        start = time.perf_counter()
        read = _first(self.validation, images)
        with torch_threads(THREADS):
            plain = float_arch(self.space, arch)
            stats = calibrate(self.net, plain, self.calibration)
            if precision_of(arch) == "fp32":
                found = accuracy(self.net, plain, stats, read)
            else:
                graphs = Deployed.of(self.net, self.space, arch, stats, self.calibration)
                found = score_of(graphs.model(arch), arch, read)
        return Score(found, time.perf_counter() - start, len(read.labels))


def _first(batches: Batches, images: int | None) -> Batches:
    """The first so many images; splits are in random order, so these are a fair sample."""
    if images is not None and images < 1:
        raise JobError(f"an architecture is scored on one validation image or more, not on {images}")
    return replace(batches, pixels=batches.pixels[:images], labels=batches.labels[:images])
