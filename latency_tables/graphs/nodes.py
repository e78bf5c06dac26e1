"""The parts of ONNX graphs: models, tensors, inputs and outputs, and the nodes that layers become."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, defs

from latency_tables.errors import LatencyError
from latency_tables.graphs.weights import in_kind
from search_spaces import NETWORK_INPUT, Layer

INPUT, OUTPUT = NETWORK_INPUT, "logits"
DYNAMIC_BATCH = "batch"
# HardSwish appeared in opset 14, which shipped with IR version 7.
MIN_OPSET, MIN_IR_VERSION = 14, 7

ELEMENTS = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.float16): TensorProto.FLOAT16,
    np.dtype(np.uint8): TensorProto.UINT8,
    np.dtype(np.int8): TensorProto.INT8,
    np.dtype(np.int32): TensorProto.INT32,
    np.dtype(np.int64): TensorProto.INT64,
}


def network_model(
    layers: Sequence[Layer],
    batch: int | None,
    opset: int,
    ir_version: int,
    metadata: Mapping[str, str] | None,
    kind: type[np.floating[Any]] = np.float32,
) -> ModelProto:
    """A model without nodes: `input` (batch, channels, height, width) to `logits`. `LatencyError` for what cannot be."""
    _check_versions(opset, ir_version)
    if batch is not None and batch < 1:
        raise LatencyError(f"the batch of a graph must be at least 1, or None to leave it open, not {batch}")
    if not layers:
        raise LatencyError("a graph needs at least one layer")
    _check_order(layers)
    model = ModelProto(ir_version=ir_version, producer_name="hwnas")
    model.opset_import.add(domain="", version=opset)
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    graph, shape = model.graph, layers[-1].out_shape
    graph.name = "network"
    images = DYNAMIC_BATCH if batch is None else batch
    graph.input.append(value_info(INPUT, (images, *layers[0].in_shape), kind))
    graph.output.append(value_info(OUTPUT, (images, *(shape[:1] if layers[-1].op == "linear" else shape)), kind))
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


def _check_order(layers: Sequence[Layer]) -> None:
    made = {INPUT}
    for layer in layers:
        for name in layer.inputs:
            if name not in made:
                raise LatencyError(f"layer {layer.name!r} reads {name!r}, which no layer before it puts out")
        if layer.name in made:
            raise LatencyError(f"two layers are named {layer.name!r}")
        made.add(layer.name)


def tensor(name: str, array: NDArray[Any]) -> TensorProto:
    raw = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
    return TensorProto(name=name, dims=array.shape, data_type=ELEMENTS[array.dtype], raw_data=raw)


def add_tensors(
    graph: GraphProto, layer: Layer, tensors: Mapping[str, NDArray[Any]], kind: type[np.floating[Any]] = np.float32
) -> list[str]:
    """Put a layer's weight and bias into the graph as `kind`; their names."""
    names = [f"{layer.name}.{part}" for part in tensors]
    graph.initializer.extend(
        tensor(name, in_kind(name, array, kind)) for name, array in zip(names, tensors.values(), strict=True)
    )
    return names


def add_constants(graph: GraphProto, layer: Layer, kind: type[np.floating[Any]] = np.float32) -> list[str]:
    """Put what a layer's nodes read beside activations and weights into the graph, fractions as `kind`; its names."""
    found = CONSTANTS[layer.op](layer) if layer.op in CONSTANTS else {}
    for name, array in found.items():
        typed = array.astype(kind) if array.dtype.kind == "f" else array
        graph.initializer.append(tensor(f"{layer.name}.{name}", typed))
    return [f"{layer.name}.{name}" for name in found]


def value_info(name: str, shape: Sequence[int | str], kind: type[np.generic]) -> ValueInfoProto:
    """An input or output; an extent that is open is given as the name of its dimension."""
    value = ValueInfoProto(name=name, type=TypeProto())
    value.type.tensor_type.elem_type = ELEMENTS[np.dtype(kind)]
    for extent in shape:
        if isinstance(extent, str):
            value.type.tensor_type.shape.dim.add(dim_param=extent)
        else:
            value.type.tensor_type.shape.dim.add(dim_value=extent)
    return value


def node(op: str, inputs: Sequence[str], output: str, **attributes: int | float | str | list[int]) -> NodeProto:
    """A node; `onnx.helper.make_node` does the same 2.6x slower."""
    made = NodeProto(op_type=op, name=f"{output}/{op}", input=inputs, output=[output])
    for name, value in attributes.items():
        if isinstance(value, list):
            made.attribute.add(name=name, type=AttributeProto.INTS, ints=value)
        elif isinstance(value, int):
            made.attribute.add(name=name, type=AttributeProto.INT, i=value)
        elif isinstance(value, str):
            made.attribute.add(name=name, type=AttributeProto.STRING, s=value.encode())
        else:
            made.attribute.add(name=name, type=AttributeProto.FLOAT, f=value)
    return made


Maker = Callable[[Layer, Sequence[str], Sequence[str], str], list[NodeProto]]
"""Nodes of a layer that reads these activations, these weights and constants, and puts out this name."""


def _conv(layer: Layer, inputs: Sequence[str], tensors: Sequence[str], output: str) -> list[NodeProto]:
    kernel, pad, stride = layer.kernel, layer.kernel // 2, layer.stride
    return [
        node(
            "Conv",
            [*inputs, *tensors],
            output,
            kernel_shape=[kernel] * 2,
            pads=[pad] * 4,
            strides=[stride] * 2,
            group=layer.groups,
        )
    ]


def _linear(layer: Layer, inputs: Sequence[str], tensors: Sequence[str], output: str) -> list[NodeProto]:
    flat = f"{layer.name}.flat"
    return [node("Flatten", inputs, flat, axis=1), node("Gemm", [flat, *tensors], output, transB=1)]


def _attention(layer: Layer, inputs: Sequence[str], tensors: Sequence[str], output: str) -> list[NodeProto]:
    """Softmax over the keys, from operators that every runtime has. ONNX Runtime took 1.08-1.25 times as long with the
    MultiHeadAttention of its own, 1.00-1.03 with opset 23's Attention (four in a row, 16-256 pixels, 4-8 heads)."""
    split, factor, joined = tensors
    parts = ("queries", "keys", "values", "queries_t", "values_t", "scaled", "scores", "shares", "mixed", "mixed_t")
    queries, keys, values, queries_t, values_t, scaled, scores, shares, mixed, mixed_t = (
        f"{layer.name}.{part}" for part in parts
    )
    swapped = [0, 1, 3, 2]
    return [
        *(node("Reshape", [read, split], made) for read, made in zip(inputs, (queries, keys, values), strict=True)),
        node("Transpose", [queries], queries_t, perm=swapped),
        node("Mul", [queries_t, factor], scaled),
        node("MatMul", [scaled, keys], scores),
        node("Softmax", [scores], shares, axis=-1),
        node("Transpose", [values], values_t, perm=swapped),
        node("MatMul", [shares, values_t], mixed),
        node("Transpose", [mixed], mixed_t, perm=swapped),
        node("Reshape", [mixed_t, joined], output),
    ]


def _attention_constants(layer: Layer) -> dict[str, NDArray[Any]]:
    """Channels as heads and pixels as tokens, there and back; and what keeps scores of long queries from growing."""
    per_head = layer.in_shape[0] // layer.groups
    return {
        "split": np.array([0, layer.groups, per_head, layer.pixels], dtype=np.int64),
        "factor": np.array(per_head**-0.5),
        "joined": np.array([0, *layer.out_shape], dtype=np.int64),
    }


def _plain(op: str, **attributes: float) -> Maker:
    """An operation without weights: one node that reads what the layer reads."""
    return lambda layer, inputs, tensors, output: [node(op, inputs, output, **attributes)]


def _max_pool(layer: Layer, inputs: Sequence[str], tensors: Sequence[str], output: str) -> list[NodeProto]:
    kernel, pad, stride = layer.kernel, layer.kernel // 2, layer.stride
    return [node("MaxPool", inputs, output, kernel_shape=[kernel] * 2, pads=[pad] * 4, strides=[stride] * 2)]


def _avg_pool(layer: Layer, inputs: Sequence[str], tensors: Sequence[str], output: str) -> list[NodeProto]:
    kernel, stride = layer.kernel, layer.stride
    return [node("AveragePool", inputs, output, kernel_shape=[kernel] * 2, strides=[stride] * 2, ceil_mode=1)]


def _relu6(layer: Layer, inputs: Sequence[str], tensors: Sequence[str], output: str) -> list[NodeProto]:
    return [node("Clip", [*inputs, *tensors], output)]


NODES: dict[str, Maker] = {
    "conv": _conv,
    "linear": _linear,
    "attention": _attention,
    "global_pool": _plain("GlobalAveragePool"),
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "add": _plain("Add"),
    "mul": _plain("Mul"),
    "relu": _plain("Relu"),
    "relu6": _relu6,
    "hswish": _plain("HardSwish"),
    "hsigmoid": _plain("HardSigmoid", alpha=1 / 6, beta=0.5),
}
# What the nodes of a layer read beside activations and weights, by name.
CONSTANTS: dict[str, Callable[[Layer], dict[str, NDArray[Any]]]] = {
    "attention": _attention_constants,
    "relu6": lambda layer: {"low": np.array(0.0), "high": np.array(6.0)},
}
