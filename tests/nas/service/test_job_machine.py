"""The job store against a model of it in memory, through anything that workers, owners, clocks and lost answers do."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from nas.database import Database
from nas.service.errors import Conflict, LeaseLost, LimitReached
from nas.service.events import EventLog
from nas.service.jobs import JobStore, Lease, Submission
from nas.service.schema import METADATA, new_id
from nas.service.schema import events as events_table
from nas.service.schema import jobs as jobs_table
from tests.nas.service.databases import LostAnswers, Time, add_user, in_memory, submission

pytest_plugins = ["tests.nas.searching.postgres"]

LEASE_S = 30.0
MAX_RUNNING = {"ann": 2, "bob": 1}
MAX_QUEUED = {"ann": 6, "bob": 4}
WAITING, HELD, ENDED = ("QUEUED", "RETRY_WAIT"), ("RUNNING", "CANCELLING"), ("SUCCEEDED", "FAILED", "CANCELLED")
FAULTS = {"infrastructure": 3, "memory": 1}
ERROR = {"kind": "infrastructure", "message": "lost"}
ALL_JOBS = jobs_table.select()
ALL_EVENTS = select(events_table.c.job_id, events_table.c.seq).order_by(events_table.c.job_id, events_table.c.seq)
workers = st.sampled_from(["w1", "w2", "w3"])


@dataclass
class Model:
    """What a job should be. `worker` is who holds it, or ended his lease himself."""

    asked: Submission
    created_s: float
    state: str = "QUEUED"
    epoch: int = 0
    worker: str | None = None
    expires_s: float = 0.0
    not_before_s: float = 0.0
    faults: int = 0
    memory_faults: int = 0
    events: int = 1
    said: set[tuple[int, int]] = field(default_factory=set)

    @property
    def place(self) -> tuple[float, float, str]:
        return -self.asked.priority, self.created_s, self.asked.id

    def become(self, state: str) -> None:
        self.state = state
        self.events += 1

    def fault(self, fault: str, now_s: float, at_once: bool) -> None:
        if self.state == "CANCELLING":
            return self.become("CANCELLED")
        count = (self.faults if fault == "infrastructure" else self.memory_faults) + 1
        if fault == "infrastructure":
            self.faults = count
        else:
            self.memory_faults = count
        if count > FAULTS[fault]:
            return self.become("FAILED")
        self.not_before_s = now_s + (0 if at_once and count == 1 else 4 ** (count - 1))
        return self.become("RETRY_WAIT")


# One of all that there ever were, but more often one that is still good.
any_lease = st.runner().flatmap(
    lambda machine: (
        st.sampled_from(list(filter(machine.good, machine.leases)) or machine.leases) | st.sampled_from(machine.leases)
    )
)


class JobMachine(RuleBasedStateMachine):
    """Every rule does something to the store and to the model; stale leases are never forgotten, and try everything."""

    asked = Bundle("asked")

    def __init__(self, db: Database, time: Time, answers: LostAnswers) -> None:
        super().__init__()
        self.db, self.time, self.answers = db, time, answers
        self.jobs, self.log = JobStore(db), EventLog(db)
        self.models: dict[str, Model] = {}
        self.leases: list[Lease] = []
        self.final: dict[str, object] = {}
        db.write(empty)

    def good(self, lease: Lease) -> bool:
        model = self.models[lease.job_id]
        return model.epoch == lease.epoch and model.state in HELD and self.time.now_s < model.expires_s

    def tried(self, lease: Lease, write: Callable[[], object]) -> Model | None:
        """Write under a lease; the job if it was good. One that is not must be refused."""
        if self.good(lease):
            write()
            return self.models[lease.job_id]
        with pytest.raises(LeaseLost):
            write()
        return None

    def ended(self, lease: Lease, states: tuple[str, ...], write: Callable[[], object]) -> Model | None:
        """Write what ends a lease, with one of these states; who has done so may do it again, and nothing changes."""
        model = self.models[lease.job_id]
        if (model.epoch, model.worker) == (lease.epoch, lease.worker) and model.state in states:
            write()
            return None
        return self.tried(lease, write)

    @rule(target=asked, owner=st.sampled_from(["ann", "bob"]), priority=st.integers(-2, 2), keyed=st.booleans())
    def submit(self, owner: str, priority: int, keyed: bool) -> Submission:
        key = new_id("k") if keyed else None
        asked = submission(owner, priority=priority, key=key, key_digest="d" if keyed else None)
        mine = [model for model in self.models.values() if model.asked.owner == owner and model.state not in ENDED]
        if len(mine) >= MAX_QUEUED[owner]:
            with pytest.raises(LimitReached):
                self.jobs.submit(asked)
        else:
            assert self.jobs.submit(asked)[1]
            self.models[asked.id] = Model(asked, self.time.now_s)
        return asked

    @rule(asked=asked, same=st.booleans())
    def submit_again(self, asked: Submission, same: bool) -> None:
        if asked.id not in self.models:
            return
        assert self.jobs.submit(asked)[0].id == asked.id
        if asked.key is not None:
            again = submission(asked.owner, key=asked.key, key_digest="d" if same else "e")
            if same:
                job, new = self.jobs.submit(again)
                assert (job.id, new) == (asked.id, False)
            else:
                with pytest.raises(Conflict):
                    self.jobs.submit(again)

    @initialize(target=asked, priority=st.integers(-2, 2))
    def begin(self, priority: int) -> Submission:
        return self.submit("ann", priority, False)

    @rule(worker=workers)
    def claim(self, worker: str) -> None:
        for model in self.models.values():
            if model.state in HELD and model.expires_s <= self.time.now_s:
                model.fault("infrastructure", self.time.now_s, at_once=True)
                model.worker = None
        expected = self.next()
        found = self.jobs.claim(worker, LEASE_S)
        assert (found and found[0].id) == (expected and expected.asked.id)
        if found is None or expected is None:
            return
        expected.become("RUNNING")
        expected.epoch += 1
        expected.worker, expected.expires_s = worker, self.time.now_s + LEASE_S
        assert found[1] == Lease(expected.asked.id, expected.epoch, worker)
        self.leases.append(found[1])

    def next(self) -> Model | None:
        for model in sorted(self.models.values(), key=lambda model: model.place):
            owner = model.asked.owner
            running = [other for other in self.models.values() if other.asked.owner == owner and other.state in HELD]
            due = model.state == "QUEUED" or (model.state == "RETRY_WAIT" and model.not_before_s <= self.time.now_s)
            if due and len(running) < MAX_RUNNING[owner]:
                return model
        return None

    @rule(seconds=st.sampled_from([0.5, 1.0, 4.0, 16.0, 29.0, 30.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.time.pass_by(seconds)

    @rule()
    def lose_the_next_answer(self) -> None:
        self.answers.left = 1

    @precondition(lambda self: self.leases)
    @rule(lease=any_lease)
    def renew(self, lease: Lease) -> None:
        told: list[bool] = []
        model = self.tried(lease, lambda: told.append(self.jobs.renew(lease, LEASE_S)))
        if model is not None:
            assert told == [model.state == "CANCELLING"]
            model.expires_s = self.time.now_s + LEASE_S

    @precondition(lambda self: self.leases)
    @rule(lease=any_lease, n=st.integers(0, 5), count=st.integers(1, 3))
    def append(self, lease: Lease, n: int, count: int) -> None:
        news = [("point", {"n": n + i}) for i in range(count)]
        model = self.tried(lease, lambda: self.log.append(lease, news, n))
        if model is not None:
            fresh = {(lease.epoch, n + i) for i in range(count)} - model.said
            model.said |= fresh
            model.events += len(fresh)

    @precondition(lambda self: self.leases)
    @rule(lease=any_lease)
    def finish_a_stage(self, lease: Lease) -> None:
        model = self.tried(lease, lambda: self.jobs.stage(lease, "train", float(lease.epoch)))
        if model is not None and (lease.epoch, -1) not in model.said:
            model.said.add((lease.epoch, -1))
            model.faults = 0
            model.events += 1

    @precondition(lambda self: self.leases)
    @rule(lease=any_lease)
    def advance(self, lease: Lease) -> None:
        model = self.tried(lease, lambda: self.jobs.advanced(lease))
        if model is not None:
            model.faults = 0

    @precondition(lambda self: self.leases)
    @rule(lease=any_lease, state=st.sampled_from(ENDED))
    def finish(self, lease: Lease, state: str) -> None:
        if state == "CANCELLED" and self.models[lease.job_id].state == "RUNNING" and self.good(lease):
            with pytest.raises(Conflict):
                self.jobs.finish(lease, state)
            return
        ended = self.ended(lease, (state,), lambda: self.jobs.finish(lease, state))
        if ended is not None:
            ended.become(state)

    @precondition(lambda self: self.leases)
    @rule(lease=any_lease, fault=st.sampled_from(sorted(FAULTS)))
    def retry(self, lease: Lease, fault: str) -> None:
        model = self.ended(lease, ("RETRY_WAIT", "FAILED", "CANCELLED"), lambda: self.jobs.retry(lease, fault, ERROR))
        if model is not None:
            model.fault(fault, self.time.now_s, at_once=False)

    @precondition(lambda self: self.leases)
    @rule(lease=any_lease)
    def give_back(self, lease: Lease) -> None:
        model = self.ended(lease, ("QUEUED", "CANCELLED"), lambda: self.jobs.give_back(lease))
        if model is not None:
            model.become("CANCELLED" if model.state == "CANCELLING" else "QUEUED")

    @rule(worker=workers)
    def let_a_worker_die(self, worker: str) -> None:
        held = [model for model in self.models.values() if model.state in HELD and model.worker == worker]
        self.jobs.release(worker)
        for model in held:
            model.fault("infrastructure", self.time.now_s, at_once=True)
            model.worker = None

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        model = self.models[data.draw(st.sampled_from(sorted(self.models)))]
        if model.state in WAITING:
            model.become("CANCELLED")
            model.worker = None
        elif model.state == "RUNNING":
            model.become("CANCELLING")
        assert self.jobs.cancel(model.asked.id).state == model.state

    @invariant()
    def the_store_is_as_the_model_says(self) -> None:
        rows, said = self.db.read(everything)
        assert {row.id for row in rows} == set(self.models)
        for row in rows:
            model = self.models[row.id]
            assert (row.state, row.epoch, row.last_seq) == (model.state, model.epoch, model.events)
            assert (row.faults, row.memory_faults) == (model.faults, model.memory_faults)
            assert row.lease_expires_s == (model.expires_s if model.state in HELD else None)
            assert [seq for job_id, seq in said if job_id == row.id] == list(range(1, model.events + 1))
            if model.state in ENDED:
                assert self.final.setdefault(row.id, row) == row
        queue = sorted((model for model in self.models.values() if model.state in WAITING), key=lambda each: each.place)
        places = {model.asked.id: i + 1 for i, model in enumerate(queue)}
        assert self.jobs.positions(list(self.models)) == places

    def teardown(self) -> None:
        self.answers.left = 0


def empty(connection) -> None:
    for table in (events_table, jobs_table):
        connection.execute(METADATA.tables[table.name].delete())


def everything(connection):
    return connection.execute(ALL_JOBS).all(), [tuple(row) for row in connection.execute(ALL_EVENTS)]


def explore(url, examples: int) -> None:
    time = Time()
    with Database(url, time_s=time) as db:
        db.upgrade()
        for name in MAX_RUNNING:
            add_user(db, name, max_running=MAX_RUNNING[name], max_queued=MAX_QUEUED[name])
        answers = LostAnswers(db)
        run_state_machine_as_test(
            lambda: JobMachine(db, time, answers),
            settings=settings(
                max_examples=examples,
                stateful_step_count=50,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                derandomize="NAS_EXAMPLES" not in os.environ,
            ),
        )


def test_the_job_store_does_what_its_model_does():
    """NAS_EXAMPLES=10000 explores for longer, and elsewhere each time."""
    with in_memory() as folder:
        explore(folder / "nas.sqlite", int(os.environ.get("NAS_EXAMPLES", "200")))


@pytest.mark.postgres
def test_the_job_store_does_the_same_in_postgresql(postgres):
    explore(postgres, int(os.environ.get("NAS_EXAMPLES", "200")) // 20)
