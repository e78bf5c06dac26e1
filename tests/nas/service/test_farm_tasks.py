"""Tasks: made once, given out to their machine, gone on with after any loss, ended once."""

import json
from dataclasses import replace

import pytest
from sqlalchemy import select

from latency_tables.device import Device
from latency_tables.measuring.energy import Energy
from latency_tables.measuring.measure import Protocol
from latency_tables.measuring.measurement import Round
from nas.agent.errors import AgentError
from nas.agent.wire import GraphRef, error_json, measured_json, round_json
from nas.service.errors import LeaseLost, NotFound
from nas.service.farm import Farm
from nas.service.jobs import JobStore
from nas.service.schema import devices
from nas.service.schema import rounds as rounds_table
from nas.service.tasks import ATTEMPTS, CANARIES, LEASE_S, TaskLost, Tasks
from nas.service.wanted import Wanted
from tests.nas.agent.fakes import ABOUT, HERE, measurement
from tests.nas.service.databases import LostAnswers, submission

pytest_plugins = ["tests.nas.searching.postgres"]

JOB_LEASE_S = 1e6


@pytest.fixture
def farm(db) -> Farm:
    found = Farm(db)
    for name in ("board", "other"):
        code, _ = found.enrolment(name, "ann")
        found.enrol(code, "n", ABOUT)
    return found


@pytest.fixture
def tasks(farm) -> Tasks:
    return farm.tasks


@pytest.fixture
def jobs(db) -> JobStore:
    return JobStore(db)


@pytest.fixture
def lease(jobs):
    jobs.submit(submission())
    return jobs.claim("w", JOB_LEASE_S)[1]


def wanted(*keys: str, **changes) -> Wanted:
    graphs = tuple(GraphRef(key, key.ljust(64, "0"), 5) for key in keys or ("a", "b"))
    return replace(Wanted("board", Device("mine"), Protocol(), HERE.id, graphs), **changes)


def submitted(tasks: Tasks, lease, *keys: str, **changes) -> str:
    return tasks.submit(lease, wanted(*keys, **changes), lambda connection: None)


def series(count: int, salt: int = 0) -> list[Round]:
    return [Round((1.0 + salt + number,), 100.0, 1.0) for number in range(count)]


def document(n: int, salt: int = 0) -> dict:
    """The n-th round of both graphs."""
    found = {key: measurement(key, series(n, salt)) for key in "ab"}
    return json.loads(json.dumps(round_json(n, n, 80, found, dict.fromkeys("ab", n - 1))))


def outcome(count: int = 3, salt: int = 0) -> dict:
    return json.loads(
        json.dumps({"measured": measured_json({key: measurement(key, series(count, salt)) for key in "ab"})})
    )


def state(tasks: Tasks, lease, task_id: str) -> str:
    return tasks.standing(lease, task_id, (0, 0)).state


def test_a_task_is_submitted_given_out_measured_and_ended(farm, tasks, lease, time):
    task_id = submitted(tasks, lease)
    assert (farm.device("board").queued, tasks.claimable()) == (1, {"board"})
    task = tasks.claim("board", "p1")
    assert (task.id, task.epoch, task.fingerprint, task.settings) == (task_id, 1, HERE.id, Protocol())
    assert task.graphs == wanted().graphs
    assert (farm.device("board").running, tasks.claimable()) == (1, frozenset())
    assert tasks.append("board", task_id, 1, [document(1), document(2)]) == 2
    standing = tasks.standing(lease, task_id, (0, 0))
    assert [place for place, _ in standing.rounds] == [(1, 1), (1, 2)]
    assert [place for place, _ in tasks.standing(lease, task_id, (1, 1)).rounds] == [(1, 2)]
    assert (standing.before, standing.silent_s) == (0, 0.0)
    tasks.finish("board", task_id, 1, outcome())
    assert state(tasks, lease, task_id) == "SUCCEEDED"
    assert tasks.measured(task_id)["a"].rounds == tuple(series(3))
    assert tasks.claim("board", "p2") is None
    (canary,) = farm.device("board").canaries
    assert (canary.settings, canary.reference_us, canary.at_s) == ("cpu_t1_fp32_b1", 100.0, time.now_s)


def test_what_is_submitted_again_is_the_same_task(db, tasks, lease):
    LostAnswers(db).left = 1
    task_id = submitted(tasks, lease)
    assert submitted(tasks, lease) == task_id
    assert submitted(tasks, lease, "a") == task_id  # some of its graphs
    less = replace(Protocol(), budget_s=1.0)
    assert (
        submitted(tasks, lease, settings=less, device=Device("renamed"), earlier={"a": measurement("a", series(1))})
        == task_id
    )
    others = [
        submitted(tasks, lease, "a", "c"),
        submitted(tasks, lease, device=Device("mine", threads=2)),
        submitted(tasks, lease, settings=replace(Protocol(), seed=7)),
        submitted(tasks, lease, fingerprint="other"),
        submitted(tasks, lease, agent="other"),
    ]
    assert len({task_id, *others}) == 6


def test_tasks_of_another_job_are_its_own(jobs, tasks, lease):
    jobs.submit(submission())
    _, other = jobs.claim("w", JOB_LEASE_S)
    assert submitted(tasks, lease) != submitted(tasks, other)


def test_a_machine_gets_its_own_tasks_the_oldest_first(tasks, lease):
    first, foreign, second = (
        submitted(tasks, lease, key, agent=name) for key, name in (("a", "board"), ("b", "other"), ("c", "board"))
    )
    assert tasks.claim("board", "p1").id == first
    assert tasks.claim("board", "p2").id == second
    assert tasks.claim("board", "p3") is None
    assert tasks.claim("other", "q1").id == foreign


def test_the_same_request_gets_the_same_task(db, tasks, lease):
    submitted(tasks, lease, "a")
    submitted(tasks, lease, "c")
    LostAnswers(db).left = 1
    task = tasks.claim("board", "p1")
    assert tasks.claim("board", "p1") == task
    assert tasks.claim("board", "p2").id != task.id


def test_a_machine_that_has_lost_what_it_had_begun_gets_it_back_with_what_was_recorded(tasks, lease):
    task_id = submitted(tasks, lease)
    tasks.claim("board", "p1")
    tasks.append("board", task_id, 1, [document(1), document(2)])
    again = tasks.claim("board", "p1")
    assert (again.id, again.epoch) == (task_id, 2)
    assert again.earlier["b"].rounds == tuple(series(2))
    with pytest.raises(TaskLost, match="given out again, as epoch 2"):
        tasks.append("board", task_id, 1, [document(3)])


def test_a_task_whose_lease_ran_out_is_given_out_again(tasks, lease, time):
    task_id = submitted(tasks, lease, earlier={"a": measurement("a", series(2))})
    assert tasks.claim("board", "p1").earlier["a"].rounds == tuple(series(2))
    time.pass_by(LEASE_S - 1)
    tasks.append("board", task_id, 1, [])
    time.pass_by(LEASE_S - 1)
    assert tasks.claimable() == frozenset()
    assert tasks.claim("board", "p2") is None
    time.pass_by(1)
    assert tasks.claimable() == {"board"}
    assert tasks.claim("board", "p2").epoch == 2


def test_rounds_are_recorded_once_and_without_a_gap(db, tasks, lease):
    task_id = submitted(tasks, lease)
    tasks.claim("board", "p1")
    assert tasks.append("board", task_id, 1, [document(2)]) == 0
    LostAnswers(db).left = 1
    assert tasks.append("board", task_id, 1, [document(1)]) == 1
    assert tasks.append("board", task_id, 1, [document(1, salt=5), document(2), document(4)]) == 2
    found = [each for _, each in tasks.standing(lease, task_id, (0, 0)).rounds]
    assert found == [document(1), document(2)]


def test_what_comes_late_under_the_same_epoch_is_taken(tasks, lease, time):
    task_id = submitted(tasks, lease)
    tasks.claim("board", "p1")
    time.pass_by(100 * LEASE_S)
    assert tasks.append("board", task_id, 1, [document(1)]) == 1
    time.pass_by(100 * LEASE_S)
    tasks.finish("board", task_id, 1, outcome())
    assert state(tasks, lease, task_id) == "SUCCEEDED"


def test_a_result_is_recorded_once(db, tasks, lease):
    task_id = submitted(tasks, lease)
    tasks.claim("board", "p1")
    LostAnswers(db).left = 1
    tasks.finish("board", task_id, 1, outcome())
    tasks.finish("board", task_id, 1, outcome())
    for other, epoch in ((outcome(salt=1), 1), ({"error": error_json("user", "no")}, 1), (outcome(), 2)):
        with pytest.raises(TaskLost, match="it is SUCCEEDED"):
            tasks.finish("board", task_id, epoch, other)
    with pytest.raises(TaskLost):
        tasks.append("board", task_id, 1, [document(1)])
    assert tasks.measured(task_id)["a"].rounds == tuple(series(3))
    left = db.read(lambda connection: connection.execute(rounds_table.select()).all())
    assert left == []


def test_a_result_under_an_earlier_epoch_is_refused(tasks, lease, time):
    task_id = submitted(tasks, lease)
    tasks.claim("board", "p1")
    time.pass_by(LEASE_S)
    tasks.claim("board", "p2")
    with pytest.raises(TaskLost, match="given out again"):
        tasks.finish("board", task_id, 1, outcome())
    tasks.finish("board", task_id, 2, outcome(salt=1))
    assert tasks.measured(task_id)["a"].rounds == tuple(series(3, 1))


def test_a_task_that_is_begun_in_vain_again_and_again_fails_and_a_round_saves_it(tasks, lease, time):
    lost, saved = submitted(tasks, lease, "c"), submitted(tasks, lease)
    for number in range(ATTEMPTS + 2):
        claimed = [tasks.claim("board", f"p{number}.{each}") for each in range(2)]
        found = next((each for each in claimed if each is not None and each.id == saved), None)
        if number < ATTEMPTS:
            assert {each.id for each in claimed} == {lost, saved}
        assert found is not None
        if number == 1:
            tasks.append("board", saved, found.epoch, [document(1)])
        time.pass_by(LEASE_S)
    standing = tasks.standing(lease, lost, (0, 0))
    assert (standing.state, standing.error["fault"]) == ("FAILED", "infrastructure")


@pytest.mark.parametrize("fault", ["infrastructure", "user"])
def test_a_task_that_failed_is_tried_again_unless_it_is_its_own_fault(tasks, lease, fault):
    task_id = submitted(tasks, lease)
    tasks.claim("board", "p1")
    tasks.append("board", task_id, 1, [document(1)])
    tasks.finish("board", task_id, 1, {"error": error_json(fault, "no")})
    assert tasks.standing(lease, task_id, (0, 0)).error["message"] == "no"
    assert submitted(tasks, lease) == task_id
    assert state(tasks, lease, task_id) == ("QUEUED" if fault == "infrastructure" else "FAILED")
    if fault == "infrastructure":
        assert tasks.claim("board", "p2").earlier["a"].rounds == tuple(series(1))


@pytest.mark.parametrize("how", ["cancel", "fail"])
def test_tasks_end_with_their_job(jobs, tasks, lease, how):
    begun, waiting = submitted(tasks, lease), submitted(tasks, lease, "c")
    tasks.claim("board", "p1")
    if how == "cancel":
        jobs.cancel(lease.job_id)
    else:
        jobs.finish(lease, "FAILED", error={"kind": "user", "message": "no"})
    with pytest.raises(TaskLost, match="its job has ended"):
        tasks.append("board", begun, 1, [document(1)])
    with pytest.raises(TaskLost):
        tasks.finish("board", begun, 1, outcome())
    assert tasks.claim("board", "p2") is None
    if how == "cancel":
        assert [state(tasks, lease, each) for each in (begun, waiting)] == ["CANCELLED", "CANCELLED"]


def test_tasks_end_with_their_machine(farm, tasks, lease):
    task_id = submitted(tasks, lease)
    farm.revoke("board")
    standing = tasks.standing(lease, task_id, (0, 0))
    assert (standing.state, standing.error["fault"]) == ("FAILED", "user")
    with pytest.raises(NotFound, match="no machine 'board' is enrolled"):
        submitted(tasks, lease, "c")


def test_who_does_not_hold_the_job_neither_asks_nor_looks(jobs, tasks, lease, time):
    task_id = submitted(tasks, lease)
    jobs.give_back(lease)
    with pytest.raises(LeaseLost):
        submitted(tasks, lease, "c")
    with pytest.raises(LeaseLost):
        tasks.standing(lease, task_id, (0, 0))


def test_a_task_of_another_machine_is_none(tasks, lease):
    task_id = submitted(tasks, lease)
    tasks.claim("board", "p1")
    for act in (lambda: tasks.append("other", task_id, 1, []), lambda: tasks.finish("other", task_id, 1, outcome())):
        with pytest.raises(NotFound, match="there is no task"):
            act()


@pytest.mark.parametrize("bad", [{}, {**document(1), "n": 0}, {**document(1), "measured": {"z": {}}}])
def test_what_is_no_round_is_refused_and_recorded_nowhere(tasks, lease, bad):
    task_id = submitted(tasks, lease)
    tasks.claim("board", "p1")
    with pytest.raises(AgentError):
        tasks.append("board", task_id, 1, [document(1), bad])
    assert tasks.standing(lease, task_id, (0, 0)).rounds == []


def test_a_model_is_shown_to_the_machine_that_has_it_in_hand(tasks, lease):
    submitted(tasks, lease, "a")
    digest = "a".ljust(64, "0")
    assert tasks.model_bytes("board", digest) is None
    tasks.claim("board", "p1")
    assert tasks.model_bytes("board", digest) == 5
    assert tasks.model_bytes("other", digest) is None
    assert tasks.model_bytes("board", "f" * 64) is None


def test_a_task_covers_what_it_measures_and_no_other_needs(tasks, lease):
    plain = submitted(tasks, lease)
    energy = submitted(tasks, lease, needs=("energy",))
    both = submitted(tasks, lease, needs=("footprint", "energy"))
    assert len({plain, energy, both}) == 3
    assert submitted(tasks, lease, "a", needs=("energy", "footprint")) == both
    assert submitted(tasks, lease, "a", needs=("footprint",)) == both
    assert tasks.claim("board", "p1").needs == ()
    tasks.finish("board", plain, 1, outcome())
    assert tasks.claim("board", "p2").needs == ("energy",)


def test_what_inferences_took_is_noted_once(farm, tasks, lease, db):
    task_id = submitted(tasks, lease, needs=("energy",))
    tasks.claim("board", "p1")
    document = outcome()
    for key, joules in (("a", 0.5), ("b", 0.1)):
        document["measured"][key]["energy"] = Energy(joules, 4.0, 10, "soc").to_json()
    for _ in range(2):  # the answer was lost
        tasks.finish("board", task_id, 1, document)
    query = select(devices.c.canary).where(devices.c.name == "board")
    noted = db.read(lambda connection: connection.execute(query).scalar_one())
    assert noted["joules"] == pytest.approx(6.0)
    assert [(each["joules"], each["watts"]) for each in noted["history"]] == [(pytest.approx(0.3), 4.0)]
    (canary,) = farm.device("board").canaries
    assert canary.reference_us == 100.0


def test_the_history_of_canaries_is_bounded(farm, tasks, lease, monkeypatch):
    monkeypatch.setattr("nas.service.tasks.CANARIES", 3)
    assert CANARIES >= 100
    for number in range(5):
        task_id = submitted(tasks, lease, settings=replace(Protocol(), seed=number))
        tasks.claim("board", f"p{number}")
        tasks.finish("board", task_id, 1, outcome())
    assert len(farm.device("board").canaries) == 3
    assert farm.device("board").canaries[-1].task == task_id
