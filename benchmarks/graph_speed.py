"""How fast deployed graphs run in ONNX Runtime, one image on one thread: ours against what other ways of exporting the same
module give. A part of `deploy.py`.

Figures are our time in units of theirs: never above 1 is wanted, and at most 0.8 where activations are spelled out.
"""

from __future__ import annotations

import importlib.util
import tempfile
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from ratio import Clock, Ratio, in_turn, over_archs
from torch_export import EXPORTS, calibrated, images, spelled_out

from latency_tables.graphs.graph import build_model
from search_spaces import Arch, Space, network
from supernets.extract import fold
from supernets.supernet import Supernet

TOLERANCE = 1e-3
PER_SESSION = 3
OURS = "ours"
LEVELS = {
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


def part(families: Mapping[str, Space], options: Namespace) -> dict[str, object]:
    if not importlib.util.find_spec("onnxslim"):
        print("graph: torch + onnxslim is left out: pip install onnxslim")
    return {name: _family(name, space, options) for name, space in families.items()}


def _family(name: str, space: Space, options: Namespace) -> dict[str, object]:
    net = Supernet(space).eval()
    ratios: dict[str, list[Ratio]] = {}
    for arch in space.decode(space.sample(np.random.default_rng(0), options.archs)):
        found = graphs(net, arch, options.exporter)
        times = measured(found, images(space, arch, 1).numpy(), options.repetitions, options.clock)
        for other in times.keys() - {OURS}:
            ratios.setdefault(other, []).append(Ratio.of(times[OURS], times[other]))
        print(f"{name} {arch.id}: {', '.join(f'{side} {np.median(each):.3f} ms' for side, each in times.items())}")
    for other, each in sorted(ratios.items()):
        print(
            f"{name}: ours / {other}: {over_archs(each)}, by arch {' '.join(f'{ratio.median:.3f}' for ratio in each)}"
        )
    return {
        other: {"ratio": asdict(over_archs(each)), "archs": [asdict(ratio) for ratio in each]}
        for other, each in sorted(ratios.items())
    }


def graphs(net: Supernet, arch: Arch, exporter: str) -> dict[str, bytes]:
    """The same network from all sides, each checked to compute what torch computes."""
    module, stats = calibrated(net, arch)
    layers, weights = network(net.space, arch), fold(net, arch, stats)
    x_BCHW = images(net.space, arch, 1)
    plain = EXPORTS[exporter](module, x_BCHW)
    found = {
        OURS: build_model(layers, weights, batch=None).SerializeToString(),
        "ours, fixed batch": build_model(layers, weights, batch=1).SerializeToString(),
        "torch": plain,
        **{f"torch + {name}": change(plain) for name, change in OPTIMISERS.items()},
    }
    if any(layer.op in ("hswish", "hsigmoid") for layer in layers):
        found["spelled out"] = EXPORTS[exporter](spelled_out(module), x_BCHW)
    with torch.no_grad():
        wanted = module(x_BCHW).numpy()
    for name, graph in found.items():
        error = np.abs(session(graph).run(None, {"input": x_BCHW.numpy()})[0] - wanted).max() / np.abs(wanted).max()
        if error > TOLERANCE:
            raise SystemExit(f"{name} of {arch.id} computes something else: relative error {error:.1e}")
    return found


def measured(
    found: Mapping[str, bytes], x_BCHW: NDArray[np.float32], repetitions: int, clock: Clock
) -> dict[str, list[float]]:
    """Milliseconds an inference. Sessions are made anew every few repetitions, in random order: where their memory
    happens to lie alone makes 5% (one graph against itself)."""
    times: dict[str, list[float]] = {name: [] for name in found}
    rng = np.random.default_rng(0)
    for _ in range(0, repetitions, PER_SESSION):
        order = rng.permutation(list(found)).tolist()
        sides = {name: partial(session(found[name]).run, None, {"input": x_BCHW}) for name in order}
        for name, more in in_turn(sides, PER_SESSION, clock).items():
            times[name] += more
    return times


def session(graph: bytes, options: onnxruntime.SessionOptions | None = None) -> onnxruntime.InferenceSession:
    options = options or onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def slimmed(graph: bytes) -> bytes:
    import onnxslim

    slim: bytes = onnxslim.slim(onnx.load_from_string(graph)).SerializeToString()
    return slim


def offline(level: str, graph: bytes) -> bytes:
    """What ONNX Runtime writes down when it has optimised the graph for this machine."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options.optimized_model_filepath = str(path)
        session(graph, options)
        return path.read_bytes()


OPTIMISERS: dict[str, Callable[[bytes], bytes]] = {f"offline {level}": partial(offline, level) for level in LEVELS}
if importlib.util.find_spec("onnxslim"):
    OPTIMISERS["onnxslim"] = slimmed
