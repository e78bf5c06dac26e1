"""What is deployed of a supernet: the graph of one architecture, each part in its precision. The same is searched, measured
and exported."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnxruntime as ort
import torch
from onnx import ModelProto
from torch import Tensor

from latency_tables.graphs.graph import build_model
from latency_tables.graphs.ranges import observed_ranges
from nas.errors import JobError
from search_spaces import Arch, Space, float_arch, network, quantised
from supernets.calibrate import resize, resolution
from supernets.extract import fold
from supernets.supernet import Stats, Supernet
from supernets.tasks import task_of

# Training images that the ranges of integers are seen on. Validation accuracy of 8 networks of `tiny` on CIFAR-10 in int8,
# less than in fp32: 0.00 points on average, between -0.14 and 0.22.
RANGE_IMAGES = 128


def deployed(
    net: Supernet,
    space: Space,
    arch: Arch,
    stats: Stats,
    calibration: Sequence[Tensor],
    *,
    batch: int | None = None,
    opset: int = 17,
    ir_version: int = 8,
) -> ModelProto:
    """The graph of an architecture of `space` with the weights of `net`, a supernet of that space without precision.

    stats: of batch norm. calibration: batches (B, C, H, W) of normalised training images, which tell the ranges of integers.
    """
    layers, weights = network(space, arch), fold(net, float_arch(space, arch), stats)
    ranges = None
    if quantised(layers):
        images = resize(calibration[0][:RANGE_IMAGES], resolution(arch))
        ranges = observed_ranges(layers, weights, [images.numpy()])
    return build_model(layers, weights, batch=batch, opset=opset, ir_version=ir_version, ranges=ranges)


def session_of(model: bytes, name: str) -> ort.InferenceSession:
    """On one thread of the processor; a `JobError` says for what the runtime refuses it."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own kinds, all of them direct children of Exception
        raise JobError(f"ONNX Runtime cannot load the model of {name}: {error}") from error


def score_of(model: ModelProto, arch: Arch, images: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The score of a graph with a free batch over batches of images (B, C, H, W) and labels, as `supernets.accuracy`."""
    session, kept = session_of(model.SerializeToString(), arch.id), []
    for x_BCHW, y_B in images:
        logits = session.run(None, {"input": resize(x_BCHW, resolution(arch)).contiguous().numpy()})[0]
        task = task_of(y_B)
        kept.append(task.kept(torch.from_numpy(logits), y_B))
    return task.score(torch.cat(kept))
