"""How long the ONNX graph of a sub-network takes: built from its layers, and exported by torch.

    python benchmarks/graph_build.py [--quick] [--threads 2] [--cpu-time]

All sides end with the serialised model of the same network. Target: building is at least 10x faster than the faster export.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import torch
from ratio import Clock, Ratio, arguments, in_turn, print_result
from torch_export import EXPORTS, calibrated, images

from latency_tables.graphs.graph import build_model
from search_spaces import Arch, define_space, network
from supernets.extract import fold
from supernets.supernet import Supernet

SPACES = {"mobilenet_v3": define_space("mobilenet_v3"), "tiny": define_space("tiny")}


def main() -> None:
    options = arguments(__doc__ or "").parse_args()
    torch.set_num_threads(options.threads)
    repetitions = 2 if options.quick else options.repetitions
    result: dict[str, object] = {"threads": options.threads, "repetitions": repetitions}
    for family, space in SPACES.items():
        arch = space.decode(space.sample(np.random.default_rng(0), 1))[0]
        times = measured(Supernet(space).eval(), arch, repetitions, options.clock)
        for name, found in times.items():
            print(f"{family} {name}: {np.median(found):.1f} ms")
        exports = [name for name in times if name in EXPORTS]
        fastest = min(exports, key=lambda name: float(np.median(times[name])))
        ratios = {
            "build": Ratio.of(times[fastest], times["build"]),
            "fold and build": Ratio.of(times[fastest], np.add(times["fold"], times["build"]).tolist()),
        }
        for name, ratio in ratios.items():
            print(f"{family}: {name} is {ratio} times as fast as torch's {fastest} export (target 10)")
        result[family] = {
            "ms": {name: float(np.median(found)) for name, found in times.items()},
            "fastest_export": fastest,
            **{name.replace(" ", "_"): asdict(ratio) for name, ratio in ratios.items()},
        }
    print_result("graph_build", result)


def measured(net: Supernet, arch: Arch, repetitions: int, clock: Clock) -> dict[str, list[float]]:
    module, stats = calibrated(net, arch)
    layers, weights = network(net.space, arch), fold(net, arch, stats)
    x_BCHW = images(net.space, arch, 1)
    sides = {
        "fold": lambda: fold(net, arch, stats),
        "build": lambda: build_model(layers, weights, batch=None).SerializeToString(),
    }
    sides |= {name: lambda export=export: export(module, x_BCHW) for name, export in EXPORTS.items()}
    return in_turn(sides, repetitions, clock)


if __name__ == "__main__":
    main()
