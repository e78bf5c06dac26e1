"""The agent's loop: what it does with what the server says, and with what goes wrong on its own side."""

import errno
import random
from contextlib import suppress
from dataclasses import replace

import pytest

from latency_tables.device import Device
from latency_tables.measuring.measure import Protocol
from latency_tables.measuring.needs import NEEDS
from nas.agent.agent import HEARTBEAT_S, LONGEST_WAIT_S, Agent
from nas.agent.bench import measure_work
from nas.agent.errors import Away, Refused, Stale, Unwelcome
from nas.agent.models import Models
from nas.agent.spool import Spool
from nas.agent.wire import GraphRef, Task, check_outcome, check_round, measured_of
from tests.nas.agent.fakes import ABOUT, ENERGY, FINDS, HERE, Crash, FakeMachine, FakeMeasurer, FakeRunning
from tests.nas.agent.test_models import MODEL, reference

TASK = Task("t01", 2, Device("board"), Protocol(), HERE.id, (reference(MODEL, "a"), reference(MODEL, "b")))


class FakeServer:
    """Answers by `answers` (path's last word -> what it says, or an error to raise, or a list of these), and remembers."""

    def __init__(self, **answers) -> None:
        self.answers = {"hello": {"name": "board"}, "poll": {"task": None}, "result": {"recorded": True}, **answers}
        self.asked: list[tuple[str, dict]] = []

    def post(self, path, document, wait_s=0.0):
        word = path.rpartition("/")[2]
        self.asked.append((word, document))
        answer = self.answers.get(word)
        if isinstance(answer, list):
            answer = answer.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if word == "rounds" and answer is None:
            return {"acknowledged": max([each["n"] for each in document["rounds"]], default=0)}
        return answer

    def piece(self, sha256, start, length):
        self.asked.append(("piece", {}))
        answer = self.answers.get("piece", MODEL)
        if isinstance(answer, Exception):
            raise answer
        return answer[start : start + length]

    def said(self, word: str) -> list[dict]:
        return [document for asked, document in self.asked if asked == word]


class Clock:
    def __init__(self) -> None:
        self.now_s = 1e6

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def spool(tmp_path) -> Spool:
    return Spool(tmp_path / "agent")


def agent_of(spool: Spool, server: FakeServer, measurer=None, clock=None) -> Agent:
    measurer = measurer or FakeMeasurer(FakeMachine(random.Random(0)))
    models = Models(spool.folder / "models")
    return Agent(spool, models, server, measurer, ABOUT, lambda line: None, clock or Clock(), random.Random(0))


def run(agent: Agent, steps: int = 20) -> None:
    for _ in range(steps):
        agent.step()


def given(document=None):
    return [{"task": document or TASK.to_json()}, *[{"task": None}] * 50]


def test_a_task_is_fetched_measured_sent_and_forgotten(spool):
    server = FakeServer(poll=given())
    run(agent_of(spool, server))
    assert [word for word, _ in server.asked[:3]] == ["hello", "poll", "piece"]
    rounds = [each for document in server.said("rounds") for each in document["rounds"]]
    assert [each["n"] for each in rounds] == [1, 2, 3]
    (result,) = server.said("result")
    assert result["epoch"] == 2
    assert {key: len(found["rounds"]["samples_us"]) for key, found in result["measured"].items()} == {"a": 3, "b": 3}
    assert spool.in_hand() is None
    assert server.asked[-1][0] == "poll"


def test_without_the_server_it_goes_on_measuring_and_sends_it_later(spool):
    server = FakeServer(poll=given())
    agent = agent_of(spool, server)
    run(agent, 3)  # the models are here
    server.answers |= dict.fromkeys(("rounds", "result", "hello"), Away("gone"))
    run(agent, 1)
    again = agent_of(spool, server)  # and it is started anew, in the middle of the cut
    run(again, 5)
    assert spool.in_hand().outcome is not None
    in_vain = len(server.asked)
    server.answers |= {"hello": {"name": "board"}, "rounds": None, "result": {"recorded": True}}
    run(again, 2)
    assert spool.in_hand() is None
    assert "result" in [word for word, _ in server.asked[in_vain:]]


def test_it_waits_longer_the_longer_the_server_is_away(spool):
    agent = agent_of(spool, FakeServer(hello=Away("gone")))
    waits = [agent.step() for _ in range(12)]
    assert 1.0 <= waits[0] <= 2.0
    assert all(LONGEST_WAIT_S / 2 <= wait <= LONGEST_WAIT_S for wait in waits[6:])
    assert len(set(waits)) == len(waits)


def test_a_machine_that_is_measuring_gives_signs_of_life(spool):
    class Slow:
        def start(self, work, models):
            return FakeRunning(10**9, "")

    server, clock = FakeServer(poll=given()), Clock()
    agent = agent_of(spool, server, Slow(), clock)
    run(agent, 5)
    assert server.said("rounds") == []
    clock.now_s += HEARTBEAT_S
    run(agent, 5)
    assert server.said("rounds") == [{"epoch": 2, "rounds": []}]


def test_a_task_that_is_not_ours_any_more_is_dropped(spool):
    server = FakeServer(poll=given(), rounds=Stale("it was given out again"))
    agent = agent_of(spool, server)
    run(agent, 6)
    assert spool.in_hand() is None
    assert server.said("result") == []


def test_what_the_server_refuses_is_told_as_an_error(spool):
    server = FakeServer(poll=given(), rounds=Refused("round: wanted something else"))
    run(agent_of(spool, server), 8)
    assert server.said("result") == [
        {"epoch": 2, "error": {"fault": "infrastructure", "message": "round: wanted something else"}}
    ]
    assert spool.in_hand() is None


def test_an_agent_that_is_unwelcome_ends_and_keeps_what_it_has(spool):
    server = FakeServer(poll=given(), rounds=Unwelcome("this token is revoked"))
    agent = agent_of(spool, server)
    with pytest.raises(Unwelcome, match="revoked"):
        agent.run(sleep=lambda seconds: None)
    assert spool.in_hand() is not None


@pytest.mark.parametrize("change", [{"measuring": 1}, {"graphs": "none"}, {"surprise": 1}])
def test_a_task_that_cannot_be_read_is_told_as_an_error(spool, change):
    server = FakeServer(poll=given({**TASK.to_json(), **change}))
    run(agent_of(spool, server), 4)
    (result,) = server.said("result")
    assert result["error"]["fault"] == "user"
    assert spool.in_hand() is None


def test_measuring_that_dies_again_and_again_is_given_up(spool):
    class Dying:
        starts = 0

        def start(self, work, models):
            self.starts += 1
            return FakeRunning(0, "was ended by signal 9")

    server, measurer = FakeServer(poll=given()), Dying()
    for _ in range(12):  # and the agent with it
        agent_of(spool, server, measurer).step()
    run(agent_of(spool, server, measurer), 10)
    assert measurer.starts == 3
    (result,) = server.said("result")
    assert result["error"] == {"fault": "infrastructure", "message": "measuring ended 3 times before a round was done"}


def test_measuring_that_dies_after_a_round_goes_on(spool):
    machine = FakeMachine(random.Random(1), rounds=8, crash=0.6)
    server = FakeServer(poll=given())
    run(agent_of(spool, server, FakeMeasurer(machine)), 60)
    (result,) = server.said("result")
    assert {key: len(found["rounds"]["samples_us"]) for key, found in result["measured"].items()} == {"a": 8, "b": 8}


def test_a_full_disk_is_told_as_an_error(spool, monkeypatch):
    server = FakeServer(poll=given())
    agent = agent_of(spool, server)
    run(agent, 2)

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("nas.agent.spool.write_bytes", full)
    with pytest.raises(OSError, match="No space left on device"):  # without a task there is nobody to tell
        run(agent, 9)
    (result,) = server.said("result")
    assert "No space left on device" in result["error"]["message"]


def test_an_answer_of_a_stranger_is_one_to_wait_for(spool):
    server = FakeServer(poll=given(), rounds={"ok": True})
    agent = agent_of(spool, server)
    run(agent, 8)
    assert spool.in_hand() is not None
    assert agent.failures > 0


@pytest.mark.parametrize(
    ("machine", "fault", "message"),
    [
        (
            FakeMachine(random.Random(0), identity=ABOUT.fingerprint.__class__("Other", "x", 1, 1, "", "1")),
            "user",
            "not as it was",
        ),
    ],
)
def test_a_machine_that_has_changed_measures_nothing(spool, machine, fault, message):
    models = Models(spool.folder / "models")
    models.path(TASK.graphs[0].sha256).write_bytes(MODEL)
    work = spool.begin(TASK.to_json())
    measure_work(work, models, machine)
    assert work.outcome["error"]["fault"] == fault
    assert message in work.outcome["error"]["message"]
    assert work.rounds() == []


def test_rounds_that_were_measured_before_a_crash_are_part_of_the_result(spool):
    models = Models(spool.folder / "models")
    models.path(TASK.graphs[0].sha256).write_bytes(MODEL)
    work = spool.begin(TASK.to_json())
    with pytest.raises(Crash):
        measure_work(work, models, FakeMachine(random.Random(0), crash=1.0))
    before = work.measured()
    assert [len(found.rounds) for found in before.values()] == [1, 1]
    measure_work(work, models, FakeMachine(random.Random(1)))
    assert all(work.measured()[key].rounds[:1] == found.rounds for key, found in before.items())
    assert len(work.rounds()) == 3


def test_needs_that_were_found_before_a_crash_are_not_found_again(spool, monkeypatch):
    models = Models(spool.folder / "models")
    models.path(TASK.graphs[0].sha256).write_bytes(MODEL)
    work = spool.begin(replace(TASK, needs=NEEDS).to_json())
    asked: list[str] = []
    monkeypatch.setitem(FINDS, "energy", lambda graph, device: asked.append(graph.key) or ENERGY)
    for crash in (1.0,) * 5 + (0.0,):
        assert work.outcome is None
        with suppress(Crash):
            measure_work(work, models, FakeMachine(random.Random(0), crash=crash))
    assert asked == ["a", "b"]
    assert len(work.rounds()) == 5
    assert measured_of(work.outcome["measured"], ["a", "b"]) == work.measured()
    assert {found.energy for found in work.measured().values()} == {ENERGY}
    assert {found.footprint.model_bytes for found in work.measured().values()} == {len(MODEL)}
    check_outcome(work.outcome, ["a", "b"])
    for path in work.rounds():
        check_round(work.round(path), ["a", "b"])


def test_a_model_that_is_missing_at_the_server_is_told_as_an_error(spool):
    graph = GraphRef("a", "0" * 64, 5)
    server = FakeServer(poll=given({**TASK.to_json(), "graphs": [graph.to_json()]}), piece=Refused("no such model"))
    run(agent_of(spool, server), 6)
    (result,) = server.said("result")
    assert result["error"]["message"] == "no such model"
