"""What a job wants measured on an enrolled machine: when two calls want the same, and what is stored of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from latency_tables.device import Device
from latency_tables.measuring.measure import Protocol
from latency_tables.measuring.measurement import Measurement
from nas.agent.wire import GraphRef, read_needs, settings_json, settings_of
from search_spaces import digest

Json = Any


@dataclass(frozen=True, slots=True)
class Wanted:
    """A call of `measure` on the machine `agent`, whose fingerprint has this id."""

    agent: str
    device: Device
    settings: Protocol
    fingerprint: str
    graphs: tuple[GraphRef, ...]
    earlier: Mapping[str, Measurement] = field(default_factory=dict)
    needs: tuple[str, ...] = ()

    @property
    def manner(self) -> Json:
        """How is measured, without the names and without the time that is left for it."""
        return {
            "device": replace(self.device, name="any", agent="").to_json(),
            "settings": settings_json(replace(self.settings, budget_s=1.0)),
            "fingerprint": self.fingerprint,
        }

    @property
    def key(self) -> str:
        """The same for the same graphs measured in the same manner, whatever was measured before."""
        graphs = sorted((graph.to_json() for graph in self.graphs), key=lambda graph: str(graph["key"]))
        return digest([self.agent, self.manner, graphs, sorted(self.needs)], 32)

    def covers(self, other: Wanted) -> bool:
        """Whether the graphs of the other are among these, measured in the same manner, and so are its needs."""
        less = set(other.graphs) <= set(self.graphs) and set(other.needs) <= set(self.needs)
        return less and self.manner == other.manner

    def to_json(self) -> dict[str, Json]:
        """What is stored; what was measured earlier becomes the first round."""
        return {
            "device": replace(self.device, agent="").to_json(),
            "settings": settings_json(self.settings),
            "fingerprint": self.fingerprint,
            "graphs": [graph.to_json() for graph in self.graphs],
            "needs": list(self.needs),
        }

    @staticmethod
    def from_json(agent: str, document: Json) -> Wanted:
        return Wanted(
            agent,
            Device.from_json(document["device"]),
            settings_of(document["settings"]),
            document["fingerprint"],
            tuple(map(GraphRef.from_json, document["graphs"])),
            needs=read_needs(document.get("needs", ())),
        )
