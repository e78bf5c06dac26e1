"""What whole populations cost for one image: MACs, parameters, bytes of weights and activations, from Layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.family import network, slot_configs, slot_values, slots
from search_spaces.layers import FLOAT_BYTES, Layer
from search_spaces.space import Arch, Space


@dataclass(frozen=True, slots=True)
class Metric:
    """A cost of layers that run one after the other, and how those of a network's slots combine into its own."""

    of: Callable[[Sequence[Layer]], int]
    combine: np.ufunc


def weight_bytes(layer: Layer) -> int:
    """Bytes of what is left of a layer when batch norm is folded into it: the weight and one bias a channel.

    In int8 both have a scale and a zero point a channel, of 4 and 1 bytes for the weight, of 4 and 4 for the 32-bit bias.
    """
    bias = int(layer.bias or layer.norm)
    if layer.precision == "fp32" or not layer.weights:
        return FLOAT_BYTES * (layer.weights + layer.out_shape[0] * bias)
    return layer.element_bytes * layer.weights + layer.out_shape[0] * (5 + 12 * bias)


def peak_activation_bytes(layers: Sequence[Layer]) -> int:
    """The most bytes of activations alive at once, when layers run in order and each writes a tensor of its own.

    While a layer runs, its output is alive and whatever was written before that it or a later layer reads: its inputs,
    and a shortcut or a gated tensor that waits for its `add` or `mul`; and what is alive only inside of it. The input of the
    first layer counts as well. What is read in another precision than it was written in is alive in that one from then on.
    """
    last_read = {name: i for i, layer in enumerate(layers) for name in layer.inputs}
    alive: dict[str, int] = {}
    peak = 0
    for i, layer in enumerate(layers):
        alive[layer.inputs[0]] = layer.element_bytes * prod(layer.in_shape)
        alive[layer.name] = layer.activation_bytes
        peak = max(peak, sum(alive.values()) + layer.scratch_bytes)
        alive = {name: size for name, size in alive.items() if last_read.get(name, i) > i}
    return peak


def _summed(of: Callable[[Layer], int]) -> Metric:
    return Metric(lambda layers: sum(map(of, layers)), np.add)


COSTS: dict[str, Metric] = {
    "macs": _summed(lambda layer: layer.macs),
    "params": _summed(lambda layer: layer.params),
    "activation_bytes": _summed(lambda layer: layer.activation_bytes + layer.scratch_bytes),
    "weight_bytes": _summed(weight_bytes),
    # Nothing but a slot's output outlives it, and that is the next slot's input: the network's peak is that of a slot.
    "peak_activation_bytes": Metric(peak_activation_bytes, np.maximum),
}


@dataclass(frozen=True, slots=True)
class Cost:
    """What one architecture costs for one image. Lower is better."""

    macs: int
    """Multiply-accumulates of convolutions, linear layers and attention."""
    params: int
    """Trainable numbers, those of batch norm included."""
    activation_bytes: int
    """Of all layers' outputs together, and of what is alive only inside of them."""
    weight_bytes: int
    """Of the weights that deployment leaves: see the function of this name."""
    peak_activation_bytes: int
    """Of the activations alive at once: see the function of this name."""


def arch_cost(space: Space, arch: Arch) -> Cost:
    """The cost of one architecture, from its whole network."""
    layers = network(space, arch)
    return Cost(**{name: metric.of(layers) for name, metric in COSTS.items()})


def costs(space: Space, codes: NDArray[np.integer[Any]], metric: str) -> NDArray[np.int64]:
    """One metric of `COSTS` for every row of canonical codes: `(n, choices)` -> `(n,)`. Lower is better."""
    found: NDArray[np.int64] = COSTS[metric].combine.reduce(
        slot_values(space, slot_costs(space, metric), codes), axis=1
    )
    return found


@lru_cache(maxsize=64)
def slot_costs(space: Space, metric: str) -> Sequence[NDArray[np.int64]]:
    """One metric of `COSTS` for every configuration of every slot: one array a slot, in the order of `slot_configs`."""
    of = COSTS[metric].of
    return [
        np.array([of(slot.build(values)) for values in slot_configs(space, slot)], dtype=np.int64)
        for slot in slots(space)
    ]
