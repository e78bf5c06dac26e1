"""What an ONNX model holds, and whether ONNX Runtime runs it. To be called in a process that may run out of anything.

First the message is looked through for what is refused or would blow up when it is loaded: weights in other files, operators
from elsewhere, functions that call themselves or unfold without end, tensors that claim more than they hold. Then ONNX Runtime
loads it, as it will be measured, and runs it once.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import onnx
import onnxruntime
from google.protobuf.message import DecodeError, Message
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto

from latency_tables.device import Device
from latency_tables.measuring.sessions import INPUTS, Graph, draw_input, one_line, runtime_errors, session_options
from nas.service.refusal import UploadRefused, shown

Json = Any

MOST_BYTES = 2**30
MOST_NODES = 50_000
MOST_FUNCTIONS = 500
MOST_NESTING = 16
MOST_INPUTS = 64
MOST_ELEMENTS = 2**28
"""Of an input or a tensor: 1 GiB as float32."""
# Neither read other files nor load code, but for operators below.
DOMAINS = {"": "ai.onnx", "ai.onnx": "ai.onnx", "ai.onnx.ml": "ai.onnx.ml", "com.microsoft": "com.microsoft"}
# What vendors have compiled, in the model or in a file that it names.
COMPILED = {"EPContext", "Snpe"}
DEVICE = Device("inspection")

Function = tuple[str, str]


@dataclass
class _Body:
    """A graph or a function with all that is nested in it."""

    nodes: int = 0
    parameters: int = 0
    calls: Counter[Function] = field(default_factory=Counter)


def inspect_onnx(descriptor: int) -> dict[str, Json]:
    """{inputs, outputs, opsets, nodes, parameters, ran} of an open file. Raises `UploadRefused`.

    `ran` is false where a dimension besides the first of an input is left open: then it was loaded only.
    """
    size = os.fstat(descriptor).st_size
    if size > MOST_BYTES:
        raise UploadRefused(f"it has {size:,} bytes; an ONNX model may have {MOST_BYTES:,}")
    data = os.pread(descriptor, size, 0)
    model = _parsed(data)
    opsets = _opsets(model)
    body = _surveyed(model)
    del model  # ONNX Runtime makes its own
    return {"opsets": opsets, "nodes": body.nodes, "parameters": body.parameters, **_run(data)}


def _parsed(data: bytes) -> ModelProto:
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise UploadRefused("this is not an ONNX model: it cannot be parsed; export the model again") from error
    if not model.graph.node or not model.graph.output:
        raise UploadRefused("this is not an ONNX model that computes something: it has no nodes or no outputs")
    if model.training_info:
        raise UploadRefused("it holds a training; export it for inference")
    return model


def _opsets(model: ModelProto) -> dict[str, int]:
    """The version of each set of operators."""
    local = {function.domain for function in model.functions}
    found = {}
    for each in model.opset_import:
        if each.domain in DOMAINS:
            found[DOMAINS[each.domain]] = int(each.version)
        elif each.domain not in local:
            raise _foreign(each.domain)
    newest = onnx.defs.onnx_opset_version()
    version = found.get("ai.onnx")
    if version is None or not 1 <= version <= newest:
        raise UploadRefused(f"its opset is {version or 'not given'}; opsets 1 to {newest} are known here")
    return found


def _foreign(domain: str) -> UploadRefused:
    known = ", ".join(sorted(set(DOMAINS.values())))
    return UploadRefused(f"it needs operators of {shown(domain)!r}; only those of {known} are taken")


def _surveyed(model: ModelProto) -> _Body:
    """Everything in the model, with functions unfolded."""
    if len(model.functions) > MOST_FUNCTIONS:
        raise UploadRefused(f"it has {len(model.functions):,} functions; {MOST_FUNCTIONS} are taken")
    local = {(function.domain, function.name) for function in model.functions}
    functions = {(function.domain, function.name): _body(function, local) for function in model.functions}
    main = _body(model.graph, local)
    unfolded = _Unfolded(functions)
    nodes = main.nodes + unfolded.of_calls(main)
    if nodes > MOST_NODES:
        raise UploadRefused(f"it has more than {MOST_NODES:,} nodes, functions unfolded")
    return _Body(nodes, main.parameters + sum(each.parameters for each in functions.values()))


class _Unfolded:
    """Nodes that the calls of functions stand for. A function that calls itself is refused."""

    def __init__(self, functions: dict[Function, _Body]) -> None:
        self._functions = functions
        self._known: dict[Function, int] = {}
        self._open: set[Function] = set()

    def of_calls(self, body: _Body) -> int:
        return sum(count * (self._of(called) - 1) for called, count in body.calls.items())

    def _of(self, called: Function) -> int:
        if called in self._open:
            raise UploadRefused(f"its function {shown(called[1])!r} calls itself")
        if called not in self._known:
            self._open.add(called)
            body = self._functions[called]
            self._known[called] = body.nodes + self.of_calls(body)
            self._open.remove(called)
        return self._known[called]


def _body(root: GraphProto | FunctionProto, local: set[Function]) -> _Body:
    """What a graph or function holds, nested graphs included."""
    found = _Body()
    waiting: list[tuple[Message, int]] = [(root, 0)]
    while waiting:
        message, depth = waiting.pop()
        if isinstance(message, TensorProto):
            _check_tensor(message)
            continue
        if isinstance(message, SparseTensorProto):
            _check_elements(message.values.name, message.dims)
        elif isinstance(message, NodeProto):
            _count_node(found, message, local)
        elif isinstance(message, GraphProto):
            found.parameters += sum(math.prod(tensor.dims) for tensor in message.initializer)
            depth += 1
            if depth > MOST_NESTING:
                raise UploadRefused(f"its graphs are nested more than {MOST_NESTING} deep")
        waiting += [(inner, depth) for inner in _inner(message)]
    return found


def _inner(message: Message) -> Iterator[Message]:
    """All messages directly in a message, whatever their fields are called, so that none is overlooked."""
    for descriptor, value in message.ListFields():
        if descriptor.type == descriptor.TYPE_MESSAGE:
            yield from value if descriptor.is_repeated else (value,)


def _count_node(body: _Body, node: NodeProto, local: set[Function]) -> None:
    body.nodes += 1
    if body.nodes > MOST_NODES:
        raise UploadRefused(f"it has more than {MOST_NODES:,} nodes")
    if (node.domain, node.op_type) in local:
        body.calls[node.domain, node.op_type] += 1
    elif node.domain not in DOMAINS:
        raise _foreign(node.domain)
    elif node.op_type in COMPILED:
        raise UploadRefused(f"its operator {node.op_type} holds a compiled model; export it before compiling")


def _check_tensor(tensor: TensorProto) -> None:
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise UploadRefused(
            f"tensor {shown(tensor.name)!r} keeps its weights in another file, which is not read; save the model as one file"
        )
    elements = _check_elements(tensor.name, tensor.dims)
    # The narrowest types pack elements of 2 bits.
    if elements > 4 * tensor.ByteSize():
        raise UploadRefused(f"tensor {shown(tensor.name)!r} claims {elements:,} elements, and does not hold them")


def _check_elements(name: str, dims: Iterable[int]) -> int:
    extents = list(dims)
    elements = math.prod(extents)
    if min(extents, default=0) < 0 or elements > MOST_ELEMENTS:
        raise UploadRefused(f"tensor {shown(name)!r} has a shape that is negative or beyond {MOST_ELEMENTS:,} elements")
    return elements


def _run(data: bytes) -> dict[str, Json]:
    """Load and run once, with a batch of 1 where it is left open; the inputs and outputs, and whether it could be run."""
    with _runtime():
        session = onnxruntime.InferenceSession(data, session_options(DEVICE), providers=[DEVICE.provider])
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) > MOST_INPUTS or len(outputs) > MOST_INPUTS:
        raise UploadRefused(
            f"it has {len(inputs):,} inputs and {len(outputs):,} outputs; {MOST_INPUTS} of each are taken"
        )
    shapes = {entry.name: shape for entry in inputs if (shape := _shape(entry)) is not None}
    if ran := len(shapes) == len(inputs):
        graph = Graph("upload", b"", shapes=tuple((name, tuple(shape)) for name, shape in shapes.items()))
        feeds = {entry.name: draw_input(graph, DEVICE, entry) for entry in inputs}
        with _runtime():
            session.run(None, feeds)
    return {"inputs": list(map(_described, inputs)), "outputs": list(map(_described, outputs)), "ran": ran}


@contextmanager
def _runtime() -> Iterator[None]:
    try:
        yield
    except runtime_errors() as error:
        raise UploadRefused(f"ONNX Runtime cannot load and run it: {shown(one_line(error), 200)}") from error


def _shape(entry: onnxruntime.NodeArg) -> list[int] | None:
    """The shape of an input to run with; None where more than the batch is open."""
    if entry.type not in INPUTS:
        raise UploadRefused(f"input {shown(entry.name)!r} is {shown(entry.type)}; supported are {', '.join(INPUTS)}")
    shape = [1 if i == 0 and not isinstance(extent, int) else extent for i, extent in enumerate(entry.shape)]
    if not all(isinstance(extent, int) and extent >= 1 for extent in shape):
        return None
    if math.prod(shape) > MOST_ELEMENTS:
        raise UploadRefused(f"input {shown(entry.name)!r} has more than {MOST_ELEMENTS:,} elements")
    return shape


def _described(entry: onnxruntime.NodeArg) -> dict[str, Json]:
    shape = [extent if isinstance(extent, int) or extent is None else shown(extent) for extent in entry.shape]
    return {"name": shown(entry.name, 200), "type": entry.type, "shape": shape}
