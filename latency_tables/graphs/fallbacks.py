"""Layers of integers that a device computes in floats all the same, for want of an integer kernel."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from latency_tables.device import Device
from latency_tables.measuring.sessions import Graph, optimised_model
from search_spaces import Layer

QUANTISE = ".q/QuantizeLinear"


def in_floats(layers: Sequence[Layer], model: bytes, device: Device) -> tuple[Layer, ...]:
    """The layers in int8 that the runtime computes in floats on this device, between dequantise and quantise nodes.

    model: as `build_model` builds these layers. Empty as well where a provider compiles the whole graph by itself.
    """
    optimised = optimised_model(Graph("fallbacks", model), device)
    nodes = onnx.load_from_string(optimised).graph.node if optimised else ()
    # An integer kernel puts out integers; what is computed in floats is quantised afterwards.
    after = {node.name.removesuffix(QUANTISE) for node in nodes if node.name.endswith(QUANTISE)}
    return tuple(layer for layer in layers if layer.precision == "int8" and layer.name in after)
