"""A machine elsewhere looks like one at hand: the same calls, the same results, the same errors."""

import random

import pytest

from latency_tables.device import Device
from latency_tables.errors import LatencyError
from latency_tables.measuring.machine import Machine
from latency_tables.measuring.needs import NEEDS
from latency_tables.measuring.sessions import Graph
from latency_tables.offers import Offers
from latency_tables.table import load as load_table
from nas.agent.agent import Agent
from nas.agent.models import Models
from nas.agent.spool import Spool
from nas.agent.wire import About
from nas.database import Database
from nas.errors import FaultError
from nas.folder import RunFolder
from nas.job import job_from_json
from nas.profiling import lacks, profiled
from nas.service.blobs import Blobs
from nas.service.errors import LeaseLost
from nas.service.farm import ONLINE_S, Farm
from nas.service.jobs import JobStore
from nas.service.remote import RemoteMachine
from tests.nas.agent.fakes import ABOUT, BROKEN, ENERGY, HERE, Desk, FakeMachine, FakeMeasurer, Link
from tests.nas.fakes import LITTLE, small_space
from tests.nas.service.databases import Time, add_user, submission

GRAPHS = [Graph("a", b"model a"), Graph("b", b"model b", dims=(("n", 4),), shapes=(("input", (1, 3)),))]
DEVICE = Device("mine", threads=2)


class Stored(dict):
    """The blobs as the desk reads them."""

    def __init__(self, blobs: Blobs) -> None:
        self.blobs = blobs

    def __getitem__(self, sha256: str) -> bytes:
        return self.blobs.read(sha256)


class Elsewhere:
    """A service whose one machine takes a step whenever somebody waits for it."""

    def __init__(self, root) -> None:
        self.time = Time()
        self.db = Database(root / "nas.sqlite", time_s=self.time)
        self.db.upgrade()
        add_user(self.db, "ann")
        self.farm, self.jobs, self.blobs = Farm(self.db), JobStore(self.db), Blobs(root / "blobs")
        self.jobs.submit(submission())
        _, self.lease = self.jobs.claim("w", 1e9)
        self.root = root
        self.measurer = FakeMeasurer(FakeMachine(random.Random(0)))
        self.steps = 0
        self.agent: Agent | None = None

    def enrol(self, about: About = ABOUT) -> None:
        code, _ = self.farm.enrolment("board", "ann")
        self.farm.enrol(code, "n", about)
        self.start(about)

    def start(self, about: About = ABOUT) -> None:
        spool = Spool(self.root / "agent")
        link = Link(Desk(self.farm, Stored(self.blobs)), "board", random.Random(0))
        self.agent = Agent(spool, Models(spool.folder / "models"), link, self.measurer, about, print, self.time)

    def step(self, seconds: float) -> None:
        self.time.pass_by(seconds)
        self.steps += 1
        assert self.steps < 200
        if self.agent is not None:
            self.agent.step()

    def machine(self) -> RemoteMachine:
        return RemoteMachine(self.db, self.blobs, self.lease, "board", sleep=self.step)


@pytest.fixture
def place(tmp_path):
    found = Elsewhere(tmp_path)
    with found.db:
        yield found


def told(into: list):
    """Notes every round, and that each goes on from what was told of its graph before."""

    def on_round(number, most, found):
        into.append((number, {key: each.rounds for key, each in found.items()}))

    return on_round


def test_graphs_are_measured_elsewhere_and_told_round_by_round(place):
    place.enrol()
    machine: Machine = place.machine()
    rounds: list = []
    assert machine.fingerprint() == HERE
    machine.check(DEVICE)
    with machine.held(print):
        found = machine.measure(GRAPHS, DEVICE, on_round=told(rounds))
    assert list(found) == ["a", "b"]
    assert [number for number, _ in rounds] == [1, 2, 3]
    assert rounds[-1][1] == {key: each.rounds for key, each in found.items()}
    assert rounds[0][1]["a"] == found["a"].rounds[:1]


def test_what_graphs_need_beside_time_is_found_elsewhere(place):
    place.enrol()
    machine: Machine = place.machine()
    machine.check(DEVICE, NEEDS)
    rounds: list = []
    found = machine.measure(GRAPHS, DEVICE, on_round=told(rounds), needs=["energy"])
    assert {(each.energy, each.footprint, len(each.rounds)) for each in found.values()} == {(ENERGY, None, 3)}
    assert [list(each) for _, each in rounds] == [["a", "b"]] * 3 + [["a"], ["b"]]
    weighed = machine.measure(GRAPHS[:1], DEVICE, earlier=found, on_round=told(rounds), needs=["footprint"])
    assert weighed["a"].footprint.model_bytes == len(GRAPHS[0].model)
    assert (weighed["a"].energy, weighed["a"].rounds) == (ENERGY, found["a"].rounds)
    assert list(rounds[-1][1]) == ["a"]
    before = place.steps
    assert machine.measure(GRAPHS[:1], DEVICE, needs=["footprint"]) == weighed  # known: nobody measures it again
    assert place.steps == before


def test_a_device_elsewhere_is_profiled_for_a_search_for_energy(place, tmp_path):
    place.enrol()
    search = {**LITTLE["search"], "objectives": ["accuracy", "energy_mj"]}
    job = job_from_json({**LITTLE, "devices": [{"name": "mine", "agent": "board"}], "search": search})
    folder = RunFolder.create(tmp_path / "run", job)
    profiled(folder, job, small_space(), job.devices[0], place.machine(), lambda done, total, text: None)
    table = load_table(folder.table("mine"))
    assert table.values("energy_mj").tolist() == [ENERGY.joules * 1e3] * 14
    assert not lacks(folder, job, job.devices[0])


def test_an_agent_that_knows_no_needs_goes_on_being_served(place):
    """One of version 1, which would refuse a task that asks for any."""
    old = ABOUT.to_json()
    del old["offers"]["needs"]
    place.enrol(About.from_json(old))
    machine = place.machine()
    machine.check(DEVICE)
    with pytest.raises(
        LatencyError, match="machine board measures no energy; if it counts it where the agent may look"
    ):
        machine.check(DEVICE, ["energy"])
    place.agent = None
    tasks = []

    def look(seconds):
        if not tasks:
            tasks.append(place.farm.tasks.claim("board", "p").to_json())
            place.start()
        place.step(seconds)

    remote = RemoteMachine(place.db, place.blobs, place.lease, "board", sleep=look)
    found = remote.measure(GRAPHS, DEVICE, needs=NEEDS)
    assert "needs" not in tasks[0]
    assert {(each.energy, each.footprint) for each in found.values()} == {(None, None)}


def test_no_graphs_need_no_machine(place):
    assert place.machine().measure([], DEVICE) == {}


def test_a_call_that_was_interrupted_is_taken_up(place):
    place.enrol()

    class Interrupted(Exception):
        pass

    seen: dict = {}

    def once(number, most, found):
        seen.update(found)
        raise Interrupted

    with pytest.raises(Interrupted):
        place.machine().measure(GRAPHS, DEVICE, on_round=once)
    rounds: list = []
    found = place.machine().measure(GRAPHS, DEVICE, earlier=seen, on_round=told(rounds))
    assert place.measurer.machine.rounds == 3
    assert all(found[key].rounds[: len(each.rounds)] == each.rounds for key, each in seen.items())
    assert all(len(each) > len(seen["a"].rounds) for _, told_ in rounds for each in told_.values())
    before = place.steps
    assert place.machine().measure(GRAPHS[:1], DEVICE) == {"a": found["a"]}  # known: nobody measures it again
    assert place.steps == before


def test_rounds_measured_before_count_there_as_well(place):
    place.enrol()
    place.measurer.machine.rounds = 1
    first = place.machine().measure(GRAPHS[:1], DEVICE)
    place.measurer.machine.rounds = 3
    found = place.machine().measure(GRAPHS, DEVICE, earlier=first)
    assert found["a"].rounds[:1] == first["a"].rounds
    assert {key: len(each.rounds) for key, each in found.items()} == {"a": 3, "b": 3}


def test_what_is_wrong_with_a_graph_is_an_error_of_the_job(place):
    place.enrol()
    with pytest.raises(LatencyError, match="machine board: graph 'x' does not load"):
        place.machine().measure([Graph("x", BROKEN)], DEVICE)


def test_what_is_wrong_with_the_machine_can_be_tried_again(place):
    place.enrol()
    place.measurer.machine.crash = 1.0
    place.measurer.machine.rounds = 100
    real, place.agent.measurer.start = place.measurer.start, lambda work, models: _Dead()
    with pytest.raises(FaultError, match="machine board: measuring ended 3 times before a round was done"):
        place.machine().measure(GRAPHS, DEVICE)
    place.measurer.machine.crash, place.measurer.machine.rounds = 0.0, 3
    place.agent.measurer.start = real
    assert len(place.machine().measure(GRAPHS, DEVICE)["a"].rounds) == 3


class _Dead:
    def ended(self) -> str:
        return "was ended by signal 9"

    def stop(self) -> None:
        pass


def test_it_is_said_what_is_waited_for(place, monkeypatch):
    place.enrol()
    monkeypatch.setattr("nas.service.remote.SAY_EVERY_S", 0.0)
    place.agent = None
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        if "offline" in line:
            place.start()

    place.time.pass_by(ONLINE_S - 10)
    machine = place.machine()
    with machine.held(say):
        machine.measure(GRAPHS, DEVICE)
    assert lines[0] == "waiting for machine board"
    assert "machine board is offline for 2 min; its task waits for it" in lines


def test_who_lost_the_job_ends(place):
    place.enrol()
    place.agent = None
    machine = RemoteMachine(
        place.db, place.blobs, place.lease, "board", sleep=lambda seconds: place.jobs.give_back(place.lease)
    )
    with pytest.raises(LeaseLost):
        machine.measure(GRAPHS, DEVICE)


@pytest.mark.parametrize(
    ("device", "complaint"),
    [
        (Device("d", threads=8), "machine board has 4 cores, so no 8 threads"),
        (
            Device("d", precision="fp16"),
            "does not offer CPUExecutionProvider with fp16; it offers CPUExecutionProvider; cpu, fp16: no",
        ),
        (Device("d", provider="CUDAExecutionProvider"), "does not offer CUDAExecutionProvider with fp32"),
    ],
)
def test_what_the_machine_does_not_offer_is_refused_before_anything_is_measured(place, device, complaint):
    place.enrol(About(HERE, Offers(ABOUT.offers.devices, ("cpu, fp16: no",)), ABOUT.versions))
    with pytest.raises(LatencyError, match=complaint):
        place.machine().check(device)


def test_a_machine_that_measures_otherwise_is_refused(place):
    place.enrol(About(HERE, ABOUT.offers, {"measuring": "1"}))
    with pytest.raises(LatencyError, match="measures by version 1 of the protocol, this server by 2"):
        place.machine().check(DEVICE)


def test_a_machine_that_is_not_there_is_named_with_those_that_are(place):
    place.enrol()
    with pytest.raises(LatencyError, match="no machine 'bord' is enrolled; enrolled are: board"):
        RemoteMachine(place.db, place.blobs, place.lease, "bord").check(DEVICE)
    place.farm.revoke("board")
    with pytest.raises(LatencyError, match="was removed from the service"):
        place.machine().fingerprint()
