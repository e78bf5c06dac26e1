"""Graphs whose activations and weights are 8-bit integers, in all layers or in some, in the form that ONNX Runtime turns into
integer kernels.

Quantise and dequantise nodes stand around every operation of these layers (QDQ); the runtime fuses them with it. Weights are
int8, symmetric, with a scale a channel; activations uint8 with one scale and zero point (Jacob et al., CVPR 2018, section 2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto

from latency_tables.errors import LatencyError
from latency_tables.graphs.nodes import INPUT, NODES, OUTPUT, add_constants, add_tensors, network_model, node, tensor
from latency_tables.graphs.weights import F32, Weights, layer_weights
from search_spaces import Layer, fused_with_clip

Ranges = Mapping[str, tuple[float, float]]
"""Layer name, or "input" -> the smallest and the largest activation that it has to hold."""

LEVELS, WEIGHT_LEVELS = 255, 127
DEFAULT_RANGE = (-4.0, 4.0)
# What drawn weights give, and what an operation cannot exceed. Times do not depend on the ranges.
DEFAULT_RANGES = {"relu": (0.0, 6.0), "relu6": (0.0, 6.0), "hswish": (-0.375, 6.0), "hsigmoid": (0.0, 1.0)}


def quantised_model(
    layers: Sequence[Layer],
    weights: Weights | None = None,
    *,
    batch: int | None,
    ranges: Ranges | None = None,
    opset: int = 17,
    ir_version: int = 8,
    seed: int = 0,
    metadata: Mapping[str, str] | None = None,
) -> ModelProto:
    """As `graph.build_model`, each layer in the precision that it says; input and output stay float32.

    Without `ranges` of the activations they are guesses that suit drawn weights alone; for trained ones take those of
    `observed_ranges`. `LatencyError` names the layer whose weights or range do not fit.
    """
    model = network_model(layers, batch, opset, ir_version, metadata)
    graph = model.graph
    integers = {layer.name for layer in layers if layer.precision == "int8"}
    read_as_integers = {name for layer in layers if layer.name in integers for name in layer.inputs}
    fused = fused_with_clip(layers)
    quantised = integers - fused
    scales: dict[str, float] = {}
    if INPUT in read_as_integers:
        scales[INPUT] = _activation(graph, INPUT, _range(INPUT, "", ranges))
    for index, layer in enumerate(layers):
        own = layer.name in integers
        tensors = layer_weights(layer, weights, seed + index + 1)
        names = _add_weights(graph, layer, tensors, scales) if own else add_tensors(graph, layer, tensors)
        names += add_constants(graph, layer)
        inputs = [f"{name}.dq" if name in quantised or (own and name in scales) else name for name in layer.inputs]
        last = layer is layers[-1]
        made = NODES[layer.op](layer, inputs, names, OUTPUT if last and not own else layer.name)
        if own and layer.op == "linear":
            # The runtime looks for the dequantised activation right before the product.
            flat = made[0].output[0]
            graph.node.append(made[0])
            _quantised(graph, flat, f"{layer.inputs[0]}.scale", f"{layer.inputs[0]}.zero")
            made[1].input[0] = f"{flat}.dq"
            made = made[1:]
        graph.node.extend(made)
        if layer.name in quantised or (not own and layer.name in read_as_integers):
            bounds = _range(*_ranged(layer, layers), ranges)
            scales[layer.name] = _activation(graph, layer.name, bounds, OUTPUT if last else None)
    return model


def _ranged(layer: Layer, layers: Sequence[Layer]) -> tuple[str, str]:
    """Name and operation of the layer whose range it has: a largest pixel keeps the integer it had, or no integer kernel
    is taken."""
    if layer.op != "max_pool":
        return layer.name, layer.op
    read = layer.inputs[0]
    return read, next((each.op for each in layers if each.name == read), "")


def _range(name: str, op: str, ranges: Ranges | None) -> tuple[float, float]:
    if ranges is None:
        return DEFAULT_RANGES.get(op, DEFAULT_RANGE)
    if name not in ranges:
        raise LatencyError(f"no range is given for the activations of layer {name!r}")
    low, high = ranges[name]
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise LatencyError(f"the range of layer {name!r} must be two numbers, the smaller one first, not {low}, {high}")
    # Zero, which convolutions pad with, has to be exact.
    return min(low, 0.0), max(high, 0.0)


def _activation(graph: GraphProto, name: str, bounds: tuple[float, float], output: str | None = None) -> float:
    """Quantise and dequantise an activation; its scale."""
    low, high = bounds
    scale = np.float32((high - low) / LEVELS or 1.0)
    zero = np.uint8(np.clip(round(-low / scale), 0, LEVELS))
    graph.initializer.append(tensor(f"{name}.scale", np.asarray(scale)))
    graph.initializer.append(tensor(f"{name}.zero", np.asarray(zero)))
    _quantised(graph, name, f"{name}.scale", f"{name}.zero", output)
    return float(scale)


def _quantised(graph: GraphProto, name: str, scale: str, zero: str, output: str | None = None) -> None:
    graph.node.append(node("QuantizeLinear", [name, scale, zero], f"{name}.q"))
    graph.node.append(node("DequantizeLinear", [f"{name}.q", scale, zero], output or f"{name}.dq"))


def _add_weights(graph: GraphProto, layer: Layer, tensors: Mapping[str, F32], scales: Mapping[str, float]) -> list[str]:
    """Integer weights with their dequantisation; the names of what comes out of it."""
    if not tensors:
        return []
    weight = tensors["weight"]
    largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    scale = np.where(largest > 0, largest / WEIGHT_LEVELS, 1.0).astype(np.float32)
    rounded = np.rint(weight / scale.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.int8)
    parts: list[tuple[str, NDArray[np.int8] | NDArray[np.int32], F32]] = [("weight", rounded, scale)]
    if "bias" in tensors:
        # In the scale of the products, so that the runtime adds it to the 32-bit sums.
        product = (scale * np.float32(scales[layer.inputs[0]])).astype(np.float32)
        limit = np.iinfo(np.int32).max
        whole = np.clip(np.rint(tensors["bias"].astype(np.float64) / product), -limit, limit).astype(np.int32)
        parts.append(("bias", whole, product))
    for part, array, part_scale in parts:
        name = f"{layer.name}.{part}"
        zero = np.zeros(len(array), dtype=array.dtype)
        for suffix, values in (("q", array), ("scale", part_scale), ("zero", zero)):
            graph.initializer.append(tensor(f"{name}.{suffix}", values))
        graph.node.append(node("DequantizeLinear", [f"{name}.{each}" for each in ("q", "scale", "zero")], name, axis=0))
    return [f"{layer.name}.{part}" for part, _, _ in parts]
