"""What a network needs besides time: memory, bytes, loading. Measured in processes of their own."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from latency_tables.device import Device
from latency_tables.errors import LatencyError
from latency_tables.measuring.sessions import CANARY, Graph, canary_device, open_session

Json = Any

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
CLEAR_PEAK = "5"
"""What to write so that the kernel forgets the peak of resident memory (since Linux 4.0)."""
RUNS = 3
CHILD = f"from {__name__} import main; main()"


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one graph takes on one device. Lower is better; None where the system does not tell."""

    model_bytes: int
    load_ms: float
    """From bytes to a session that can run."""
    first_run_ms: float
    """The first inference: memory is claimed, weights come into the caches."""
    peak_bytes: int | None = None
    """Resident memory at its highest while loading and running, above that of the process before."""

    def to_json(self) -> dict[str, Json]:
        return asdict(self)

    @staticmethod
    def from_json(document: Json) -> Footprint:
        """Read what `to_json` wrote; `LatencyError` names what is wrong."""
        names = [part.name for part in fields(Footprint)]
        if not isinstance(document, dict) or sorted(document) != sorted(names):
            raise LatencyError(f"footprint: wanted an object with {', '.join(names)}")
        for name, value in document.items():
            kind = (int, float) if name.endswith("_ms") else int
            unknown = value is None and name == "peak_bytes"
            if not unknown and (isinstance(value, bool) or not isinstance(value, kind) or not 0 <= value < 2**53):
                raise LatencyError(f"footprint: {name} must be a number from 0, not {value!r}")
        return Footprint(**document)


def measure_footprints(graphs: Sequence[Graph], device: Device, timeout_s: float = 600.0) -> dict[str, Footprint]:
    """Key -> Footprint, measured one after the other. `LatencyError` names the graph that does not load or run."""
    if not graphs:
        return {}
    header = {"device": device.to_json(), "graphs": [graph.header() for graph in graphs]}
    message = json.dumps(header).encode() + b"\n" + b"".join(graph.model for graph in graphs)
    try:
        ran = subprocess.run(
            [sys.executable, "-c", CHILD],
            input=message,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            # Large blocks go back to the system at once. Otherwise memory that one graph has freed serves the next: peaks of
            # ten graphs were 0.18-1.05 of those measured alone, and within 1.3% so.
            env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"},
        )
    except subprocess.TimeoutExpired as error:
        raise LatencyError(f"footprints of {len(graphs)} graphs took over {timeout_s:g} s; measure fewer") from error
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    found = {key: Footprint.from_json(document) for key, document in lines if isinstance(document, dict)}
    wrong = next((document for _, document in lines if isinstance(document, str)), None)
    if wrong is not None:
        raise LatencyError(wrong)
    if len(found) < len(graphs):
        raise LatencyError(
            f"footprint of graph {graphs[len(found)].key!r}: the process that loads it ended with status "
            f"{ran.returncode}: {ran.stderr.decode(errors='replace').strip()[-300:]}"
        )
    return found


def main() -> None:
    """The child: a header line and models on its input, one line for each graph on its output.

    Each graph gets a process forked from this one. Without, memory that earlier graphs freed served later ones: peaks were
    0.96-1.47 of those in fresh processes; forked, 1.00-1.03, at 1.2 times the time (10 networks of `mobilenet_v3`).
    """
    import_module("onnxruntime")  # once, and not in every process
    source = sys.stdin.buffer
    header = json.loads(source.readline())
    device = Device.from_json(header["device"])
    for entry in header["graphs"]:
        graph = Graph.from_header(entry, source.read(entry["bytes"]))
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            _answer(graph, device)
        _, status = os.waitpid(child, 0)
        if status != 0:
            ended = os.waitstatus_to_exitcode(status)
            print(json.dumps([graph.key, f"graph {graph.key!r}: the process that loads it ended with status {ended}"]))


def _answer(graph: Graph, device: Device) -> NoReturn:
    """Write the line of one graph and end this process."""
    try:
        # What the first session of a process costs, whichever it is, is not the graph's.
        open_session(Graph("canary", CANARY.read_bytes()), canary_device(device))
        answer: Json = footprint_here(graph, device).to_json()
    except LatencyError as error:
        answer = str(error)
    print(json.dumps([graph.key, answer]), flush=True)
    os._exit(0)


def footprint_here(graph: Graph, device: Device) -> Footprint:
    """Load and run in this process. The peak is that above the memory that the process has now."""
    gc.collect()
    before = _reset_peak()
    start = time.perf_counter()
    run = open_session(graph, device, first_run=False)
    loaded = time.perf_counter()
    first_run_ms = run() / 1e3
    for _ in range(RUNS - 1):
        run()
    peak = _memory("VmHWM")
    return Footprint(
        model_bytes=len(graph.model),
        load_ms=(loaded - start) * 1e3,
        first_run_ms=first_run_ms,
        peak_bytes=None if before is None or peak is None else max(0, peak - before),
    )


def _reset_peak() -> int | None:
    """Forget the peak; resident bytes now, or None where the system does not let us."""
    try:
        CLEAR.write_text(CLEAR_PEAK)
    except OSError:
        return None
    return _memory("VmRSS")


def _memory(field: str) -> int | None:
    """A field of this process's status, in bytes."""
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    found = next((line.split() for line in lines if line.startswith(f"{field}:")), None)
    return int(found[1]) * 1024 if found else None
