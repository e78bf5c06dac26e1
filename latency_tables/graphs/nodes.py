"""The parts of ONNX graphs: models, tensors, inputs and outputs, and the nodes that layers become."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, defs

from latency_tables.errors import LatencyError
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
    graph.input.append(_value(INPUT, (batch, *layers[0].in_shape), kind))
    graph.output.append(_value(OUTPUT, (batch, *(shape[:1] if layers[-1].op == "linear" else shape)), kind))
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


def _value(name: str, shape: tuple[int | None, ...], kind: type[np.floating[Any]]) -> ValueInfoProto:
    value = ValueInfoProto(name=name, type=TypeProto())
    value.type.tensor_type.elem_type = ELEMENTS[np.dtype(kind)]
    for extent in shape:
        if extent is None:
            value.type.tensor_type.shape.dim.add(dim_param=DYNAMIC_BATCH)
        else:
            value.type.tensor_type.shape.dim.add(dim_value=extent)
    return value


def node(op: str, inputs: Sequence[str], output: str, **attributes: int | float | list[int]) -> NodeProto:
    """A node; `onnx.helper.make_node` does the same 2.6x slower."""
    made = NodeProto(op_type=op, name=f"{output}/{op}", input=inputs, output=[output])
    for name, value in attributes.items():
        if isinstance(value, list):
            made.attribute.add(name=name, type=AttributeProto.INTS, ints=value)
        elif isinstance(value, int):
            made.attribute.add(name=name, type=AttributeProto.INT, i=value)
        else:
            made.attribute.add(name=name, type=AttributeProto.FLOAT, f=value)
    return made


Maker = Callable[[Layer, Sequence[str], Sequence[str], str], list[NodeProto]]
"""Nodes of a layer that reads these activations and these weights and puts out this name."""


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


def _plain(op: str, **attributes: float) -> Maker:
    """An operation without weights: one node that reads what the layer reads."""
    return lambda layer, inputs, tensors, output: [node(op, inputs, output, **attributes)]


NODES: dict[str, Maker] = {
    "conv": _conv,
    "linear": _linear,
    "global_pool": _plain("GlobalAveragePool"),
    "add": _plain("Add"),
    "mul": _plain("Mul"),
    "relu": _plain("Relu"),
    "hswish": _plain("HardSwish"),
    "hsigmoid": _plain("HardSigmoid", alpha=1 / 6, beta=0.5),
}
