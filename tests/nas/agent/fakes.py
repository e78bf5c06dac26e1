"""What the tests of agents share: a machine whose times are made up, and a link to the server that breaks."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

from latency_tables.device import Device, Fingerprint
from latency_tables.errors import LatencyError
from latency_tables.measuring.energy import Energy
from latency_tables.measuring.footprint import Footprint
from latency_tables.measuring.measurement import Measurement, Round
from latency_tables.measuring.needs import NEEDS, with_needs
from latency_tables.measuring.sessions import Graph
from latency_tables.offers import Offers
from nas.agent.bench import measure_work
from nas.agent.errors import Away
from nas.agent.models import Models
from nas.agent.spool import Work
from nas.agent.transport import meaning
from nas.agent.wire import About
from nas.api import agents
from nas.api.access import NOBODY
from nas.api.refusals import Refusal
from nas.service.people import Principal

Json = Any

HERE = Fingerprint("Cortex-A72", "aarch64", 4, 4, "Linux 6.1", "1.23.0")
ABOUT = About(
    HERE,
    Offers((Device("cpu_t1"), Device("cpu_t4", threads=4)), ()),
    {"hwnas": "0.1.0", "measuring": "2"},
    NEEDS,
)
ENERGY = Energy(0.02, 4.0, 50, "soc")
FINDS = {
    "footprint": lambda graph, device: Footprint(len(graph.model), 2.0, 3.0),
    "energy": lambda graph, device: ENERGY,
}
BROKEN = b"broken"
"""A model that does not load."""


class Crash(BaseException):
    """What takes the process that measures."""


class Killed(BaseException):
    """What takes the agent."""


def measurement(key: str, rounds: Sequence[Round], ended: str = "precision") -> Measurement:
    return Measurement(key, tuple(rounds), ("",) * len(rounds), (True,) * len(rounds), 100.0, ended, False)


@dataclass
class FakeMachine:
    """Measures so many rounds of every graph, with times drawn from `rng`; `crash` is the chance to end after a round.

    A footprint is told from the model, and energy is the same for all.
    """

    rng: random.Random
    rounds: int = 3
    crash: float = 0.0
    identity: Fingerprint = HERE

    def fingerprint(self) -> Fingerprint:
        return self.identity

    def check(self, device: Device, needs: Sequence[str] = ()) -> None:
        pass

    def held(self, on_wait=None):
        return nullcontext()

    def measure(self, graphs: Sequence[Graph], device, *, protocol=None, earlier=None, on_round=None, needs=()):
        def tell(number, most, found):
            on_round(number, most, found)
            if self.rng.random() < self.crash:
                raise Crash

        told = {key: {name: getattr(known, name) for name in NEEDS} for key, known in earlier.items()}
        taken = {graph.key: list(earlier[graph.key].rounds) if graph.key in earlier else [] for graph in graphs}
        for graph in graphs:
            if graph.model.startswith(BROKEN):
                raise LatencyError(f"graph {graph.key!r} does not load")
        for number in range(1, self.rounds + 1):
            todo = [key for key, rounds in taken.items() if len(rounds) < self.rounds]
            if not todo:
                break
            for key in todo:
                taken[key].append(Round((self.rng.uniform(1, 2),), 100.0, 1.0))
            tell(number, self.rounds, {key: measurement(key, taken[key], "interrupted") for key in todo})
        found = {key: replace(measurement(key, rounds), **told.get(key, {})) for key, rounds in taken.items()}
        return with_needs(found, graphs, device, {name: FINDS[name] for name in needs}, tell)


@dataclass
class FakeRunning:
    looks: int
    status: str

    def ended(self) -> str | None:
        self.looks -= 1
        return None if self.looks > 0 else self.status

    def stop(self) -> None:
        pass


@dataclass
class FakeMeasurer:
    """Measures at once, with the code that the real one runs in its own process, and seems to take a few looks."""

    machine: FakeMachine
    looks: int = 2

    def start(self, work: Work, models: Models) -> FakeRunning:
        try:
            measure_work(work, models, self.machine)
        except Crash:
            return FakeRunning(self.looks, "was ended by signal 9")
        return FakeRunning(self.looks, "ended with status 0")


@dataclass
class Desk:
    """The routes of the server, called without HTTP."""

    farm: Any
    models: Mapping[str, bytes]
    acknowledged: dict[str, list[Json]] = field(default_factory=dict)
    """Task -> what was said to be recorded, round by round."""

    @property
    def services(self) -> Any:
        return SimpleNamespace(farm=self.farm)

    def post(self, device: str | None, path: str, document: Json) -> Json:
        """What the server answers; the errors that `Http` makes of refusals."""
        body = json.dumps(document).encode()
        caller = NOBODY if device is None else Principal(None, device, False, (f"agent:{device}",), device=device)
        try:
            answer = self._routed(caller, path, body)
        except Refusal as refusal:
            raise meaning(refusal.status_code, refusal.code, str(refusal.detail)) from refusal
        if path.endswith("/rounds"):
            self._note(path.split("/")[-2], document, answer["acknowledged"])
        return json.loads(json.dumps(answer))

    def _routed(self, caller: Principal, path: str, body: bytes) -> Json:
        part = path.removeprefix("/v1/agent/").split("/")
        if part[0] == "poll":
            found = agents._claimed(self.services, caller.device, json.loads(body)["poll"])
            return {"task": None} if found is None else json.loads(found)
        if part[0] == "tasks":
            route = {"rounds": agents.rounds, "result": agents.result}[part[2]]
            return route(self.services, caller, part[1], body)
        return {"enrol": agents.enrol, "hello": agents.hello}[part[0]](self.services, caller, body)

    def _note(self, task_id: str, document: Json, last: int) -> None:
        known = self.acknowledged.setdefault(task_id, [])
        have = {(epoch, each["n"]) for epoch, each in known}
        for each in document["rounds"]:
            if each["n"] <= last and (document["epoch"], each["n"]) not in have:
                known.append((document["epoch"], each))


class Link:
    """A line to the desk on which requests and answers get lost, come twice, and come late."""

    def __init__(
        self, desk: Desk, device: str | None, rng: random.Random, trouble: float = 0.0, kills: float = 0.0
    ) -> None:
        self.desk = desk
        self.device = device
        self.rng = rng
        self.trouble = trouble
        self.kills = kills
        self.late: list[Callable[[], Json]] = []
        self.polled_in_vain = False
        self.sent: list[str] = []

    def post(self, path: str, document: Json, wait_s: float = 0.0) -> Json:
        self._suffer("before")
        self.sent.append(path)
        answer = self.desk.post(self.device, path, document)
        if self.rng.random() < self.trouble:  # the network sends it twice
            answer = self.desk.post(self.device, path, document)
        if self.rng.random() < self.trouble:  # and once more, later
            self.late.append(lambda: self.desk.post(self.device, path, document))
        self._suffer("after")
        self.polled_in_vain = path.endswith("/poll") and answer["task"] is None
        return answer

    def piece(self, sha256: str, start: int, length: int) -> bytes:
        self._suffer("before")
        assert self.desk.farm.tasks.model_bytes(self.device, sha256) is not None
        got = self.desk.models[sha256][start : start + length]
        # Sometimes a part arrives, sometimes something else.
        if self.rng.random() < self.trouble:
            return got[: max(1, len(got) // 2)]
        return bytes(len(got)) if self.rng.random() < self.trouble / 4 else got

    def _suffer(self, when: str) -> None:
        """Lose the request before the server acts, or its answer after."""
        if self.rng.random() < self.kills:
            raise Killed(when)
        if self.rng.random() < self.trouble:
            raise Away(f"the line broke {when} the server acted")
