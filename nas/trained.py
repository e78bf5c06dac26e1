"""A run's trained supernet with the images to judge it on, and the architectures that a user names on it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from nas.errors import JobError
from nas.folder import RunFolder
from nas.job import Job
from search_spaces import Arch, Space, costs, float_arch, float_space
from supernets import checkpoint
from supernets.batches import Batches, calibration_batches
from supernets.dataset import Dataset, load
from supernets.picks import nested
from supernets.recipes import LEVELS
from supernets.supernet import Supernet

Split = Literal["validation", "test"]
ENDS = ("largest", "median", "smallest")
FRONT = "front"
NESTED = "nested"
MEDIAN_OF = 1001


@dataclass(frozen=True)
class Trained:
    """A supernet, where it lies, its run, and the images that the run calibrates with and judges by."""

    file: Path
    folder: RunFolder
    job: Job
    net: Supernet
    dataset: Dataset

    @property
    def space(self) -> Space:
        return self.net.space

    def searched_arch(self, values: Mapping[str, Any]) -> Arch:
        """The architecture with these values of the search's space, as the supernet has it: in fp32."""
        return float_arch(self.searched, self.searched.arch(values))

    @cached_property
    def searched(self) -> Space:
        """The space of the run's search: that of the supernet, with precision where the job has it."""
        return self.folder.space

    def calibration(self) -> list[Tensor]:
        """What the run's search and export calibrate with."""
        batches = self.job.search.calibration_batches
        return calibration_batches(self.dataset, self.job.train.augment, self.job.seed, batches)

    def images(self, split: Split) -> Batches:
        """All of a split, in order."""
        images = self.dataset.test if split == "test" else self.dataset.validation
        return Batches.of(images, self.dataset)


def open_trained(path: Path, images_of: Path | None = None) -> Trained:
    """Of the folder of a run, or of a supernet or training checkpoint; `images_of` is the run whose images are used, where the
    file does not lie in its folder."""
    folder = RunFolder.open(images_of or (path.parent if path.is_file() else path))
    job = folder.job
    if not path.is_file():
        RunFolder.open(path).result("train")
    file = path if path.is_file() else RunFolder(path).supernet
    net = _load_net(file, float_space(folder.space))
    dataset = load(job.source, cache=folder.cache)
    return Trained(file, folder, job, net, dataset)


def archs_named(trained: Trained, words: Sequence[str]) -> dict[Arch, str]:
    """Different architectures with what they are called: `largest`, `median` (in MACs), `smallest`, the `nested` chain, all of
    the run's fronts, or one by its id, which the run's search must have evaluated."""
    found: dict[Arch, str] = {}
    for word in words:
        for arch, name in _named(trained, word):
            found.setdefault(arch, name)
    return found


def median_arch(space: Space) -> Arch:
    """The network of median MACs among a thousand that are drawn uniformly, always the same ones."""
    codes = space.sample(np.random.default_rng(0), MEDIAN_OF)
    middle = np.argsort(costs(space, codes, "macs"), kind="stable")[MEDIAN_OF // 2]
    return space.decode(codes[middle : middle + 1])[0]


def _named(trained: Trained, word: str) -> list[tuple[Arch, str]]:
    space = trained.space
    ends = {"largest": space.largest, "median": lambda: median_arch(space), "smallest": space.smallest}
    if word in ends:
        return [(ends[word](), word)]
    if word == NESTED:
        return [(arch, f"nested {i}") for i, arch in enumerate(nested(space, LEVELS), start=1)]
    if word != FRONT and not re.fullmatch("[0-9a-f]{12}", word):
        raise JobError(
            f"{word!r} is none of {', '.join((*ENDS, NESTED, FRONT))}, nor the id of an architecture (12 digits)"
        )
    found = trained.folder.result("search")
    if word == FRONT:
        fronts = [(device["name"], row) for device in found["devices"] for row in device["front"]]
        return [(trained.searched_arch(row["arch"]), f"front of {name}") for name, row in fronts]
    rows: list[dict[str, Any]] = found["search"]["architectures"]
    known = {row["arch_id"]: row["arch"] for row in rows}
    if word not in known:
        raise JobError(
            f"the search of {trained.folder.root} evaluated no architecture {word}; its search.json has those that it did"
        )
    return [(trained.searched_arch(known[word]), "")]


def _load_net(file: Path, space: Space) -> Supernet:
    """The supernet of a file, which may be a training's checkpoint."""
    found = checkpoint.read(file, space)
    net = Supernet(space)
    checkpoint.load_weights(net, found.result, file)
    return net.eval()
