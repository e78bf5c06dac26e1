"""Graphs of half precision with float32 at both ends, so that whoever feeds them need not know."""

from __future__ import annotations

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, numpy_helper

from latency_tables.graphs.nodes import INPUT, OUTPUT, node, tensor
from latency_tables.graphs.weights import in_kind

INSIDE = "{}.inside"
"""What an input or output becomes within the graph."""


def in_half(model: ModelProto) -> ModelProto:
    """A graph of float32 as one that computes in float16 between its ends.

    `LatencyError` names a number that float16 does not hold. Integers stay as they are.
    """
    half = ModelProto()
    half.CopyFrom(model)
    graph = half.graph
    for index, each in enumerate(graph.initializer):
        if each.data_type == TensorProto.FLOAT:
            array = in_kind(each.name, numpy_helper.to_array(each), np.float16)
            graph.initializer[index].CopyFrom(tensor(each.name, array))
    _keep_float_ends(graph)
    return half


def _keep_float_ends(graph: GraphProto) -> None:
    """Cast what comes in from float32 and what goes out to float32."""
    for each in graph.node:
        for names, old in ((each.input, INPUT), (each.output, OUTPUT)):
            names[:] = [INSIDE.format(old) if name == old else name for name in names]
    first = node("Cast", [INPUT], INSIDE.format(INPUT), to=TensorProto.FLOAT16)
    last = node("Cast", [INSIDE.format(OUTPUT)], OUTPUT, to=TensorProto.FLOAT)
    nodes = [first, *graph.node, last]
    del graph.node[:]
    graph.node.extend(nodes)
