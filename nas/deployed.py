"""What is deployed of a supernet: the graph of one architecture, each part in its precision. The same is searched, measured
and exported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import Tensor

from latency_tables.graphs.graph import build_model
from latency_tables.graphs.ranges import observed_ranges
from nas.errors import JobError
from search_spaces import Arch, Space, float_arch, float_space, network, quantised
from supernets.calibrate import resize, resolution
from supernets.extract import FoldedWeights, fold
from supernets.supernet import Stats, Supernet
from supernets.tasks import task_of

# Training images that the ranges of integers are seen on. Validation accuracy of 8 networks of `tiny` on CIFAR-10 in int8,
# less than in fp32: 0.00 points on average, between -0.14 and 0.22.
RANGE_IMAGES = 128
# Images that a network answers at once. Processor time of 256 at once in units of this: `mobilenet_v3` 1.35-1.4 in ONNX Runtime
# and 2.4 in torch, `tiny` 1.0-1.2 and 1.07; 8 at once 0.95-1.0 and 1.1-2.
PORTION = 32


@dataclass(frozen=True, eq=False)
class Deployed:
    """One network of a supernet, batch norm folded in, of which graphs in any precision are built.

    images: the training images (B, C, H, W), normalised and of its size, on which the ranges of integers are seen.
    """

    space: Space
    arch: Arch
    """In fp32, of the space without precision."""
    weights: FoldedWeights
    images: Tensor
    trained_for: Mapping[str, tuple[float, float]] | None = None
    """Ranges of activations that the weights were trained for; None: those that are seen."""

    @staticmethod
    def of(net: Supernet, space: Space, arch: Arch, stats: Stats, calibration: Sequence[Tensor]) -> Deployed:
        """An architecture of `space` with the weights of `net`, a supernet of that space without precision.

        stats: of batch norm. calibration: batches of normalised training images.
        """
        plain = float_arch(space, arch)
        images = as_given(calibration[0][:RANGE_IMAGES], arch)
        return Deployed(space, plain, fold(net, plain, stats), images)

    @cached_property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Of the activations of each layer, and of the input."""
        if self.trained_for is not None:
            return dict(self.trained_for)
        return observed_ranges(network(float_space(self.space), self.arch), self.weights, [self.images.numpy()])

    def model(self, arch: Arch, *, batch: int | None = None, opset: int = 17, ir_version: int = 8) -> ModelProto:
        """The graph of the network in the precisions of `arch`, which differs in nothing else; `batch` None leaves it open."""
        assert float_arch(self.space, arch) == self.arch, "another network"
        layers = network(self.space, arch)
        ranges = self.ranges if quantised(layers) else None
        return build_model(layers, self.weights, batch=batch, opset=opset, ir_version=ir_version, ranges=ranges)


def open_model(model: bytes, name: str) -> ort.InferenceSession:
    """On one thread of the processor; a `JobError` says for what the runtime refuses it."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own kinds, all of them direct children of Exception
        raise JobError(f"ONNX Runtime cannot load the model of {name}: {error}") from error


def as_given(x_BCHW: Tensor, arch: Arch) -> Tensor:
    """Images of the size and in the order of numbers in which a graph of an architecture takes them."""
    return resize(x_BCHW, resolution(arch)).contiguous()


def answers_of(session: ort.InferenceSession, images: NDArray[Any]) -> Tensor:
    """Logits (B, K) of images as the graph takes them, in portions; one of a fixed batch gets its own, the last one padded."""
    entry = session.get_inputs()[0]
    fixed = isinstance(entry.shape[0], int)
    batch = entry.shape[0] if fixed else PORTION
    missing = -len(images) % batch if fixed else 0
    padded = np.concatenate([images, np.zeros((missing, *images.shape[1:]), dtype=images.dtype)]) if missing else images
    parts = [session.run(None, {entry.name: padded[i : i + batch]})[0] for i in range(0, len(padded), batch)]
    return torch.from_numpy(np.concatenate(parts)[: len(images)])


def score_of(model: ModelProto, arch: Arch, images: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The score of a graph over batches of images (B, C, H, W) and labels, as `supernets.accuracy`."""
    session, kept = open_model(model.SerializeToString(), arch.id), []
    for x_BCHW, y_B in images:
        task = task_of(y_B)
        kept.append(task.kept(answers_of(session, as_given(x_BCHW, arch).numpy()), y_B))
    return task.score(torch.cat(kept))
