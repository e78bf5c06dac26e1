"""ONNX Runtime sessions of one device: opened from bytes, fed with drawn inputs, run once a call."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as runtime_state

from latency_tables.device import Device
from latency_tables.errors import LatencyError

Run = Callable[[], float]
"""One inference; its wall time in microseconds."""


@dataclass(frozen=True, slots=True)
class Graph:
    """A serialised ONNX model under the name that its measurement gets."""

    key: str
    model: bytes = field(repr=False)


Opener = Callable[[Graph, Device], Run]

# Every exception that the runtime raises; they have no base of their own.
RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    *(
        kind
        for kind in vars(runtime_state).values()
        if isinstance(kind, type) and issubclass(kind, Exception) and kind.__module__ == runtime_state.__name__
    ),
)

OPTIMIZATIONS = {
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "disabled": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}

INPUT_TYPES: dict[str, type[np.floating]] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
}

# With 22 idle sessions of 2 threads open, their spinning workers burnt 1.2-1.5 cores for over 200 ms after the last
# inference; with this entry, none. A worker then sleeps between inferences: alone, a session is 2-6% slower with it.
SPINNING = False

# A model from bytes would read external data from the current folder (seen with onnxruntime 1.31). A folder that
# cannot exist refuses it; absolute paths and ".." the runtime refuses by itself.
NO_FOLDER = os.path.join(os.devnull, "external-data-is-refused")  # noqa: PTH118


def open_session(graph: Graph, device: Device) -> Run:
    """The graph loaded as the device asks, with inputs of the device's batch; `LatencyError` names graph and reason."""
    if device.provider not in onnxruntime.get_available_providers():
        have = ", ".join(onnxruntime.get_available_providers())
        raise LatencyError(f"device {device.name}: this onnxruntime has no provider {device.provider}; it has {have}")
    try:
        session = onnxruntime.InferenceSession(
            graph.model, _options(device), providers=[(device.provider, dict(device.provider_options))]
        )
    except RUNTIME_ERRORS as error:
        raise LatencyError(f"graph {graph.key!r} does not load: {_one_line(error)}") from error
    if session.get_providers()[0] != device.provider:
        raise LatencyError(f"graph {graph.key!r}: provider {device.provider} did not start on this machine")
    feeds = {entry.name: _input(graph, device, entry) for entry in session.get_inputs()}
    outputs = [entry.name for entry in session.get_outputs()]
    run, clock = session.run, time.perf_counter_ns

    def timed() -> float:
        # Plain `run`, as a service calls it: binding inputs and outputs once would leave out copies that users pay.
        try:
            start = clock()
            run(outputs, feeds)
            return (clock() - start) / 1e3
        except RUNTIME_ERRORS as error:
            raise LatencyError(f"graph {graph.key!r} does not run: {_one_line(error)}") from error

    timed()
    return timed


def _options(device: Device) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = device.threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = OPTIMIZATIONS[device.graph_optimization]
    options.enable_profiling = False
    options.log_severity_level = 4
    options.add_session_config_entry("session.force_spinning_stop", "0" if SPINNING else "1")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", NO_FOLDER)
    return options


def _input(graph: Graph, device: Device, entry: onnxruntime.NodeArg) -> NDArray[np.floating]:
    """Normal numbers: constant input can hide work, and zeros can run faster."""
    if entry.type not in INPUT_TYPES:
        known = ", ".join(INPUT_TYPES)
        raise LatencyError(f"graph {graph.key!r}: input {entry.name!r} is {entry.type}; supported are {known}")
    shape = list(entry.shape)
    if shape and not isinstance(shape[0], int):
        shape[0] = device.batch
    if any(not isinstance(extent, int) or extent < 1 for extent in shape):
        raise LatencyError(
            f"graph {graph.key!r}: input {entry.name!r} has shape {entry.shape}; only the batch may be left open"
        )
    if shape and shape[0] != device.batch:
        raise LatencyError(
            f"graph {graph.key!r} is built for batch {shape[0]}, but device {device.name} measures batch {device.batch}"
        )
    return np.random.default_rng(0).standard_normal(shape).astype(INPUT_TYPES[entry.type])


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
