"""Graphs of networks with early exits: one that puts out what every exit says, and one that goes on where none is sure.

The second has an If node for each exit (Teerapittayanon et al., "BranchyNet", ICPR 2016, whose exits go by entropy): the rest
of the network is in its branch, and the largest probability of the exit is compared with a threshold that is in the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto

from latency_tables.errors import LatencyError
from latency_tables.graphs.graph import build_model
from latency_tables.graphs.nodes import (
    DYNAMIC_BATCH,
    NODES,
    OUTPUT,
    add_constants,
    add_tensors,
    network_model,
    node,
    tensor,
    value_info,
)
from latency_tables.graphs.weights import Weights, layer_weights
from search_spaces import Exit, Layer, quantised
from search_spaces.exits import PREFIX

LEFT_AT = "exit"
"""The output that says where an image left: 0 for the first exit, and so on; the end of the network counts as the last."""
ONE = f"{PREFIX}one"


def outputs_model(
    layers: Sequence[Layer],
    exits: Sequence[Exit],
    weights: Weights,
    *,
    batch: int | None,
    opset: int = 17,
    ir_version: int = 8,
) -> ModelProto:
    """The model of `search_spaces.with_exits`, or of the first of these layers: `logits` are those of the last one, and each
    exit before it has an output of its own, named as its last layer."""
    _check(layers)
    model = build_model(layers, weights, batch=batch, opset=opset, ir_version=ir_version)
    inner = {layer.name: layer for layer in layers[:-1]}
    for each in exits:
        if each.output in inner:
            shape = (DYNAMIC_BATCH if batch is None else batch, inner[each.output].out_shape[0])
            model.graph.output.append(value_info(each.output, shape, np.float32))
    return model


def up_to(layers: Sequence[Layer], output: str) -> tuple[Layer, ...]:
    """The layers as far as this one."""
    end = next(i for i, layer in enumerate(layers) if layer.name == output)
    return tuple(layers[: end + 1])


def branching_model(
    layers: Sequence[Layer],
    exits: Sequence[Exit],
    thresholds: Sequence[float],
    weights: Weights,
    *,
    opset: int = 17,
    ir_version: int = 8,
) -> ModelProto:
    """The model of `search_spaces.with_exits` for one image, which leaves where the largest probability of an exit is at least
    its threshold: `logits` (1, classes) are those of that exit, or of the end, and `exit` (1) says which it was."""
    _check(layers)
    if len(thresholds) != len(exits):
        raise LatencyError(f"wanted a threshold for each of {len(exits)} exits, not {len(thresholds)}")
    model = network_model(layers, 1, opset, ir_version, None)
    graph = model.graph
    graph.output.append(value_info(LEFT_AT, (1,), np.int64))
    graph.initializer.append(tensor(ONE, np.array([1], dtype=np.int64)))
    for each, threshold in zip(exits, thresholds, strict=True):
        graph.initializer.append(tensor(_threshold(each), np.array([[threshold]], dtype=np.float32)))
    ends = [0, *(len(up_to(layers, each.output)) for each in exits), len(layers)]
    _fill(graph, [layers[start:end] for start, end in pairwise(ends)], exits, weights)
    return model


def _check(layers: Sequence[Layer]) -> None:
    if quantised(layers):
        raise LatencyError("graphs with early exits compute in fp32; this network has layers in 8-bit integers")


def _threshold(exit_: Exit) -> str:
    return f"{PREFIX}{exit_.stage}.threshold"


def _fill(
    graph: GraphProto,
    parts: Sequence[Sequence[Layer]],
    exits: Sequence[Exit],
    weights: Weights,
    at: int = 0,
    scope: str = "",
) -> None:
    """Put the first of these parts into a graph, and what may follow its exit into a branch.

    `at` counts exits. `scope` comes before the names of what the graph puts out, as a branch may not use those of the graph
    around it.
    """
    first, *rest = parts
    for layer in first:
        names = add_tensors(graph, layer, layer_weights(layer, weights, 0)) + add_constants(graph, layer)
        last = not rest and layer is first[-1]
        graph.node.extend(NODES[layer.op](layer, layer.inputs, names, scope + OUTPUT if last else layer.name))
    if not rest:
        _left(graph, at, scope)
        return
    here, *others = exits
    prefix, classes = f"{PREFIX}{here.stage}", first[-1].out_shape[0]
    graph.node.extend(_is_sure(prefix, here))
    leaves, goes_on = f"{prefix}.leaves.", f"{prefix}.goes_on."
    branches = {"then_branch": _branch(leaves, classes), "else_branch": _branch(goes_on, classes)}
    branches["then_branch"].node.append(node("Identity", [here.output], leaves + OUTPUT))
    _left(branches["then_branch"], at, leaves)
    _fill(branches["else_branch"], rest, others, weights, at + 1, goes_on)
    made = NodeProto(
        op_type="If", name=f"{prefix}/If", input=[f"{prefix}.sure"], output=[scope + OUTPUT, scope + LEFT_AT]
    )
    for name, branch in branches.items():
        made.attribute.add(name=name, type=AttributeProto.GRAPH, g=branch)
    graph.node.append(made)


def _is_sure(prefix: str, here: Exit) -> list[NodeProto]:
    """Whether the largest probability is at least the threshold. By TopK: the axes of ReduceMax are an attribute up to opset
    17, and an input from 18 on."""
    top = node("TopK", [f"{prefix}.probabilities", ONE], f"{prefix}.largest", axis=1)
    top.output.append(f"{prefix}.class")
    return [
        node("Softmax", [here.output], f"{prefix}.probabilities", axis=1),
        top,
        node("GreaterOrEqual", [f"{prefix}.largest", _threshold(here)], f"{prefix}.sure"),
    ]


def _left(graph: GraphProto, at: int, scope: str) -> None:
    """Say where an image leaves."""
    name = f"{scope}{LEFT_AT}.{at}"
    graph.initializer.append(tensor(name, np.array([at], dtype=np.int64)))
    graph.node.append(node("Identity", [name], scope + LEFT_AT))


def _branch(scope: str, classes: int) -> GraphProto:
    graph = GraphProto(name=scope.removesuffix("."))
    graph.output.append(value_info(scope + OUTPUT, (1, classes), np.float32))
    graph.output.append(value_info(scope + LEFT_AT, (1,), np.int64))
    return graph
