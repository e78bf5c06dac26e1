"""How long it takes to make the ONNX file of a sub-network: folded, built from its layers and checked, or exported by torch.
A part of `deploy.py`.

Figures are torch's faster export in units of ours: at least 10 is wanted of building alone.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial

import numpy as np
import onnx
from ratio import Clock, Ratio, in_turn
from torch_export import EXPORTS, calibrated, images

from latency_tables.graphs.graph import build_model
from search_spaces import Arch, Space, network
from supernets.extract import fold
from supernets.supernet import Supernet

OURS = {"build": ("build",), "fold and build": ("fold", "build"), "fold, build and check": ("fold", "build", "check")}
REPETITIONS = 5
"""At most: torch's own take seconds."""


def part(families: Mapping[str, Space], options: Namespace) -> dict[str, object]:
    return {name: _family(name, space, options) for name, space in families.items()}


def _family(name: str, space: Space, options: Namespace) -> dict[str, object]:
    arch = space.decode(space.sample(np.random.default_rng(0), 1))[0]
    times = measured(Supernet(space).eval(), arch, min(options.repetitions, REPETITIONS), options.clock)
    print(f"{name} {arch.id}: {', '.join(f'{side} {np.median(each):.1f} ms' for side, each in times.items())}")
    fastest = min(EXPORTS, key=lambda export: float(np.median(times[export])))
    ratios = {
        ours: Ratio.of(times[fastest], np.sum([times[step] for step in OURS[ours]], axis=0).tolist()) for ours in OURS
    }
    for ours, ratio in ratios.items():
        print(f"{name}: torch's {fastest} export / {ours}: {ratio}")
    return {
        "ms": {side: float(np.median(each)) for side, each in times.items()},
        "fastest_export": fastest,
        "ratios": {ours: asdict(ratio) for ours, ratio in ratios.items()},
    }


def measured(net: Supernet, arch: Arch, repetitions: int, clock: Clock) -> dict[str, list[float]]:
    """Milliseconds of every step, all of which end with or begin from the serialised model of one network."""
    module, stats = calibrated(net, arch)
    layers, weights = network(net.space, arch), fold(net, arch, stats)
    x_BCHW = images(net.space, arch, 1)
    built = build_model(layers, weights, batch=None)
    sides = {
        "fold": lambda: fold(net, arch, stats),
        "build": lambda: build_model(layers, weights, batch=None).SerializeToString(),
        "check": lambda: onnx.checker.check_model(built),
    }
    sides |= {name: partial(export, module, x_BCHW) for name, export in EXPORTS.items()}
    return in_turn(sides, repetitions, clock)
