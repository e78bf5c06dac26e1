"""How fast deployed graphs run in ONNX Runtime, one thread and default options: ours against torch's own export of the same
module, and against the activations of published once-for-all code.

    python benchmarks/exported_speed.py [--quick] [--threads 2] [--cpu-time] [--exporter dynamo] [--archs 5]

Figures are the time of the other graph in units of ours. Targets: never below 1 for torch's export of the same module; at
least 1.3 for spelled-out activations.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from ratio import Clock, Ratio, arguments, in_turn, over_archs, print_result
from torch_export import EXPORTS, calibrated, images, spelled_out

from latency_tables.graphs.graph import build_model
from search_spaces import Arch, define_space, network
from supernets.extract import fold
from supernets.supernet import Supernet

SPACES = {
    "mobilenet_v3 at 224 px": define_space("mobilenet_v3"),
    "mobilenet_v3 at 64 px": define_space("mobilenet_v3", resolutions=[64]),
    "tiny": define_space("tiny"),
}
TOLERANCE = 1e-3
PER_SESSION = 3


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--exporter", choices=EXPORTS, default="legacy")
    parser.add_argument("--archs", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    repetitions, archs = (3, 1) if options.quick else (options.repetitions, options.archs)
    result: dict[str, object] = {"exporter": options.exporter, "repetitions": repetitions}
    for name, space in SPACES.items():
        net = Supernet(space).eval()
        ratios: dict[str, list[Ratio]] = {}
        for arch in space.decode(space.sample(np.random.default_rng(0), archs)):
            times = measured(
                graphs(net, arch, options.exporter), images(space, arch, 1).numpy(), repetitions, options.clock
            )
            for other in ("torch export", "spelled out"):
                for ours in ("dynamic", "fixed"):
                    if other in times:
                        ratios.setdefault(f"{other} / {ours}", []).append(Ratio.of(times[other], times[ours]))
            medians = ", ".join(f"{side} {np.median(found):.2f} ms" for side, found in times.items())
            print(f"{name} {arch.id}: {medians}")
        for pair, found in ratios.items():
            print(f"{name}: {pair} batch: {over_archs(found)}, by arch {' '.join(f'{r.median:.3f}' for r in found)}")
        result[name] = {
            pair: {"ratio": asdict(over_archs(found)), "archs": [asdict(ratio) for ratio in found]}
            for pair, found in ratios.items()
        }
    print_result("exported_speed", result)


def graphs(net: Supernet, arch: Arch, exporter: str) -> dict[str, bytes]:
    """The same network from all sides, each checked to compute what torch computes."""
    module, stats = calibrated(net, arch)
    layers, weights = network(net.space, arch), fold(net, arch, stats)
    x_BCHW = images(net.space, arch, 1)
    found = {
        "dynamic": build_model(layers, weights, batch=None).SerializeToString(),
        "fixed": build_model(layers, weights, batch=1).SerializeToString(),
        "torch export": EXPORTS[exporter](module, x_BCHW),
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
    found: dict[str, bytes], x_BCHW: NDArray[np.float32], repetitions: int, clock: Clock
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


def session(graph: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
