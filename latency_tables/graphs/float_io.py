"""Graphs of another number type with float32 at both ends, so that whoever feeds them need not know."""

from __future__ import annotations

from onnx import GraphProto, TensorProto

from latency_tables.graphs.nodes import INPUT, OUTPUT, node

INSIDE = "{}.inside"
"""What an input or output becomes within the graph."""


def keep_float_io(graph: GraphProto) -> None:
    """Cast what comes in from float32 and what goes out to float32; a graph of float32 stays as it is."""
    inside = graph.input[0].type.tensor_type.elem_type
    if inside == TensorProto.FLOAT:
        return
    for each in graph.node:
        for names, old in ((each.input, INPUT), (each.output, OUTPUT)):
            names[:] = [INSIDE.format(old) if name == old else name for name in names]
    first = node("Cast", [INPUT], INSIDE.format(INPUT), to=inside)
    last = node("Cast", [INSIDE.format(OUTPUT)], OUTPUT, to=TensorProto.FLOAT)
    nodes = [first, *graph.node, last]
    del graph.node[:]
    graph.node.extend(nodes)
    for end in (graph.input[0], graph.output[0]):
        end.type.tensor_type.elem_type = TensorProto.FLOAT
