"""What a latency may depend on: numbers for each layer, which add up over slots and networks.

Notation: n networks, L different layers of a space, k features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from search_spaces import Codes, Layer, Space, slot_configs, slot_index, slot_values, slots

F64 = NDArray[np.float64]
Indices = NDArray[np.int64]

# What processors work on at once: this many channels, and this many neighbouring pixels of a row.
TILE_CHANNELS, TILE_PIXELS = 16, 8


def layer_class(layer: Layer) -> str:
    """The operation; convolutions told apart by how they use a processor, others taken together where it works alike; and
    the precision, where it is not fp32."""
    return _operation(layer) if layer.precision == "fp32" else f"{layer.precision}.{_operation(layer)}"


def _operation(layer: Layer) -> str:
    if layer.op != "conv":
        return ALIKE.get(layer.op, layer.op)
    if layer.groups > 1:
        return "depthwise"
    return "pointwise" if layer.kernel == 1 else "dense"


def _in_both(*classes: str) -> tuple[str, ...]:
    return (*classes, *(f"int8.{name}" for name in classes))


CONVOLUTIONS = _in_both("dense", "pointwise", "depthwise")
WITH_MACS = (*CONVOLUTIONS, *_in_both("linear", "attention"))
CLASSES = (*WITH_MACS, *_in_both("global_pool", "add", "mul", "relu", "hswish", "hsigmoid", "window_pool"))
# A clip at 6 costs no more than one at 0, and both become part of the convolution before them.
ALIKE = {"relu6": "relu", "max_pool": "window_pool", "avg_pool": "window_pool"}


def _of(kind: str, number: Callable[[Layer], float]) -> Callable[[Layer], float]:
    return lambda layer: number(layer) if layer_class(layer) == kind else 0


def _count(layer: Layer) -> int:
    return 1


def _macs(layer: Layer) -> int:
    return layer.macs


def _rows(layer: Layer) -> float:
    """Rows of output pixels, each with all its channels: every one is begun and ended, however short it is."""
    inputs = 1 if layer.groups > 1 else _up(layer.in_shape[0], TILE_CHANNELS)
    return inputs * _up(layer.out_shape[0], TILE_CHANNELS) * layer.kernel * layer.out_shape[1]


def _tiles(layer: Layer) -> float:
    """Multiply-accumulates with channels and rows filled up to whole tiles."""
    return _rows(layer) * layer.kernel * _up(layer.out_shape[2], TILE_PIXELS)


def _up(extent: int, step: int) -> int:
    return -(-extent // step) * step


# Mean error on unseen networks over two tables of `tiny` and two of `mobilenet_v3`, at 20-200 networks, of the additive
# predictor and of ridge: 2.38; 2.87% with all, 2.45; 4.79 without rows and tiles, 2.39; 4.77 without bytes. The first
# needs features less, for it learns what layers of one shape cost.
FEATURES: dict[str, Callable[[Layer], float]] = {
    **{f"macs.{kind}": _of(kind, _macs) for kind in WITH_MACS},
    **{f"rows.{kind}": _of(kind, _rows) for kind in CONVOLUTIONS},
    **{f"tiles.{kind}": _of(kind, _tiles) for kind in CONVOLUTIONS},
    "traffic_bytes": lambda layer: layer.traffic_bytes,
    "weight_bytes": lambda layer: layer.element_bytes * layer.weights,
    **{f"layers.{kind}": _of(kind, _count) for kind in CLASSES},
}


@dataclass(frozen=True, slots=True, eq=False)
class Layers:
    """The different layers of a space, and which of them every configuration of every slot has.

    Layers count as the same when a processor cannot tell them apart: the name and what they read do not matter.
    """

    distinct: tuple[Layer, ...]
    features_Lk: F64
    members: tuple[Indices, ...]
    """For each slot `(configurations, most layers)`: indices into `distinct`, padded with L."""

    def slot_sums(self, values_L: F64) -> tuple[F64, ...]:
        """For each slot the sum over the layers of each of its configurations, of values `(L,)` or `(L, ...)`."""
        padded = np.concatenate([values_L, np.zeros_like(values_L[:1])])
        return tuple(padded[members].sum(axis=1) for members in self.members)

    def of(self, space: Space, row: Codes) -> tuple[Indices, ...]:
        """For each slot the indices of the layers that one architecture, `(choices,)`, has there, in order."""
        taken = [m[slot_index(space, slot, row[None])[0]] for slot, m in zip(slots(space), self.members, strict=True)]
        return tuple(members[members < len(self.distinct)] for members in taken)

    def counts(self, space: Space, codes: Codes) -> F64:
        """How often each network has each layer, `(n, L)`."""
        size = len(self.distinct) + 1
        taken = [m[slot_index(space, slot, codes)] for slot, m in zip(slots(space), self.members, strict=True)]
        flat = np.concatenate(taken, axis=1) + size * np.arange(len(codes))[:, None]
        counted = np.bincount(flat.ravel(), minlength=size * len(codes)).reshape(len(codes), size)
        return counted[:, :-1].astype(np.float64)


@lru_cache(maxsize=16)
def space_layers(space: Space) -> Layers:
    """Found once for a space."""
    known: dict[tuple[object, ...], int] = {}
    distinct: list[Layer] = []
    members = []
    for slot in slots(space):
        rows = []
        for values in slot_configs(space, slot):
            row = []
            for layer in slot.build(values):
                key = (layer_class(layer), layer.in_shape, layer.out_shape, layer.kernel, layer.stride, layer.bias)
                if key not in known:
                    known[key] = len(distinct)
                    distinct.append(layer)
                row.append(known[key])
            rows.append(row)
        members.append(rows)
    features = np.array([[feature(layer) for feature in FEATURES.values()] for layer in distinct], dtype=np.float64)
    return Layers(tuple(distinct), features, tuple(_padded(rows, len(distinct)) for rows in members))


def _padded(rows: list[list[int]], filler: int) -> Indices:
    width = max(map(len, rows), default=0)
    return np.array([row + [filler] * (width - len(row)) for row in rows], dtype=np.int64)


@lru_cache(maxsize=64)
def slot_features(space: Space) -> tuple[F64, ...]:
    """For each slot the features of each of its configurations: `(configurations, features)`."""
    layers = space_layers(space)
    return layers.slot_sums(layers.features_Lk)


def network_features(space: Space, codes: Codes) -> F64:
    """The features of whole networks: `(n, choices)` -> `(n, k)`."""
    total: F64 = slot_values(space, slot_features(space), codes).sum(axis=1)
    return total
