"""What a runner holds: the supernet with the images that its sub-networks are calibrated on and scored with."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from search_spaces import Arch
from supernets.calibrate import accuracy, calibrate
from supernets.supernet import Supernet
from supernets.threads import torch_threads

# One thread an evaluator, however many run side by side: rounding may depend on the number of threads, and the same
# architecture must score the same under any number of jobs.
THREADS = 1


@dataclass(frozen=True, slots=True)
class Score:
    """Top-1 accuracy on validation images, and the seconds that it took."""

    val_accuracy: float
    seconds: float


@dataclass(frozen=True)
class Evaluator:
    """Scores architectures by calibrating batch norm on `calibration` and counting hits on `validation`."""

    net: Supernet
    calibration: list[Tensor]
    validation: Iterable[tuple[Tensor, Tensor]]

    def score(self, arch: Arch) -> Score:
        start = time.perf_counter()
        with torch_threads(THREADS):
            hits = accuracy(self.net, arch, calibrate(self.net, arch, self.calibration), self.validation)
        return Score(hits, time.perf_counter() - start)
