"""Specialisations: sub-networks made deployable as ONNX, checked against torch on real images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor

from latency_tables.graphs.graph import build_model
from nas.errors import JobError
from nas.job import ExportSettings
from nas.searching.evaluator import THREADS
from search_spaces import NETWORK_INPUT, Arch, Layer, canonical_json, network
from search_spaces.files import write_bytes
from supernets.calibrate import calibrate, resize, resolution
from supernets.extract import extract, fold
from supernets.supernet import Supernet
from supernets.tasks import agreeing, task_of
from supernets.threads import torch_threads

MAX_ABS_DIFF = 1e-4


@dataclass(frozen=True, slots=True)
class Checked:
    """One architecture as an ONNX model, and how it does on the test images.

    `max_abs_diff` is between the logits of ONNX Runtime and torch; `top1_agreement` the share of images on which both
    name the same class, or the same set of labels where an image may have several.
    """

    arch: Arch
    model: bytes
    test_accuracy: float
    max_abs_diff: float
    top1_agreement: float
    images: int


def check_versions(settings: ExportSettings) -> None:
    """Refuse an opset or IR version that cannot be built or loaded here, before a supernet is trained for it."""
    layer = Layer("act", "hswish", (NETWORK_INPUT,), (1, 1, 1), (1, 1, 1))
    proto = build_model([layer], batch=1, opset=settings.opset, ir_version=settings.ir_version)
    _session(proto.SerializeToString(), f"opset {settings.opset} and IR version {settings.ir_version}")


def specialise(
    net: Supernet,
    arch: Arch,
    calibration: Sequence[Tensor],
    test: Iterable[tuple[Tensor, Tensor]],
    settings: ExportSettings,
    batch: int,
) -> Checked:
    """Calibrate, fold, build and check one architecture. `JobError` if ONNX Runtime and torch do not agree.

    calibration: normalised images (B, C, H, W). test: the same with labels. batch: of the graph, unless it is free.
    """
    with torch_threads(THREADS):
        stats = calibrate(net, arch, calibration)
        plain = extract(net, arch, stats)
        free = None if settings.dynamic_batch else batch
        proto = build_model(
            network(net.space, arch),
            fold(net, arch, stats),
            batch=free,
            opset=settings.opset,
            ir_version=settings.ir_version,
        )
        model: bytes = proto.SerializeToString()
        session = _session(model, arch.id)
        largest_difference, agree, total = 0.0, 0, 0
        kept: list[Tensor] = []
        for x_BCHW, y_B in test:
            sized = resize(x_BCHW, resolution(arch)).contiguous()
            with torch.no_grad():
                wanted = plain(sized).numpy()
            found, task = _run(session, sized, free), task_of(y_B)
            largest_difference = max(largest_difference, float(np.abs(wanted - found).max()))
            agree += agreeing(task, torch.from_numpy(wanted), torch.from_numpy(found))
            kept.append(task.kept(torch.from_numpy(found), y_B))
            total += len(y_B)
    if largest_difference > MAX_ABS_DIFF:
        raise JobError(
            f"the ONNX model of {arch.id} differs from torch by {largest_difference:.2g} (at most {MAX_ABS_DIFF:g} is allowed)"
        )
    return Checked(arch, model, task.score(torch.cat(kept)), largest_difference, agree / total, total)


def write_model(path: Path, model: bytes, metadata: Mapping[str, object]) -> str:
    """Write the model with `metadata_props` (values as JSON, texts as they are), at once; its SHA-256."""
    import onnx

    proto = onnx.load_from_string(model)
    onnx.helper.set_model_props(
        proto, {key: v if isinstance(v, str) else canonical_json(v) for key, v in metadata.items()}
    )
    onnx.checker.check_model(proto)
    content: bytes = proto.SerializeToString()
    write_bytes(path, content)
    return hashlib.sha256(content).hexdigest()


def _session(model: bytes, name: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own kinds, all of them direct children of Exception
        raise JobError(f"ONNX Runtime cannot load the model of {name}: {error}") from error


def _run(
    session: ort.InferenceSession, x_BCHW: Tensor, batch: int | None
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Logits of all images; a graph of a fixed batch gets them in portions, the last one padded."""
    images = x_BCHW.numpy()
    if batch is None:
        logits: np.ndarray[tuple[int, int], np.dtype[np.float32]] = session.run(None, {"input": images})[0]
        return logits
    padded = np.concatenate([images, np.zeros((-len(images) % batch, *images.shape[1:]), dtype=np.float32)])
    parts = [session.run(None, {"input": padded[i : i + batch]})[0] for i in range(0, len(padded), batch)]
    return np.concatenate(parts)[: len(images)]
