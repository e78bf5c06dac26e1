"""ONNX Runtime sessions of one device: opened from bytes, fed with drawn inputs, run once a call.

The runtime is imported when the first session is made: whoever describes devices and reads tables does without, and without
20 MB.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from latency_tables.device import Device
from latency_tables.errors import LatencyError

if TYPE_CHECKING:
    import onnxruntime

Run = Callable[[], float]
"""One inference; its wall time in microseconds."""
Json = Any
Array = NDArray[Any]

CPU = "CPUExecutionProvider"
CANARY = Path(__file__).with_name("canary.onnx")


@dataclass(frozen=True, slots=True)
class Graph:
    """A serialised ONNX model under the name that its measurement gets.

    `dims` gives values to dimensions that the model names and leaves open, `shapes` whole shapes to inputs. An open
    first dimension that neither names is the device's batch.
    """

    key: str
    model: bytes = field(repr=False)
    dims: tuple[tuple[str, int], ...] = ()
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def header(self) -> dict[str, Json]:
        """Everything but the model, as JSON, with the model's length."""
        return {"key": self.key, "dims": self.dims, "shapes": self.shapes, "bytes": len(self.model)}

    @staticmethod
    def from_header(document: Mapping[str, Json], model: bytes) -> Graph:
        dims = tuple((name, extent) for name, extent in document["dims"])
        return Graph(document["key"], model, dims, tuple((name, tuple(shape)) for name, shape in document["shapes"]))


@dataclass(frozen=True, slots=True)
class Loaded:
    """A graph ready to run on a device: its session, an array for each input, the names of its outputs."""

    graph: Graph
    session: onnxruntime.InferenceSession
    feeds: dict[str, Array]
    outputs: tuple[str, ...]

    def infer(self, feeds: Mapping[str, Array]) -> list[Array]:
        """All outputs; `LatencyError` names the graph and the runtime's reason."""
        try:
            found: list[Array] = self.session.run(self.outputs, feeds)
            return found
        except runtime_errors() as error:
            raise LatencyError(f"graph {self.graph.key!r} does not run: {one_line(error)}") from error


Opener = Callable[[Graph, Device], Run]

# Of `onnxruntime.GraphOptimizationLevel`.
OPTIMIZATIONS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "disabled": "ORT_DISABLE_ALL",
}


def _normal(rng: np.random.Generator, shape: list[int]) -> Array:
    return rng.standard_normal(shape)


def _whole(low: int, high: int) -> Callable[[np.random.Generator, list[int]], Array]:
    return lambda rng, shape: rng.integers(low, high, shape)


# Constant input can hide work, and zeros can run faster. Whole numbers may be indices, of tokens or of classes: 0 and 1
# are in range wherever any two are. Eight-bit ones are pixels.
INPUTS: dict[str, tuple[type[np.generic], Callable[[np.random.Generator, list[int]], Array]]] = {
    "tensor(float)": (np.float32, _normal),
    "tensor(double)": (np.float64, _normal),
    "tensor(float16)": (np.float16, _normal),
    "tensor(uint8)": (np.uint8, _whole(0, 256)),
    "tensor(int8)": (np.int8, _whole(-128, 128)),
    "tensor(int16)": (np.int16, _whole(0, 2)),
    "tensor(int32)": (np.int32, _whole(0, 2)),
    "tensor(int64)": (np.int64, _whole(0, 2)),
    "tensor(bool)": (np.bool_, _whole(0, 2)),
}

# With 22 idle sessions of 2 threads open, their spinning workers burnt 1.2-1.5 cores for over 200 ms after the last
# inference; with this entry, none. A worker then sleeps between inferences: alone, a session is 2-6% slower with it.
SPINNING = False

# A model from bytes would read external data from the current folder (seen with onnxruntime 1.31). A folder that
# cannot exist refuses it; absolute paths and ".." the runtime refuses by itself.
NO_FOLDER = os.path.join(os.devnull, "external-data-is-refused")  # noqa: PTH118
EXTERNAL_DATA = "it keeps weights in other files, which are not read; save it as one file"


@cache
def runtime_errors() -> tuple[type[Exception], ...]:
    """Every exception that the runtime raises; they have no base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (RuntimeError, *(kind for kind in kinds if kind.__module__ == state.__name__))


def canary_device(device: Device) -> Device:
    """How the canary runs beside the graphs of a device: on the same provider and threads, one image in fp32."""
    return replace(device, batch=1, precision="fp32")


def open_session(graph: Graph, device: Device, *, first_run: bool = True) -> Run:
    """The graph loaded as the device asks, with inputs of the device's batch; `LatencyError` names graph and reason.

    It has run once unless `first_run` is false.
    """
    loaded = load_graph(graph, device)
    run, outputs, feeds, clock = loaded.session.run, loaded.outputs, loaded.feeds, time.perf_counter_ns

    def timed() -> float:
        # Plain `run`, as a service calls it: binding inputs and outputs once would leave out copies that users pay.
        try:
            start = clock()
            run(outputs, feeds)
            return (clock() - start) / 1e3
        except runtime_errors() as error:
            raise LatencyError(f"graph {graph.key!r} does not run: {one_line(error)}") from error

    if first_run:
        timed()
    return timed


def load_graph(graph: Graph, device: Device) -> Loaded:
    """A session as the device asks, with drawn inputs; `LatencyError` names graph and reason."""
    import onnxruntime

    if device.provider not in onnxruntime.get_available_providers():
        have = ", ".join(onnxruntime.get_available_providers())
        raise LatencyError(f"device {device.name}: this onnxruntime has no provider {device.provider}; it has {have}")
    options = session_options(device)
    for name, extent in graph.dims:
        options.add_free_dimension_override_by_name(name, extent)
    try:
        session = onnxruntime.InferenceSession(
            graph.model, options, providers=[(device.provider, dict(device.provider_options))]
        )
    except runtime_errors() as error:
        reason = EXTERNAL_DATA if "External data" in str(error) else one_line(error)
        raise LatencyError(f"graph {graph.key!r} does not load: {reason}") from error
    if session.get_providers()[0] != device.provider:
        raise LatencyError(f"graph {graph.key!r}: provider {device.provider} did not start on this machine")
    feeds = {entry.name: draw_input(graph, device, entry) for entry in session.get_inputs()}
    return Loaded(graph, session, feeds, tuple(entry.name for entry in session.get_outputs()))


def session_options(device: Device) -> onnxruntime.SessionOptions:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = device.threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = getattr(
        onnxruntime.GraphOptimizationLevel, OPTIMIZATIONS[device.graph_optimization]
    )
    options.enable_profiling = False
    options.log_severity_level = 4
    options.add_session_config_entry("session.force_spinning_stop", "0" if SPINNING else "1")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", NO_FOLDER)
    return options


def optimised_model(graph: Graph, device: Device, *, alone: bool = False) -> bytes:
    """The graph as the runtime makes it for the device, serialised; empty where a provider compiles all of it.

    With `alone` a `LatencyError` says that the provider leaves a part to the processor.
    """
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options, path = session_options(device), Path(folder) / "optimised.onnx"
        options.optimized_model_filepath = str(path)
        if alone and device.provider != CPU:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            provider = (device.provider, dict(device.provider_options))
            onnxruntime.InferenceSession(graph.model, options, providers=[provider])
        except runtime_errors() as error:
            raise LatencyError(
                f"device {device.name}: {device.provider} does not run {graph.key!r} by itself: {one_line(error)}"
            ) from error
        return path.read_bytes() if path.exists() else b""


def draw_input(graph: Graph, device: Device, entry: onnxruntime.NodeArg) -> Array:
    """Numbers for one input; `LatencyError` names it and what is missing to know its shape."""
    if entry.type not in INPUTS:
        known = ", ".join(INPUTS)
        raise LatencyError(f"graph {graph.key!r}: input {entry.name!r} is {entry.type}; supported are {known}")
    kind, draw = INPUTS[entry.type]
    return draw(np.random.default_rng(0), input_shape(graph, device, entry)).astype(kind)


def input_shape(graph: Graph, device: Device, entry: onnxruntime.NodeArg) -> list[int]:
    """The shape to feed: what the model says, then what the graph's `shapes` say, then the device's batch."""
    shape, given = list(entry.shape), dict(graph.shapes).get(entry.name)
    if given is not None:
        fits = len(given) == len(shape) and all(
            extent == wanted or not isinstance(wanted, int) for extent, wanted in zip(given, shape, strict=True)
        )
        if not fits:
            raise LatencyError(
                f"graph {graph.key!r}: input {entry.name!r} has shape {entry.shape}; {list(given)} does not fit it"
            )
        return list(given)
    if shape and not isinstance(shape[0], int):
        shape[0] = device.batch
    unknown = [extent for extent in shape if not isinstance(extent, int) or extent < 1]
    if unknown:
        named = next((f", or --shape {extent}=N" for extent in unknown if isinstance(extent, str)), "")
        extents = ",".join(str(extent) if isinstance(extent, int) else "N" for extent in entry.shape)
        raise LatencyError(
            f"graph {graph.key!r}: input {entry.name!r} has shape {entry.shape}; besides the batch nothing may be left "
            f"open: give --shape {entry.name}={extents}{named}"
        )
    if shape and shape[0] != device.batch and not graph.dims and not graph.shapes:
        raise LatencyError(
            f"graph {graph.key!r} is built for batch {shape[0]}, but device {device.name} measures batch {device.batch}"
        )
    return shape


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
