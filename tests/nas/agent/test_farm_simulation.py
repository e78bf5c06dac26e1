"""A hundred machines behind bad lines, killed again and again: every task ends once, with all that was measured."""

import heapq
import itertools
import os
import random
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pytest

from latency_tables.device import Device
from latency_tables.measuring.measure import Protocol
from nas.agent import agent as agent_module
from nas.agent import spool as spool_module
from nas.agent.agent import Agent, enrol
from nas.agent.errors import AgentError
from nas.agent.models import Models
from nas.agent.spool import Spool
from nas.agent.wire import GraphRef, joined
from nas.database import Database
from nas.service.farm import Farm
from nas.service.jobs import JobStore
from nas.service.tasks import TaskLost
from nas.service.wanted import Wanted
from tests.nas.agent.fakes import ABOUT, BROKEN, ENERGY, HERE, Desk, FakeMachine, FakeMeasurer, Killed, Link
from tests.nas.service.databases import Time, add_user, in_memory, submission

TASKS = 10
"""Of each machine."""
TROUBLE, KILLS, TORN, CRASHES, WIPED = 0.08, 0.03, 0.005, 0.1, 0.1
"""Chances: of a request to suffer, of an agent to die in one or around a write, of measuring to end, of a disk to be lost."""
GIVEN_UP = 2
"""Tasks at most whose measuring ended three times in a row before a round was done. One was, once in some twenty simulations of
1,000: they come in another order each time, since the ids of tasks are drawn."""
REQUEST_S, POLL_S = 0.3, 20.0
DEVICE = Device("board")


class Simulation:
    """Machines with their agents, which take turns by a time that all but them agree on."""

    def __init__(self, root: Path, machines: int, seed: int) -> None:
        self.rng = random.Random(seed)
        self.root = root
        self.time = Time()
        self.db = Database(root / "nas.sqlite", time_s=self.time)
        self.db.upgrade()
        add_user(self.db, "ann")
        self.farm = Farm(self.db)
        self.models: dict[str, bytes] = {}
        self.desk = Desk(self.farm, self.models)
        jobs = JobStore(self.db)
        jobs.submit(submission())
        _, self.lease = jobs.claim("w", 1e9)
        self.names = [f"board{number:03}" for number in range(machines)]
        self.tasks: dict[str, bytes] = {}
        self.results: dict[str, int] = {}
        self.kills = 0
        self.order = itertools.count()
        self.turns: list = []

    def enrol_all(self) -> None:
        for name in self.names:
            code, _ = self.farm.enrolment(name, "ann")
            link = Link(self.desk, None, self.rng, TROUBLE)
            for _ in range(20):  # a lost answer is asked for again
                with suppress(AgentError):
                    assert enrol(Spool(self.root / name), link, code, ABOUT) == name
                    break
            self.begin(name)

    def submit_all(self) -> None:
        for name, number in itertools.product(self.names, range(TASKS)):
            model = (BROKEN if self.rng.random() < 0.02 else b"model") + f" {name} {number}".encode()
            digest = sha256(model).hexdigest()
            self.models[digest] = model
            graphs = tuple(GraphRef(key, digest, len(model)) for key in ("a", "b"))
            wanted = Wanted(name, DEVICE, Protocol(), HERE.id, graphs, needs=("energy",) if number % 2 else ())
            self.tasks[self.farm.tasks.submit(self.lease, wanted, lambda connection: None)] = model

    def begin(self, name: str) -> None:
        """Start the agent of a machine, on what a killed one has left."""
        offset_s = self.rng.uniform(-3600, 3600)
        measurer = FakeMeasurer(FakeMachine(self.rng, crash=CRASHES))
        link = Link(self.desk, name, self.rng, TROUBLE, KILLS)
        spool = Spool(self.root / name)
        new = Agent(
            spool,
            Models(spool.folder / "models"),
            link,
            measurer,
            ABOUT,
            lambda line: None,
            clock=lambda: self.time.now_s + offset_s,
            rng=self.rng,
        )
        self.turn(self.rng.expovariate(1 / 40), name, new)  # at times a lease is over by then

    def turn(self, in_s: float, name: str, agent: Agent) -> None:
        heapq.heappush(self.turns, (self.time.now_s + in_s, next(self.order), name, agent))

    def run(self, until_s: float) -> None:
        open_tasks = set(self.tasks)
        while open_tasks:
            at_s, _, name, agent = heapq.heappop(self.turns)
            self.time.now_s = max(self.time.now_s, at_s)
            assert self.time.now_s < until_s, f"{len(open_tasks)} tasks have not ended"
            link = agent.transport
            link.polled_in_vain = False
            before = len(link.sent)
            try:
                wait_s = agent.step() + REQUEST_S * (len(link.sent) - before) + POLL_S * link.polled_in_vain
                if not link.polled_in_vain or self.has_tasks(name, open_tasks):
                    self.turn(wait_s, name, agent)
            except Killed:
                self.kills += 1
                if self.rng.random() < WIPED:
                    agent.spool.drop()
                self.begin(name)
            self.send_late(link)
            for path in link.sent[before:]:
                if path.endswith("/result"):
                    self.check(path.split("/")[-2], open_tasks)

    def has_tasks(self, name: str, open_tasks: set[str]) -> bool:
        return any(name.encode() in self.tasks[task_id] for task_id in open_tasks)

    def send_late(self, link: Link) -> None:
        """What the network had kept arrives, in no order."""
        while link.late and self.rng.random() < 0.5:
            with suppress(AgentError, TaskLost):
                link.late.pop(self.rng.randrange(len(link.late)))()

    def check(self, task_id: str, open_tasks: set[str]) -> None:
        state, result, error = self.row(task_id)
        if state in ("SUCCEEDED", "FAILED"):
            mark = (result or error).get("digest")
            assert self.results.setdefault(task_id, mark) == mark  # what is recorded never changes
            open_tasks.discard(task_id)

    def row(self, task_id: str):
        from nas.service.schema import tasks

        columns = tasks.c.state, tasks.c.result, tasks.c.error
        query = tasks.select().with_only_columns(*columns).where(tasks.c.id == task_id)
        return self.db.read(lambda connection: connection.execute(query).one())


@pytest.fixture
def torn(monkeypatch):
    """Makes agents die around writes: just before one, or just after."""
    real = spool_module.write_bytes
    rng = random.Random(5)

    def write(path: Path, content: bytes) -> None:
        fate = rng.random()
        if fate < TORN:
            raise Killed(f"before {path.name} was written")
        real(path, content)
        if fate > 1 - TORN:
            raise Killed(f"after {path.name} was written")

    return lambda: monkeypatch.setattr(spool_module, "write_bytes", write)


@pytest.mark.parametrize(("machines", "seed"), [(15, 1), pytest.param(100, 2, marks=pytest.mark.slow)])
def test_every_task_ends_once_with_all_that_was_acknowledged(torn, monkeypatch, machines, seed):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # nobody pulls the plug of a simulation
    monkeypatch.setattr(agent_module, "LOOK_S", 2.0)
    with in_memory() as root:
        simulation = Simulation(root, machines, seed)
        simulation.enrol_all()
        simulation.submit_all()
        torn()
        simulation.run(simulation.time.now_s + 7 * 86_400)
        assert simulation.kills > machines  # or this test tests nothing
        given_up = 0
        for task_id, model in simulation.tasks.items():
            state, _, error = simulation.row(task_id)
            if model.startswith(BROKEN):
                assert (state, error["fault"]) == ("FAILED", "user")
                continue
            if state == "FAILED" and "before a round was done" in error["message"]:
                given_up += 1
                continue
            assert state == "SUCCEEDED", error
            found = simulation.farm.tasks.measured(task_id)
            known = {}
            for _, each in sorted(
                simulation.desk.acknowledged.get(task_id, []), key=lambda pair: (pair[0], pair[1]["n"])
            ):
                known.update(joined(known, each["measured"]))
            for key, before in known.items():
                assert found[key].rounds[: len(before.rounds)] == before.rounds
            assert {key: len(each.rounds) for key, each in found.items()} == {"a": 3, "b": 3}
            assert {each.energy for each in found.values()} == {ENERGY if int(model.split()[-1]) % 2 else None}
        assert given_up <= GIVEN_UP
        simulation.db.close()
