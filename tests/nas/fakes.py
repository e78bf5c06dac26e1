"""What the tests of `nas` share: a made-up landscape with its predictor and runner, a machine on which every inference
takes the same time, a display that interrupts, and the smallest job that goes through all stages."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from latency_tables.device import Device
from latency_tables.measuring.footprint import Footprint
from latency_tables.measuring.machine import Here
from latency_tables.measuring.needs import FOOTPRINT, Find
from latency_tables.measuring.sessions import Graph, Opener, Run
from nas import pipeline
from nas.searching.evaluator import Score
from search_spaces import Arch, Codes, Space, define_space

# The nets are too small to share out; on a loaded machine a second thread only waits.
torch.set_num_threads(1)

LITTLE = {
    "name": "little",
    "data": {"kind": "digits", "channels": 1, "validation_fraction": 0.5, "test_fraction": 0.2},
    "space": {
        "family": "tiny",
        "resolutions": [4, 8],
        "stem": 8,
        "channels": [32],
        "strides": [2],
        "widths": [0.5, 1.0],
        "depths": [1, 2],
        "expands": [0.5, 1.0],
        "kernels": [1, 3],
    },
    "train": {"epochs": 2, "batch": 64, "layout": "fp32", "evaluations": 2, "augment": {"mirror": False}},
    "devices": [{"name": "one"}, {"name": "four", "batch": 4}],
    "profile": {"networks": 14, "budget_s": 0.1, "precision": 0.2},
    "search": {"evaluations": 10, "population": 4, "validation_images": 200, "calibration_batches": 1},
}


def write_job(path: Path, **changes) -> Path:
    """The little job as a file, with whole sections or single keys (`section__key`) changed; None takes one out."""
    document = {key: dict(value) if isinstance(value, dict) else value for key, value in LITTLE.items()}
    for name, value in changes.items():
        section, _, key = name.partition("__")
        where = document.setdefault(section, {}) if key else document
        where[key or section] = value
        if value is None:
            del where[key or section]
    path.write_text(yaml.safe_dump(document))
    return path


def small_space(**changes) -> Space:
    """80 networks, or as many as the changes make."""
    settings = {key: value for key, value in LITTLE["space"].items() if key != "family"}
    return define_space("tiny", **settings | {"in_channels": 1} | changes)


class FakePredictor:
    """Milliseconds that add up over the choices: `base` and what every step along a choice costs."""

    def __init__(self, space: Space, seed: int = 0, base: float = 1.0) -> None:
        self.space = space
        self.base = base
        self.step_ms = np.random.default_rng(seed).uniform(0.1, 1.0, len(space.choices))

    def predict(self, codes: Codes) -> np.ndarray:
        return self.base + self.space.canonical(codes) @ self.step_ms

    def interval(self, codes: Codes, coverage: float) -> tuple[np.ndarray, np.ndarray]:
        return 0.9 * self.predict(codes), 1.1 * self.predict(codes)

    def upper(self, codes: Codes, probability: float) -> np.ndarray:
        return (1 + probability / 10) * self.predict(codes)

    def save(self, path) -> None:
        raise NotImplementedError


FAKE_IMAGES = 400


def fake_accuracy(space: Space, arch: Arch, images: int | None = None) -> float:
    """Rises with every choice, with diminishing returns, plus something of the architecture's own; on few images more so."""
    codes = space.encode([arch])[0] / np.maximum(space.cardinalities - 1, 1)
    worth = np.random.default_rng(7).uniform(0.0, 1.0, len(codes)) ** 3
    noise = int(arch.id[:6], 16) / 16**6
    luck = 0.0 if images in (None, FAKE_IMAGES) else 0.04 * int(arch.id[6:], 16) / 16**6
    return float(0.9 * (1 - np.exp(-4 * codes @ worth / worth.sum())) + 0.02 * noise + luck)


class Interrupted(Exception):
    """What a test raises in the middle of something."""


class FakeRunner:
    """Scores by `fake_accuracy`. `stop_after`: evaluations until it raises; `shuffle`: answers in an order drawn from it."""

    def __init__(self, space: Space, stop_after: int | None = None, shuffle: int | None = None) -> None:
        self.space = space
        self.stop_after = stop_after
        self.rng = None if shuffle is None else np.random.default_rng(shuffle)
        self.scored: list[str] = []

    def scores(self, archs: Sequence[Arch], images: int | None = None) -> Iterator[tuple[Arch, Score]]:
        order = range(len(archs)) if self.rng is None else self.rng.permutation(len(archs))
        for i in order:
            if len(self.scored) == self.stop_after:
                raise Interrupted
            self.scored.append(archs[i].id)
            yield archs[i], Score(fake_accuracy(self.space, archs[i], images), 0.0, images or FAKE_IMAGES)

    def __enter__(self) -> "FakeRunner":
        return self

    def __exit__(self, *error) -> None:
        return None


def open_timed(graph: Graph, device: Device) -> Run:
    """A machine without noise: what an inference takes follows from the size of the graph and the batch."""
    time_us = 5.0 + len(graph.model) / 1e3 + device.batch
    return lambda: time_us


def footprints() -> dict[str, Find]:
    """What a network takes on that machine follows from the size of its graph, too."""
    return {FOOTPRINT: lambda graph, device: Footprint(len(graph.model), 1.0, 0.5, 2 * len(graph.model))}


def on_a_quiet_machine(patch: pytest.MonkeyPatch, scratch: Path, open_graph: Opener = open_timed) -> None:
    """Measure with `open_graph`, under a lock of this test's own."""
    patch.setattr(tempfile, "tempdir", str(scratch))
    patch.setattr(pipeline, "Here", partial(Here, open_graph=open_graph, find_needs=footprints))


class FakeDisplay:
    """Remembers what it was shown; the progress call number `at` of the stage `interrupt` is Ctrl-C."""

    def __init__(self, interrupt: str | None = None, at: int = 1) -> None:
        self.interrupt = interrupt
        self.at = at
        self.shown: list[str] = []
        self.finished_before: list[str] = []
        self.warnings: list[str] = []

    @contextmanager
    def stage(self, name: str) -> Iterator:
        self.shown.append(name)
        calls = 0

        def progress(done: int, total: int, text: str) -> None:
            nonlocal calls
            calls += 1
            if (name, calls) == (self.interrupt, self.at):
                raise KeyboardInterrupt

        yield progress

    def note(self, name: str, text: str) -> None:
        if text == "finished before":
            self.finished_before.append(name)
        else:
            self.warnings.append(text)
