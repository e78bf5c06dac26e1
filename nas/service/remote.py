"""A machine elsewhere: graphs go to an enrolled machine as a task, and what it measures comes back round by round."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from latency_tables.device import Device, Fingerprint
from latency_tables.errors import LatencyError
from latency_tables.measuring.measure import PROTOCOL, OnRound, Protocol
from latency_tables.measuring.measurement import Measurement
from latency_tables.measuring.needs import NEEDS
from latency_tables.measuring.sessions import Graph
from nas.agent.wire import GraphRef, joined
from nas.database import Database
from nas.errors import FaultError
from nas.service.blob_rows import TRIES, refer
from nas.service.blobs import BlobMissing, Blobs
from nas.service.errors import NotFound
from nas.service.farm import ONLINE_S, Enrolled, Farm
from nas.service.leases import Lease
from nas.service.tasks import INFRASTRUCTURE, Standing
from nas.service.wanted import Wanted

LOOKS_S = (0.5, 2.0)
"""Between two looks at a task: at first, and after a while without news."""
SAY_EVERY_S = 10.0


class RemoteMachine:
    """The enrolled machine `agent`, for the holder of a job's lease. A `Machine` of `latency_tables.measuring.machine`.

    A call that was interrupted is taken up by the next one for the same graphs, in this process or another: its task goes on
    meanwhile. Raises `LeaseLost` when the job is not the holder's any more.
    """

    def __init__(
        self, db: Database, blobs: Blobs, lease: Lease, agent: str, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._farm = Farm(db)
        self._blobs = blobs
        self._lease = lease
        self._agent = agent
        self._sleep = sleep
        self._say: Callable[[str], None] = lambda line: None

    def fingerprint(self) -> Fingerprint:
        return self._enrolled().fingerprint

    def check(self, device: Device, needs: Sequence[str] = ()) -> None:
        """`LatencyError` says why the machine cannot run the device or tell the needs, as far as it has told what it offers."""
        enrolled = self._enrolled()
        measuring = enrolled.versions.get("measuring")
        if measuring != str(PROTOCOL):
            raise LatencyError(
                f"machine {self._agent}: its agent measures by version {measuring} of the protocol, this server by "
                f"{PROTOCOL}: install the same release of hwnas on both"
            )
        same = [each for each in enrolled.offers.devices if each.provider == device.provider]
        fitting = [each for each in same if each.precision == device.precision]
        if not fitting:
            refused = "".join(f"; {line}" for line in enrolled.offers.refused if device.precision in line)[:500]
            providers = ", ".join(dict.fromkeys(each.provider for each in enrolled.offers.devices)) or "nothing"
            raise LatencyError(
                f"device {device.name}: machine {self._agent} does not offer {device.provider} with {device.precision}; it "
                f"offers {providers}{refused}"
            )
        most = max(each.threads for each in fitting)
        if device.threads > most:
            raise LatencyError(
                f"device {device.name}: machine {self._agent} has {most} cores, so no {device.threads} threads"
            )
        lacking = [need for need in needs if need not in enrolled.needs]
        if lacking:
            raise LatencyError(
                f"device {device.name}: machine {self._agent} measures no {lacking[0]}; if it counts it where the agent may "
                "look, pip install --upgrade 'hwnas[agent,energy]' there and start the agent anew"
            )

    @contextmanager
    def held(self, on_wait: Callable[[str], None] | None = None) -> Iterator[None]:
        """The machine itself measures one task at a time; here it is only said what is waited for."""
        before, self._say = self._say, on_wait or (lambda line: None)
        try:
            yield
        finally:
            self._say = before

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
        """`LatencyError` with what the machine says is wrong with a graph; `FaultError` where it failed itself."""
        if not graphs:
            return {}
        keys = {graph.key for graph in graphs}
        known = {key: found for key, found in (earlier or {}).items() if key in keys}
        task_id = self._submitted(graphs, device, protocol or Protocol(), known, needs)
        self._wait(task_id, _Replay(known, keys, on_round))
        found = self._farm.tasks.measured(task_id)
        return {graph.key: found[graph.key] for graph in graphs}

    def _submitted(
        self,
        graphs: Sequence[Graph],
        device: Device,
        protocol: Protocol,
        known: Mapping[str, Measurement],
        needs: Sequence[str],
    ) -> str:
        """The task that measures these, whose models are among the blobs. It asks for needs that the machine can tell alone."""
        enrolled = self._enrolled()
        told = tuple(need for need in needs if need in enrolled.needs)
        for attempt in range(TRIES):
            kept = [self._blobs.put(graph.model) for graph in graphs]
            references = tuple(
                GraphRef(graph.key, blob.sha256, blob.bytes, graph.dims, graph.shapes)
                for graph, blob in zip(graphs, kept, strict=True)
            )
            wanted = Wanted(self._agent, device, protocol, enrolled.fingerprint.id, references, known, told)
            try:
                return self._farm.tasks.submit(self._lease, wanted, partial(refer, store=self._blobs, found=kept))
            except BlobMissing:  # collected between the two
                if attempt == TRIES - 1:
                    raise
        raise AssertionError("unreachable")

    def _wait(self, task_id: str, replay: _Replay) -> None:
        """Until the task has succeeded."""
        pause_s, said_at = LOOKS_S[0], -SAY_EVERY_S
        while True:
            standing = self._farm.tasks.standing(self._lease, task_id, replay.place)
            if standing.rounds:
                replay.take(standing.rounds)
                pause_s = LOOKS_S[0]
            if standing.state == "SUCCEEDED":
                return
            if standing.state not in ("QUEUED", "RUNNING"):
                raise self._failure(standing)
            if time.monotonic() - said_at >= SAY_EVERY_S and (line := self._waited_for(standing)):
                self._say(line)
                said_at = time.monotonic()
            self._sleep(pause_s)
            pause_s = min(1.2 * pause_s, LOOKS_S[1])

    def _waited_for(self, standing: Standing) -> str:
        """One line for people; empty while it measures."""
        if standing.silent_s is None or standing.silent_s > ONLINE_S:
            silent = "" if standing.silent_s is None else f" for {_duration(standing.silent_s)}"
            return f"machine {self._agent} is offline{silent}; its task waits for it"
        if standing.state == "QUEUED":
            before = f", {standing.before} tasks come first" if standing.before else ""
            return f"waiting for machine {self._agent}{before}"
        return ""

    def _failure(self, standing: Standing) -> Exception:
        if standing.state == "CANCELLED":
            return FaultError(f"machine {self._agent}: its task was cancelled")
        message = f"machine {self._agent}: {standing.error['message']}"
        return (FaultError if standing.error["fault"] == INFRASTRUCTURE else LatencyError)(message)

    def _enrolled(self) -> Enrolled:
        """`LatencyError` where there is no such machine."""
        try:
            found = self._farm.device(self._agent)
        except NotFound as error:
            names = ", ".join(each.name for each in self._farm.devices()) or "none"
            raise LatencyError(f"no machine {self._agent!r} is enrolled; enrolled are: {names}") from error
        if found.revoked:
            raise LatencyError(f"machine {self._agent} was removed from the service; enrol it anew")
        return found


class _Replay:
    """The rounds of a task, told one after the other as `measure` would tell them."""

    def __init__(self, earlier: Mapping[str, Measurement], keys: set[str], on_round: OnRound | None) -> None:
        self.earlier = earlier
        self.keys = keys
        self.on_round = on_round
        self.place = (-1, 0)
        self.known: dict[str, Measurement] = {}

    def take(self, rounds: Sequence[tuple[tuple[int, int], Mapping[str, object]]]) -> None:
        for place, document in rounds:
            self.place = place
            found = joined(self.known, document["measured"])
            self.known.update(found)
            new = {key: each for key, each in found.items() if key in self.keys and self._adds(each)}
            if new and self.on_round is not None:
                self.on_round(int(str(document["number"])), int(str(document["most"])), new)

    def _adds(self, found: Measurement) -> bool:
        """Whether it goes on from what is known here: the caller has seen the first rounds of a task that it takes up."""
        before = self.earlier.get(found.key)
        if before is None:
            return True
        more = len(found.rounds) > len(before.rounds) or any(getattr(before, n) != getattr(found, n) for n in NEEDS)
        return more and found.rounds[: len(before.rounds)] == before.rounds


def _duration(seconds: float) -> str:
    """As `3 min`."""
    for unit, length_s in (("h", 3600.0), ("min", 60.0)):
        if seconds >= length_s:
            return f"{seconds / length_s:.0f} {unit}"
    return f"{seconds:.0f} s"
