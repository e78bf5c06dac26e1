"""Measuring any ONNX file: what it must be, the shapes that it leaves open, and the same protocol as for our own graphs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from latency_tables.device import Device
from latency_tables.errors import LatencyError
from latency_tables.measuring.measure import Protocol, measure
from latency_tables.measuring.measurement import Measurement
from latency_tables.measuring.sessions import Graph, load_graph

MAX_BYTES = 2**31 - 1
"""An ONNX file that holds its own weights is a protobuf message, which cannot be longer."""


def read_graph(
    path: str | os.PathLike[str],
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    dims: Mapping[str, int] | None = None,
    max_bytes: int = MAX_BYTES,
) -> Graph:
    """The file as a graph, named like it. `shapes` are those of inputs, `dims` values of the dimensions that it names.

    `LatencyError` names the file and what is wrong with it.
    """
    file = Path(path)
    for name, extent in (dims or {}).items():
        _positive(file, f"dims[{name!r}]", (extent,))
    for name, shape in (shapes or {}).items():
        _positive(file, f"shapes[{name!r}]", shape)
    try:
        size = file.stat().st_size
        if size > max_bytes:
            raise LatencyError(f"{file}: {size:,} bytes; a model may have {max_bytes:,}")
        model = file.read_bytes()
    except OSError as error:
        raise LatencyError(f"{file}: cannot be read: {error.strerror}") from error
    if not model:
        raise LatencyError(f"{file}: the file is empty")
    return Graph(
        file.name, model, tuple((dims or {}).items()), tuple((name, tuple(s)) for name, s in (shapes or {}).items())
    )


def measure_file(
    path: str | os.PathLike[str],
    device: Device,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    dims: Mapping[str, int] | None = None,
    protocol: Protocol | None = None,
    max_bytes: int = MAX_BYTES,
) -> Measurement:
    """Measure a file on the machine at hand. Hold `exclusive` meanwhile. `LatencyError` names the file and the field."""
    graph = read_graph(path, shapes=shapes, dims=dims, max_bytes=max_bytes)
    try:
        loaded = load_graph(graph, device)
        _check_names(graph, loaded.feeds)
        return measure([graph], device, protocol=protocol)[graph.key]
    except LatencyError as error:
        raise LatencyError(f"{path}: {error}") from error


def _check_names(graph: Graph, inputs: Mapping[str, object]) -> None:
    unknown = next((name for name, _ in graph.shapes if name not in inputs), None)
    if unknown is not None:
        raise LatencyError(f"shapes: there is no input {unknown!r}; the model has {', '.join(inputs)}")


def _positive(file: Path, field: str, extents: Sequence[int]) -> None:
    if not all(type(extent) is int and extent >= 1 for extent in extents):
        raise LatencyError(f"{file}: {field} must be whole numbers from 1, not {extents!r}")
