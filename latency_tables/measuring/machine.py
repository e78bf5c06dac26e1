"""Machines: where graphs are measured. This one, or another that measures for us."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol as Interface

from latency_tables.device import Device, Fingerprint, fingerprint
from latency_tables.errors import LatencyError
from latency_tables.measuring.lock import exclusive
from latency_tables.measuring.measure import OnRound, Protocol, measure
from latency_tables.measuring.measurement import Measurement
from latency_tables.measuring.sessions import Graph, Opener, open_session
from latency_tables.offers import check_device


class Machine(Interface):
    """Measures graphs on devices that are configurations of one machine."""

    def fingerprint(self) -> Fingerprint: ...

    def check(self, device: Device) -> None:
        """`LatencyError` says why it cannot run the device."""

    def held(self, on_wait: Callable[[str], None] | None = None) -> AbstractContextManager[None]:
        """Nobody else measures on it meanwhile; `on_wait` gets a line that says for whom we wait."""

    def measure(
        self,
        graphs: Sequence[Graph],
        device: Device,
        *,
        protocol: Protocol | None = None,
        earlier: Mapping[str, Measurement] | None = None,
        on_round: OnRound | None = None,
    ) -> dict[str, Measurement]:
        """All graphs side by side, as `latency_tables.measuring.measure.measure` does. Call it while the machine is held."""


@dataclass(frozen=True, slots=True)
class Here:
    """The machine at hand."""

    lock_timeout_s: float = 60.0
    open_graph: Opener = open_session

    def fingerprint(self) -> Fingerprint:
        return fingerprint()

    def check(self, device: Device) -> None:
        if device.agent:
            raise LatencyError(
                f"device {device.name} is measured by the agent {device.agent}; submit the job to the service where that is "
                "enrolled"
            )
        check_device(device)

    def held(self, on_wait: Callable[[str], None] | None = None) -> AbstractContextManager[None]:
        return exclusive(self.lock_timeout_s, on_wait=on_wait)

    def measure(
        self,
        graphs: Sequence[Graph],
        device: Device,
        *,
        protocol: Protocol | None = None,
        earlier: Mapping[str, Measurement] | None = None,
        on_round: OnRound | None = None,
    ) -> dict[str, Measurement]:
        return measure(
            graphs, device, protocol=protocol, earlier=earlier, on_round=on_round, open_graph=self.open_graph
        )
