"""One architecture made deployable: weights of its own, and the ONNX graph that has to compute what they compute in torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnxruntime as ort
from torch import Tensor, nn

from latency_tables.graphs.graph import build_model
from nas.errors import JobError
from nas.job import ExportSettings
from nas.searching.evaluator import THREADS
from search_spaces import NETWORK_INPUT, Arch, Layer, Space, network
from supernets.calibrate import calibrate
from supernets.extract import FoldedWeights, extract, fold
from supernets.supernet import Supernet
from supernets.threads import torch_threads


@dataclass(frozen=True, eq=False)
class Weights:
    """The weights of one architecture alone: as a torch module in evaluation mode, and folded, as graphs take them."""

    plain: nn.Module
    folded: FoldedWeights


@dataclass(frozen=True, eq=False)
class Specialised:
    """One architecture as an ONNX model, beside the module that it has to agree with. `batch`: of the graph, None: free."""

    arch: Arch
    plain: nn.Module
    model: bytes
    batch: int | None


def check_versions(settings: ExportSettings) -> None:
    """Refuse an opset or IR version that cannot be built or loaded here, before a supernet is trained for it."""
    layer = Layer("act", "hswish", (NETWORK_INPUT,), (1, 1, 1), (1, 1, 1))
    proto = build_model([layer], batch=1, opset=settings.opset, ir_version=settings.ir_version)
    open_model(proto.SerializeToString(), f"opset {settings.opset} and IR version {settings.ir_version}")


def supernet_weights(net: Supernet, arch: Arch, calibration: Sequence[Tensor]) -> Weights:
    """Those that the architecture has in a supernet, with batch norm calibrated on normalised images (B, C, H, W)."""
    with torch_threads(THREADS):
        stats = calibrate(net, arch, calibration)
        return Weights(extract(net, arch, stats), fold(net, arch, stats))


def specialise(space: Space, arch: Arch, weights: Weights, settings: ExportSettings, batch: int) -> Specialised:
    """The graph of an architecture with these weights. `batch`: of the graph, unless the settings leave it free."""
    free = None if settings.dynamic_batch else batch
    proto = build_model(
        network(space, arch), weights.folded, batch=free, opset=settings.opset, ir_version=settings.ir_version
    )
    return Specialised(arch, weights.plain, proto.SerializeToString(), free)


def open_model(model: bytes, name: str) -> ort.InferenceSession:
    """A session on one thread of this machine's processor; `JobError` names what cannot be loaded."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own kinds, all of them direct children of Exception
        raise JobError(f"ONNX Runtime cannot load the model of {name}: {error}") from error
