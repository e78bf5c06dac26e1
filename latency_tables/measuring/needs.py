"""What a network needs beside time, footprint and energy: found where a machine can tell, into its measurement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from latency_tables.device import Device
from latency_tables.measuring.energy import Energy, EnergyMeter, find_meter, measure_energy
from latency_tables.measuring.footprint import Footprint, measure_footprints
from latency_tables.measuring.measure import OnRound, Protocol
from latency_tables.measuring.measurement import Measurement
from latency_tables.measuring.sessions import Graph, open_session

FOOTPRINT, ENERGY = "footprint", "energy"
NEEDS = (FOOTPRINT, ENERGY)
"""Fields of a `Measurement`."""

Find = Callable[[Graph, Device], Footprint | Energy | None]
"""None where the machine did not tell after all."""

AT_ONCE = Protocol(min_rounds=1, max_rounds=1, max_rejected=1, warm_up_s=0.1)
"""For networks whose times are known, and which only lack something."""


def needs_here() -> dict[str, Find]:
    """How to find what this machine can tell of a network, by name."""
    meter = find_meter()
    found: dict[str, Find] = {FOOTPRINT: _footprint}
    return found if meter is None else {**found, ENERGY: partial(_energy, meter)}


def with_needs(
    measured: Mapping[str, Measurement],
    graphs: Sequence[Graph],
    device: Device,
    finds: Mapping[str, Find],
    on_round: OnRound | None = None,
) -> dict[str, Measurement]:
    """The measurements of these graphs, each with what it lacks of `finds`. `on_round` is told of every one, like a round."""
    found = dict(measured)
    for number, graph in enumerate(graphs, 1):
        known = found[graph.key]
        lacking = {name: find(graph, device) for name, find in finds.items() if getattr(known, name) is None}
        if any(value is not None for value in lacking.values()):
            found[graph.key] = replace(known, **lacking)  # type: ignore[arg-type]
            if on_round is not None:
                on_round(number, len(graphs), {graph.key: found[graph.key]})
    return found


def _footprint(graph: Graph, device: Device) -> Footprint:
    return measure_footprints([graph], device)[graph.key]


def _energy(meter: EnergyMeter, graph: Graph, device: Device) -> Energy | None:
    return measure_energy(open_session(graph, device), meter)
