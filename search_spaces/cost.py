"""MACs, parameters and activation bytes of whole populations, from Layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.family import network, slot_configs, slot_index, slots
from search_spaces.layers import Layer
from search_spaces.space import Arch, Space

Metric = Callable[[Layer], int]

COSTS: dict[str, Metric] = {
    "macs": lambda layer: layer.macs,
    "params": lambda layer: layer.params,
    "activation_bytes": lambda layer: layer.activation_bytes,
}


@dataclass(frozen=True, slots=True)
class Cost:
    """What one architecture costs: multiply-accumulates, trainable numbers, bytes of all fp32 layer outputs."""

    macs: int
    params: int
    activation_bytes: int


def arch_cost(space: Space, arch: Arch) -> Cost:
    """The cost for one image."""
    layers = network(space, arch)
    return Cost(**{name: sum(map(metric, layers)) for name, metric in COSTS.items()})


def costs(space: Space, codes: NDArray[np.integer[Any]], metric: str) -> NDArray[np.int64]:
    """One metric of `COSTS` for every row of canonical codes: `(n, choices)` -> `(n,)`. Lower is better."""
    total = np.zeros(len(codes), dtype=np.int64)
    for slot, table in zip(slots(space), _tables(space, metric), strict=True):
        total += table[slot_index(space, slot, codes)]
    return total


@lru_cache(maxsize=64)
def _tables(space: Space, metric: str) -> Sequence[NDArray[np.int64]]:
    of = COSTS[metric]
    return [
        np.array([sum(map(of, slot.build(values))) for values in slot_configs(space, slot)], dtype=np.int64)
        for slot in slots(space)
    ]
