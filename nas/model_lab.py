"""Measuring any ONNX file. Needs NumPy and ONNX Runtime alone: what a small board has."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from latency_tables.device import Device, fingerprint
from latency_tables.measuring.end_to_end import Preprocessing, measure_end_to_end
from latency_tables.measuring.energy import find_meter, measure_energy
from latency_tables.measuring.footprint import measure_footprints
from latency_tables.measuring.lock import exclusive
from latency_tables.measuring.measure import Protocol
from latency_tables.measuring.measurement import Measurement
from latency_tables.measuring.onnx_file import measure_file, read_graph
from latency_tables.measuring.sessions import Graph, load_graph, open_session
from latency_tables.offers import check_device
from nas.errors import JobError
from nas.progress import Display

LOCK_TIMEOUT_S = 600.0

Json = Any


@dataclass(frozen=True, slots=True)
class Effort:
    """How much to measure: networks at most, seconds at most, the predictor's error to stop at (None: do not ask), and
    the precision of each median."""

    networks: int
    budget_s: float
    target_error: float | None
    precision: float


def measure_onnx(
    path: Path,
    device: Device,
    shapes: Mapping[str, Sequence[int]],
    images: Sequence[Path],
    effort: Effort,
    display: Display,
) -> dict[str, Json]:
    """Measure one ONNX file on this machine; with `images`, from their bytes to the answer as well."""
    check_device(device)
    full = {name: shape for name, shape in shapes.items() if len(shape) > 1}
    dims = {name: shape[0] for name, shape in shapes.items() if len(shape) == 1}
    protocol = Protocol(target_precision=effort.precision, budget_s=effort.budget_s)
    graph = read_graph(path, shapes=full, dims=dims)
    with display.stage(f"measure {path.name}") as progress:
        progress(0, 3, "waiting for the machine")
        with exclusive(LOCK_TIMEOUT_S, on_wait=lambda message: progress(0, 3, message)):
            progress(0, 3, "inference")
            found = measure_file(path, device, shapes=full, dims=dims, protocol=protocol)
            meter = find_meter()
            if meter is not None:
                found = replace(found, energy=measure_energy(open_session(graph, device), meter))
            progress(1, 3, "memory and load time")
            found = replace(found, footprint=measure_footprints([graph], device)[graph.key])
            whole = None
            if images:
                progress(2, 3, "end to end")
                whole = _end_to_end(graph, device, images, protocol)
            progress(3, 3, "done")
    here = fingerprint()
    return {
        "format": "nas.measurement/1",
        "file": str(path),
        "device": device.to_json(),
        "full_name": device.full_name(here),
        "fingerprint": here.to_json(),
        "measurement": found.summary(),
        "end_to_end": None if whole is None else whole.summary(),
    }


def _end_to_end(graph: Graph, device: Device, images: Sequence[Path], protocol: Protocol) -> Measurement:
    """From the bytes of the images to the answer, prepared as the model's metadata say."""
    try:
        encoded = [image.read_bytes() for image in images]
    except OSError as error:
        raise JobError(f"{error.filename}: cannot be read: {error.strerror}") from error
    return measure_end_to_end([graph], device, encoded, _preprocessing(graph, device), protocol)[graph.key]


def _preprocessing(graph: Graph, device: Device) -> Preprocessing:
    """Mean and standard deviation from an exported model's metadata; of any other model, 0.5 and 0.5 of three channels."""
    given = load_graph(graph, device).session.get_modelmeta().custom_metadata_map
    try:
        found = json.loads(given["nas.preprocessing"])
        return Preprocessing(tuple(map(float, found["mean"])), tuple(map(float, found["std"])))
    except KeyError:
        return Preprocessing((0.5,) * 3, (0.5,) * 3)
    except (ValueError, TypeError) as error:
        raise JobError(f"{graph.key}: metadata nas.preprocessing: {error}") from error
