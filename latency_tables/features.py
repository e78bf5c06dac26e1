"""What a latency may depend on, a number for each layer, summed over the layers of a slot."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from search_spaces import Layer, Space, slot_configs, slots
from search_spaces.layers import FLOAT_BYTES

F64 = NDArray[np.float64]


def layer_class(layer: Layer) -> str:
    """The operation, convolutions told apart by how they use a processor."""
    if layer.op != "conv":
        return layer.op
    if layer.groups > 1:
        return "depthwise"
    return "pointwise" if layer.kernel == 1 else "dense"


WITH_WEIGHTS = ("dense", "pointwise", "depthwise", "linear")
CLASSES = (*WITH_WEIGHTS, "global_pool", "add", "mul", "relu", "hswish", "hsigmoid")


def _macs(kind: str) -> Callable[[Layer], int]:
    return lambda layer: layer.macs if layer_class(layer) == kind else 0


def _count(kind: str) -> Callable[[Layer], int]:
    return lambda layer: int(layer_class(layer) == kind)


# The counts matter where layers are small: over 12 splits of 160 networks of `tiny` at 1 thread and batch 8, a sum of
# these features alone is 3.4% off; with one count for all convolutions and one for the rest 4.2%, with MACs only 5.8%.
FEATURES: dict[str, Callable[[Layer], float]] = {
    **{f"macs.{kind}": _macs(kind) for kind in WITH_WEIGHTS},
    "traffic_bytes": lambda layer: layer.traffic_bytes,
    "weight_bytes": lambda layer: FLOAT_BYTES * layer.weights,
    **{f"layers.{kind}": _count(kind) for kind in CLASSES},
}


@lru_cache(maxsize=64)
def slot_features(space: Space) -> tuple[F64, ...]:
    """For each slot the features of each of its configurations: `(configurations, features)`."""
    return tuple(
        np.array([_total(slot.build(values)) for values in slot_configs(space, slot)], dtype=np.float64)
        for slot in slots(space)
    )


def _total(layers: tuple[Layer, ...]) -> list[float]:
    return [sum(map(feature, layers)) for feature in FEATURES.values()]
