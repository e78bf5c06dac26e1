"""Time from an encoded image to the answer: decode, crop, resize, normalise, infer. Needs Pillow."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_tables.device import Device
from latency_tables.errors import LatencyError
from latency_tables.measuring.measure import Protocol, measure
from latency_tables.measuring.measurement import Measurement
from latency_tables.measuring.sessions import Graph, Opener, Run, load_graph, open_session

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What the images go through, as an exported model's metadata say: of pixels scaled to [0, 1], one value a channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3) or min(self.std, default=0) <= 0:
            raise LatencyError(f"mean and std must be 1 or 3 numbers each, std above 0; not {self.mean}, {self.std}")


def end_to_end(images: Sequence[bytes], preprocessing: Preprocessing) -> Opener:
    """What `measure` opens graphs with, so that a run takes the next images and times all that is done to them.

    A run takes as many images as the device's batch. `LatencyError` names the image that cannot be decoded.
    """
    if not images:
        raise LatencyError("end-to-end time needs at least one encoded image")
    pillow = _pillow()

    def opened(graph: Graph, device: Device) -> Run:
        loaded = load_graph(graph, device)
        if len(loaded.feeds) != 1:
            raise LatencyError(
                f"graph {graph.key!r}: end-to-end time needs one input of images, not {len(loaded.feeds)}"
            )
        ((name, wanted),) = loaded.feeds.items()
        if wanted.ndim != 4 or wanted.shape[1] != len(preprocessing.mean):
            raise LatencyError(
                f"graph {graph.key!r}: input {name!r} must be (batch, {len(preprocessing.mean)}, height, width), "
                f"not {wanted.shape}"
            )
        batches = cycle(_batches(images, len(wanted)))
        mean, std = (np.array(part, np.float32).reshape(-1, 1, 1) for part in (preprocessing.mean, preprocessing.std))

        def timed() -> float:
            chosen = next(batches)
            start = time.perf_counter_ns()
            pixels = np.stack([_decoded(pillow, images, index, wanted.shape[1:]) for index in chosen])
            loaded.infer({name: ((pixels - mean) / std).astype(wanted.dtype, copy=False)})
            return (time.perf_counter_ns() - start) / 1e3

        timed()
        return timed

    return opened


def measure_end_to_end(
    graphs: Sequence[Graph],
    device: Device,
    images: Sequence[bytes],
    preprocessing: Preprocessing,
    protocol: Protocol | None = None,
) -> dict[str, Measurement]:
    """As `measure`, from encoded images to answers. Hold `exclusive` meanwhile."""
    opener = end_to_end(images, preprocessing)
    return measure(graphs, device, protocol=protocol, open_graph=opener, open_canary=open_session)


def _batches(images: Sequence[bytes], size: int) -> list[list[int]]:
    """Indices of the images of each run, until it begins anew."""
    return [[(start + offset) % len(images) for offset in range(size)] for start in range(len(images))]


def _decoded(pillow: Any, images: Sequence[bytes], index: int, shape: tuple[int, ...]) -> F32:
    """One image as pixels from 0 to 1: (channels, height, width), cropped to a square and resized."""
    try:
        with pillow.open(BytesIO(images[index])) as image:
            plain = image.convert("L" if shape[0] == 1 else "RGB")
    except Exception as error:  # decoders raise whatever they like
        raise LatencyError(f"image {index} cannot be decoded: {error}") from error
    side = min(plain.size)
    left, top = ((extent - side) // 2 for extent in plain.size)
    box = (left, top, left + side, top + side)
    small = plain.resize((shape[2], shape[1]), pillow.Resampling.BILINEAR, box)
    pixels = np.asarray(small, np.float32) / np.float32(255)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _pillow() -> Any:
    try:
        return import_module("PIL.Image")
    except ImportError as error:
        raise LatencyError("end-to-end time needs Pillow to decode images: pip install pillow") from error
