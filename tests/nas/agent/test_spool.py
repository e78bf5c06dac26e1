"""What an agent keeps on disk outlives it; nothing in it is half a thing."""

import json
import stat

import pytest

from latency_tables.device import Device
from latency_tables.measuring.measure import Protocol
from latency_tables.measuring.measurement import Round
from nas.agent.errors import AgentError
from nas.agent.spool import Spool
from nas.agent.wire import GraphRef, Task, round_json
from tests.nas.agent.fakes import HERE, measurement

FIRST = measurement("a", [Round((1.0,), 100.0, 1.0)])
TASK = Task("t01", 2, Device("board"), Protocol(), HERE.id, (GraphRef("a", "0" * 64, 5),), {"a": FIRST})

SENT = json.loads(json.dumps(TASK.to_json()))


@pytest.fixture
def spool(tmp_path) -> Spool:
    return Spool(tmp_path / "agent")


def grown(by: float):
    return measurement("a", [*FIRST.rounds, Round((by,), 100.0, 1.0)], "interrupted")


def test_the_token_is_for_nobody_else_to_read(spool):
    assert spool.token == ""
    nonce = spool.nonce()
    assert spool.nonce() == nonce
    spool.keep_token("nas_secret")
    path = spool.folder / "token"
    assert Spool(spool.folder).token == "nas_secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert spool.nonce() != nonce


def test_one_agent_works_in_a_folder(spool):
    with (
        spool.locked(),
        pytest.raises(AgentError, match="another agent works in this folder"),
        Spool(spool.folder).locked(),
    ):
        pass
    with spool.locked():
        pass


def test_a_task_in_hand_is_gone_on_with_by_the_next_agent(spool):
    assert spool.in_hand() is None
    asked = spool.poll_id()
    assert spool.poll_id() == asked
    work = spool.begin(SENT)
    assert spool.poll_id() != asked
    work.add_round(round_json(1, 1, 80, {"a": grown(2.0)}, {"a": 1}))
    work.acknowledge(1)
    again = Spool(spool.folder).in_hand()
    assert again.task == TASK
    assert again.acknowledged == 1
    assert [path.name for path in again.rounds()] == ["00000001.json"]
    assert again.rounds(after=1) == []
    assert again.measured() == {"a": grown(2.0)}
    assert again.outcome is None
    again.end({"a": FIRST})
    assert Spool(spool.folder).in_hand().outcome == json.loads(json.dumps({"measured": {"a": FIRST.to_json()}}))


def test_of_an_earlier_task_nothing_is_left(spool):
    work = spool.begin(SENT)
    work.add_round(round_json(1, 1, 80, {"a": grown(2.0)}, {"a": 1}))
    work.fail("user", "no\nmore")
    assert work.outcome == {"error": {"fault": "user", "message": "no more"}}
    again = spool.begin(SENT)
    assert (again.rounds(), again.outcome, again.acknowledged) == ([], None, 0)
    spool.drop()
    assert spool.in_hand() is None
    spool.drop()


def test_a_document_that_is_no_task_leaves_the_one_in_hand(spool):
    spool.begin(SENT)
    with pytest.raises(AgentError):
        spool.begin({"id": "t02"})
    assert spool.in_hand().task == TASK


def test_starts_are_counted_until_there_is_a_round(spool):
    work = spool.begin(SENT)
    assert [work.count_start() for _ in range(3)] == [1, 2, 3]
    work.add_round(round_json(1, 1, 80, {"a": grown(2.0)}, {"a": 1}))
    assert [work.count_start() for _ in range(2)] == [1, 2]
