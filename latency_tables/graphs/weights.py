"""Weights of layers: the caller's, checked, or drawn, so that activations neither vanish nor explode."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_tables.errors import LatencyError
from search_spaces import Layer

F32 = NDArray[np.float32]
Weights = Mapping[str, tuple[F32, F32 | None]]
"""Layer name -> weight (`Layer.weight_shape`) and bias (one a channel), batch norm already folded in."""


def layer_weights(layer: Layer, weights: Weights | None, seed: int) -> dict[str, F32]:
    """`weight`, and `bias` where the layer has one; empty for a layer without weights. Drawn from `seed` if not given."""
    if not layer.weight_shape:
        return {}
    return _drawn(layer, seed) if weights is None else _given(layer, weights)


def in_kind(name: str, array: F32, kind: type[np.floating[Any]]) -> NDArray[Any]:
    """The tensor `name` as numbers of `kind`; `LatencyError` if one is too large for it."""
    if kind is np.float32:
        return array
    largest, limit = float(np.abs(array).max(initial=0.0)), float(np.finfo(kind).max)
    if not largest <= limit:
        raise LatencyError(
            f"{name} holds {largest:.3g}, and {np.dtype(kind)} ends at {limit:g}: build this network in fp32"
        )
    return array.astype(kind)


def _has_bias(layer: Layer) -> bool:
    return layer.norm or layer.bias


def _given(layer: Layer, weights: Weights) -> dict[str, F32]:
    """The caller's tensors of one layer, checked."""
    if layer.name not in weights:
        raise LatencyError(f"no weights are given for layer {layer.name!r}")
    weight, bias = weights[layer.name]
    if weight.shape != layer.weight_shape:
        raise LatencyError(
            f"the weight of layer {layer.name!r} has shape {weight.shape}; it must be {layer.weight_shape}"
        )
    if not _has_bias(layer):
        if bias is not None:
            raise LatencyError(f"layer {layer.name!r} takes no bias, but one is given")
        return {"weight": weight}
    if bias is None or bias.shape != weight.shape[:1]:
        found = "none" if bias is None else f"shape {bias.shape}"
        raise LatencyError(f"the bias of layer {layer.name!r} must have shape {weight.shape[:1]}, not {found}")
    return {"weight": weight, "bias": bias}


def _drawn(layer: Layer, seed: int) -> dict[str, F32]:
    """He-scaled uniform weights (He et al., ICCV 2015) and a small bias."""
    fan_in = layer.weights // layer.out_shape[0]
    tensors = {"weight": _uniform(layer.weight_shape, sqrt(2 / fan_in), seed)}
    if _has_bias(layer):
        tensors["bias"] = _uniform(layer.weight_shape[:1], 0.1, seed + 1_000_003)
    return tensors


def _uniform(shape: tuple[int, ...], deviation: float, seed: int) -> F32:
    """Uniform numbers of mean 0.

    From the raw 64-bit stream, four 16-bit numbers each: NumPy keeps that stream fixed over versions (NEP 19), unlike
    its distributions, so a graph has the same bytes everywhere; and it is 6x faster than `standard_normal`.
    """
    size = int(np.prod(shape))
    raw = np.random.PCG64(seed).random_raw(size // 4 + 1).astype("<u8").view("<u2")[:size]
    scale = np.float32(deviation * sqrt(12) / 65536)
    return ((raw.astype(np.float32) - np.float32(32767.5)) * scale).reshape(shape)
