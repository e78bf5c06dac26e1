"""What mergers save on a device: networks with one of them each, measured whole and side by side with the network itself.

Nodes are never summed (a runtime fuses and reorders them); a saving is a difference between two whole networks. Kept in a file
of the run, so that another limit needs no measurement.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from latency_tables.device import Device
from latency_tables.graphs.graph import profiling_model
from latency_tables.measuring.machine import Machine
from latency_tables.measuring.protocol import Protocol
from latency_tables.measuring.sessions import Graph
from search_spaces import Layer, Space, digest, fixed_space
from search_spaces.files import write_bytes
from search_spaces.mergers import Merger, merged

Json = Any
BySlot = Mapping[str, Sequence[Layer]]

FORMAT = "nas.mergers/1"
WHOLE = "network"


def shares(
    path: Path,
    by_slot: BySlot,
    found: Sequence[Merger],
    device: Device,
    machine: Machine,
    protocol: Protocol,
    on_wait: Callable[[str], None],
) -> list[float]:
    """The share of a network's latency that each of these mergers saves alone, below 0 where it costs some; from the file at
    `path`, or measured and written there."""
    whole = fixed_space(by_slot)
    rows = [told(merger) for merger in found]
    identity = digest({"network": whole.to_json(), "device": device.to_json(), "mergers": rows})
    known = _read(path)
    if known is None or known.get("digest") != identity:
        graphs = {WHOLE: whole, **{str(i): fixed_space(merged(by_slot, [merger])) for i, merger in enumerate(found)}}
        medians = measured_together(graphs, device, machine, protocol, on_wait)
        known = {
            "format": FORMAT,
            "digest": identity,
            "device": device.to_json(),
            "latency_us": medians[WHOLE],
            "mergers": [{**row, "latency_us": medians[str(i)]} for i, row in enumerate(rows)],
        }
        write_bytes(path, (json.dumps(known, indent=1) + "\n").encode())
    return [1 - row["latency_us"] / known["latency_us"] for row in known["mergers"]]


def measured_together(
    spaces: Mapping[str, Space], device: Device, machine: Machine, protocol: Protocol, on_wait: Callable[[str], None]
) -> dict[str, float]:
    """Median latency (us) of the one network of each of these spaces, with drawn weights."""
    graphs = [Graph(key, profiling_model(space, space.largest(), device.batch)) for key, space in spaces.items()]
    with machine.held(on_wait):
        found = machine.measure(graphs, device, protocol=protocol)
    return {key: each.median_us for key, each in found.items()}


def told(merger: Merger) -> dict[str, Json]:
    """A merger by the layers that it takes the place of."""
    conv = merger.conv
    return {"from": conv.name.removesuffix("_merged"), "to": merger.last, "kernel": conv.kernel, "stride": conv.stride}


def _read(path: Path) -> dict[str, Json] | None:
    """What was measured before; None where nothing was, or where it cannot be read: then it is measured anew."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("format") == FORMAT else None
