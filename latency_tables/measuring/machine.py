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
from latency_tables.measuring.needs import ENERGY, Find, needs_here, with_needs
from latency_tables.measuring.sessions import Graph, Opener, open_session
from latency_tables.offers import check_device


class Machine(Interface):
    """Measures graphs on devices that are configurations of one machine."""

    def fingerprint(self) -> Fingerprint: ...

    def check(self, device: Device, needs: Sequence[str] = ()) -> None:
        """`LatencyError` says why it cannot run the device, or tell these needs (`NEEDS`) of a network on it."""

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
        needs: Sequence[str] = (),
    ) -> dict[str, Measurement]:
        """All graphs side by side, as `latency_tables.measuring.measure.measure` does, then what the machine can tell of
        these `needs`, graph by graph. Call it while the machine is held."""


@dataclass(frozen=True, slots=True)
class Here:
    """The machine at hand."""

    lock_timeout_s: float = 60.0
    open_graph: Opener = open_session
    find_needs: Callable[[], Mapping[str, Find]] = needs_here

    def fingerprint(self) -> Fingerprint:
        return fingerprint()

    def check(self, device: Device, needs: Sequence[str] = ()) -> None:
        if device.agent:
            raise LatencyError(
                f"device {device.name} is measured by the agent {device.agent}; submit the job to the service where that is "
                "enrolled"
            )
        check_device(device)
        if ENERGY in needs and ENERGY not in self.find_needs():
            raise LatencyError(
                f"device {device.name}: no energy can be measured here: pip install '.[energy]' on a machine with counters "
                "of it that you may read, or search without energy_mj"
            )

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
        needs: Sequence[str] = (),
    ) -> dict[str, Measurement]:
        found = measure(
            graphs, device, protocol=protocol, earlier=earlier, on_round=on_round, open_graph=self.open_graph
        )
        finds = {name: find for name, find in self.find_needs().items() if name in needs} if needs else {}
        return with_needs(found, graphs, device, finds, on_round)
