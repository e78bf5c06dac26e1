"""ONNX graphs straight from Layers: the one builder for what is profiled and for what is deployed.

Exporting a sub-network from torch takes 0.3-9 s; building it here takes milliseconds and gives the same operators for
random weights as for trained ones. With `nodes`, `quantise`, `preprocessing`, `half_precision` and `exits` the only modules of
this package that import `onnx`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from onnx import ModelProto

from latency_tables.errors import LatencyError
from latency_tables.graphs.nodes import INPUT, NODES, OUTPUT, add_constants, add_tensors, network_model
from latency_tables.graphs.quantise import Ranges, quantised_model
from latency_tables.graphs.weights import Weights, layer_weights
from search_spaces import Arch, Layer, Space, in_precision, network, quantised


def build_model(
    layers: Sequence[Layer],
    weights: Weights | None = None,
    *,
    batch: int | None,
    opset: int = 17,
    ir_version: int = 8,
    seed: int = 0,
    metadata: Mapping[str, str] | None = None,
    kind: type[np.floating[Any]] = np.float32,
    ranges: Ranges | None = None,
) -> ModelProto:
    """The ONNX model of `layers`: `input` (batch, channels, height, width) to `logits`, all of `kind`.

    `batch=None` leaves the batch open, as the dimension "batch". Without `weights` they are drawn from `seed`, scaled
    so that activations neither vanish nor explode. `ranges` of activations are for layers in int8: see `quantised_model`.
    `LatencyError` names the layer whose weights do not fit.
    """
    if quantised(layers):
        if kind is not np.float32:
            raise LatencyError(f"a network with layers of 8-bit integers has float32 around them, not {kind.__name__}")
        return quantised_model(
            layers,
            weights,
            batch=batch,
            ranges=ranges,
            opset=opset,
            ir_version=ir_version,
            seed=seed,
            metadata=metadata,
        )
    model = network_model(layers, batch, opset, ir_version, metadata, kind)
    graph = model.graph
    for index, layer in enumerate(layers):
        names = add_tensors(graph, layer, layer_weights(layer, weights, seed + index + 1), kind)
        names += add_constants(graph, layer, kind)
        output = OUTPUT if layer is layers[-1] else layer.name
        graph.node.extend(NODES[layer.op](layer, layer.inputs, names, output))
    return model


def _all_integers(layers: Sequence[Layer], weights: Weights | None = None, **settings: Any) -> ModelProto:
    return quantised_model(in_precision(layers, "int8"), weights, **settings)


# By the precision of a device: what fp32 builds leaves to each layer whether it is in integers.
BUILDERS: dict[str, Callable[..., ModelProto]] = {
    "fp32": build_model,
    "fp16": partial(build_model, kind=np.float16),
    "int8": _all_integers,
}


def profiling_model(space: Space, arch: Arch, batch: int, precision: str = "fp32") -> bytes:
    """The serialised network of one architecture with drawn weights and a fixed batch, ready to be measured."""
    return _serialised(network(space, arch), batch, precision)


def canary_model(precision: str = "fp32") -> bytes:
    """The fixed small network that is timed between measurements to see a disturbance; `canary.onnx` holds it."""
    shape = (16, 24, 24)
    layers = [Layer("conv0", "conv", (INPUT,), shape, shape, kernel=3, norm=True)]
    for index in range(1, 4):
        layers.append(Layer(f"conv{index}", "conv", (layers[-1].name,), shape, shape, kernel=3, norm=True))
        layers.append(Layer(f"act{index}", "relu", (layers[-1].name,), shape, shape))
    layers.append(Layer("pool", "global_pool", (layers[-1].name,), shape, (16, 1, 1)))
    layers.append(Layer("classifier", "linear", ("pool",), (16, 1, 1), (10, 1, 1), bias=True))
    return _serialised(layers, 1, precision)


def _serialised(layers: Sequence[Layer], batch: int, precision: str) -> bytes:
    if precision not in BUILDERS:
        raise LatencyError(f"precision must be one of {', '.join(BUILDERS)}, not {precision!r}")
    model: bytes = BUILDERS[precision](layers, batch=batch).SerializeToString()
    return model
