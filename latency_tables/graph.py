"""ONNX graphs straight from Layers: the one builder for what is profiled and for what is deployed.

Exporting a sub-network from torch takes 0.3-9 s; building it here takes milliseconds and gives the same operators for
random weights as for trained ones. The only module of this package that imports `onnx`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import sqrt

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, defs

from latency_tables.errors import LatencyError
from search_spaces import NETWORK_INPUT, Arch, Layer, Space, network

F32 = NDArray[np.float32]
Weights = Mapping[str, tuple[F32, F32 | None]]
"""Layer name -> weight (`Layer.weight_shape`) and bias (one a channel), batch norm already folded in."""

INPUT, OUTPUT = NETWORK_INPUT, "logits"
DYNAMIC_BATCH = "batch"
# HardSwish appeared in opset 14, which shipped with IR version 7.
MIN_OPSET, MIN_IR_VERSION = 14, 7


def build_model(
    layers: Sequence[Layer],
    weights: Weights | None = None,
    *,
    batch: int | None,
    opset: int = 17,
    ir_version: int = 8,
    seed: int = 0,
    metadata: Mapping[str, str] | None = None,
) -> ModelProto:
    """The ONNX model of `layers`: `input` (batch, channels, height, width) to `logits`, all float32.

    `batch=None` leaves the batch open, as the dimension "batch". Without `weights` they are drawn from `seed`, scaled
    so that activations neither vanish nor explode. `LatencyError` names the layer whose weights do not fit.
    """
    _check_versions(opset, ir_version)
    if batch is not None and batch < 1:
        raise LatencyError(f"the batch of a graph must be at least 1, or None to leave it open, not {batch}")
    if not layers:
        raise LatencyError("a graph needs at least one layer")
    model = ModelProto(ir_version=ir_version, producer_name="hwnas")
    model.opset_import.add(domain="", version=opset)
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    graph = model.graph
    graph.name = "network"
    made = {INPUT}
    for layer in layers:
        _check_inputs(layer, made)
        output = OUTPUT if layer is layers[-1] else layer.name
        tensors = _drawn(layer, seed + len(made)) if weights is None else _given(layer, weights)
        graph.initializer.extend(_tensor(f"{layer.name}.{part}", tensor) for part, tensor in tensors.items())
        graph.node.extend(NODES[layer.op](layer, [f"{layer.name}.{part}" for part in tensors], output))
        made.add(layer.name)
    shape = layers[-1].out_shape
    graph.input.append(_value(INPUT, (batch, *layers[0].in_shape)))
    graph.output.append(_value(OUTPUT, (batch, *(shape[:1] if layers[-1].op == "linear" else shape))))
    return model


def profiling_model(space: Space, arch: Arch, batch: int) -> bytes:
    """The serialised network of one architecture with drawn weights and a fixed batch, ready to be measured."""
    model: bytes = build_model(network(space, arch), batch=batch).SerializeToString()
    return model


def canary_model() -> bytes:
    """The fixed small network that is timed between measurements to see a disturbance; `canary.onnx` holds it."""
    shape = (16, 24, 24)
    layers = [Layer("conv0", "conv", (INPUT,), shape, shape, kernel=3, norm=True)]
    for index in range(1, 4):
        layers.append(Layer(f"conv{index}", "conv", (layers[-1].name,), shape, shape, kernel=3, norm=True))
        layers.append(Layer(f"act{index}", "relu", (layers[-1].name,), shape, shape))
    layers.append(Layer("pool", "global_pool", (layers[-1].name,), shape, (16, 1, 1)))
    layers.append(Layer("classifier", "linear", ("pool",), (16, 1, 1), (10, 1, 1), bias=True))
    model: bytes = build_model(layers, batch=1).SerializeToString()
    return model


def _check_versions(opset: int, ir_version: int) -> None:
    newest = defs.onnx_opset_version()
    if not MIN_OPSET <= opset <= newest:
        raise LatencyError(
            f"opset must be {MIN_OPSET} (the first with HardSwish) to {newest} (onnx {onnx.__version__}), not {opset}"
        )
    if not MIN_IR_VERSION <= ir_version <= onnx.IR_VERSION:
        raise LatencyError(
            f"ir_version must be {MIN_IR_VERSION} to {onnx.IR_VERSION} (onnx {onnx.__version__}), not {ir_version}"
        )


def _check_inputs(layer: Layer, made: set[str]) -> None:
    for name in layer.inputs:
        if name not in made:
            raise LatencyError(f"layer {layer.name!r} reads {name!r}, which no layer before it puts out")
    if layer.name in made:
        raise LatencyError(f"two layers are named {layer.name!r}")


def _has_bias(layer: Layer) -> bool:
    return layer.norm or layer.bias


def _given(layer: Layer, weights: Weights) -> dict[str, F32]:
    """The caller's tensors of one layer, checked."""
    if not layer.weight_shape:
        return {}
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
    if not layer.weight_shape:
        return {}
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


def _tensor(name: str, array: F32) -> TensorProto:
    raw = np.ascontiguousarray(array, dtype="<f4").tobytes()
    return TensorProto(name=name, dims=array.shape, data_type=TensorProto.FLOAT, raw_data=raw)


def _value(name: str, shape: tuple[int | None, ...]) -> ValueInfoProto:
    value = ValueInfoProto(name=name, type=TypeProto())
    value.type.tensor_type.elem_type = TensorProto.FLOAT
    for extent in shape:
        if extent is None:
            value.type.tensor_type.shape.dim.add(dim_param=DYNAMIC_BATCH)
        else:
            value.type.tensor_type.shape.dim.add(dim_value=extent)
    return value


def _node(op: str, inputs: Sequence[str], output: str, **attributes: int | float | list[int]) -> NodeProto:
    """A node; `onnx.helper.make_node` does the same 2.6x slower."""
    node = NodeProto(op_type=op, name=f"{output}/{op}", input=inputs, output=[output])
    for name, value in attributes.items():
        if isinstance(value, list):
            node.attribute.add(name=name, type=AttributeProto.INTS, ints=value)
        elif isinstance(value, int):
            node.attribute.add(name=name, type=AttributeProto.INT, i=value)
        else:
            node.attribute.add(name=name, type=AttributeProto.FLOAT, f=value)
    return node


def _conv(layer: Layer, tensors: list[str], output: str) -> list[NodeProto]:
    kernel, pad, stride = layer.kernel, layer.kernel // 2, layer.stride
    return [
        _node(
            "Conv",
            [*layer.inputs, *tensors],
            output,
            kernel_shape=[kernel] * 2,
            pads=[pad] * 4,
            strides=[stride] * 2,
            group=layer.groups,
        )
    ]


def _linear(layer: Layer, tensors: list[str], output: str) -> list[NodeProto]:
    flat = f"{layer.name}.flat"
    return [
        _node("Flatten", layer.inputs, flat, axis=1),
        _node("Gemm", [flat, *tensors], output, transB=1),
    ]


def _plain(op: str, **attributes: float) -> Callable[[Layer, list[str], str], list[NodeProto]]:
    """An operation without weights: one node that reads what the layer reads."""
    return lambda layer, tensors, output: [_node(op, layer.inputs, output, **attributes)]


NODES: dict[str, Callable[[Layer, list[str], str], list[NodeProto]]] = {
    "conv": _conv,
    "linear": _linear,
    "global_pool": _plain("GlobalAveragePool"),
    "add": _plain("Add"),
    "mul": _plain("Mul"),
    "relu": _plain("Relu"),
    "hswish": _plain("HardSwish"),
    "hsigmoid": _plain("HardSigmoid", alpha=1 / 6, beta=0.5),
}
