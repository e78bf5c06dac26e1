"""How fast a device multiplies at best: what the layers of a network are held against.

A layer's latency is its operations over peak times efficiency; the efficiency tells how far it is from what the device can
do (Williams, Waterman and Patterson, "Roofline", CACM 52 (2009), for layers that compute more than they move).
"""

from __future__ import annotations

import os
from dataclasses import replace

from latency_tables.device import Device
from latency_tables.graphs.graph import BUILDERS
from latency_tables.measuring.machine import Machine
from latency_tables.measuring.measure import Protocol
from latency_tables.measuring.sessions import Graph
from latency_tables.table import LatencyTable
from search_spaces import NETWORK_INPUT, Layer

# Convolutions that processors and accelerators run near their peak: many channels, and what they read fits into caches.
SHAPES = ((256, 14, 3), (512, 14, 1))
"""Channels in and out, height and width in px, kernel."""

BRIEF = Protocol(budget_s=5.0, warm_up_s=0.5)


def peak_gmacs_per_s(machine: Machine, device: Device, protocol: Protocol = BRIEF) -> float:
    """Billions of multiply-accumulates a second of the fastest of a few large convolutions. Hold the machine meanwhile."""
    layers = {f"peak{i}": _convolution(*shape) for i, shape in enumerate(SHAPES)}
    build = BUILDERS[device.precision]
    graphs = [Graph(key, build([layer], batch=device.batch).SerializeToString()) for key, layer in layers.items()]
    measured = machine.measure(graphs, device, protocol=protocol)
    return max(device.batch * layers[key].macs / (found.median_us * 1e3) for key, found in measured.items())


def add_peak(table: LatencyTable, path: str | os.PathLike[str], machine: Machine) -> LatencyTable:
    """The table with the peak of its device, measured on this machine unless it is known; `path` is its file."""
    if table.peak_gmacs_per_s is not None:
        return table
    with machine.held():
        found = replace(table, peak_gmacs_per_s=peak_gmacs_per_s(machine, table.device))
    found.save(path)
    return found


def _convolution(channels: int, size: int, kernel: int) -> Layer:
    shape = (channels, size, size)
    return Layer("conv", "conv", (NETWORK_INPUT,), shape, shape, kernel=kernel, bias=True)
