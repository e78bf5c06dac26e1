"""Measuring an uploaded ONNX model: on this machine, or on an enrolled one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from latency_tables.device import Device
from latency_tables.measuring.machine import Machine
from latency_tables.measuring.measure import Protocol
from latency_tables.measuring.needs import NEEDS
from latency_tables.measuring.onnx_file import read_graph
from nas.model_lab import Effort, measure_onnx
from nas.progress import Display
from nas.service.specs import Model

Json = Any


def measure_upload(path: Path, name: str, asked: Model, machine: Machine, display: Display) -> dict[str, Json]:
    """What was measured, as `nas profile --onnx --json` says it; `name` is what the upload is called."""
    machine.check(asked.device)
    if asked.device.agent:
        found = _elsewhere(path, asked, machine, display)
    else:
        effort = Effort(networks=1, budget_s=asked.effort.budget_s, target_error=None, precision=asked.effort.precision)
        found = measure_onnx(path, asked.device, asked.shapes, [], effort, display)
    return {**found, "file": name}


def _elsewhere(path: Path, asked: Model, machine: Machine, display: Display) -> dict[str, Json]:
    """All that the machine can tell."""
    device: Device = asked.device
    full = {name: shape for name, shape in asked.shapes.items() if len(shape) > 1}
    dims = {name: shape[0] for name, shape in asked.shapes.items() if len(shape) == 1}
    graph = read_graph(path, shapes=full, dims=dims)
    protocol = Protocol(target_precision=asked.effort.precision, budget_s=asked.effort.budget_s)
    with display.stage("measure") as progress:

        def waiting(line: str) -> None:
            progress(0, 1, line)

        def on_round(number: int, most: int, found: object) -> None:
            progress(number, most, "rounds")

        with machine.held(waiting):
            measured = machine.measure([graph], device, protocol=protocol, on_round=on_round, needs=NEEDS)[graph.key]
    where = machine.fingerprint()
    return {
        "format": "nas.measurement/1",
        "device": device.to_json(),
        "full_name": device.full_name(where),
        "fingerprint": where.to_json(),
        "measurement": measured.summary(),
        "end_to_end": None,
    }
