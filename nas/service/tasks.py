"""Tasks: what enrolled machines are asked to measure. Given out by lease, gone on with after a loss, ended once.

Only its own machine can take a task, so what counts is the `epoch`, which grows each time that it is given out: what comes
late under the same epoch is taken, however long the lease is over, and a long cut of the network loses nothing that was
measured. What comes under an earlier epoch is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, func, or_, select, update

from latency_tables.device import Device
from latency_tables.measuring.measurement import Measurement
from nas.agent.wire import (
    Task,
    check_outcome,
    check_round,
    error_json,
    joined,
    round_json,
)
from nas.database import Database, clock, insert
from nas.service.errors import Conflict, NotFound
from nas.service.leases import HELD, Lease, held, lost
from nas.service.schema import devices, jobs, new_id, rounds, tasks
from nas.service.wanted import Wanted
from search_spaces import digest

Json = Any
Rounds = Sequence[tuple[tuple[int, int], Json]]

LEASE_S = 60.0
CANARIES = 200
"""Kept of each machine."""
ATTEMPTS = 3
"""Times that a task is given out without a new round, before it has failed."""
OPEN = ("QUEUED", "RUNNING")
INFRASTRUCTURE = "infrastructure"


class TaskLost(Conflict):
    """The task is not this machine's any more: it has ended, its job has, or it was given out again."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a task is. `rounds` are those after the one asked from, each with its place (epoch, n)."""

    state: str
    error: Json
    rounds: Rounds
    before: int
    """Tasks of the same machine that come first."""
    silent_s: float | None
    """Since the machine was last heard of."""


class Tasks:
    """All tasks, in the service's database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def submit(self, lease: Lease, wanted: Wanted, name_blobs: Callable[[Connection], None]) -> str:
        """The id of a task that measures this for the holder's job: one of its tasks that covers it, or a new one.

        One that ended for no fault of its graphs is put into the queue again. `name_blobs` is called in a transaction that
        puts one there.
        """
        task_id, key = new_id("t"), wanted.key

        def work(connection: Connection) -> str:
            owner = held(connection, lease).owner
            found = self._covering(connection, lease.job_id, wanted)
            if found is not None:
                if self._revive(connection, found):
                    name_blobs(connection)
                return found
            _enrolled(connection, wanted.agent)
            name_blobs(connection)
            values = {
                "id": task_id,
                "device": wanted.agent,
                "job_id": lease.job_id,
                "owner": owner,
                "key": key,
                "state": "QUEUED",
                "payload": wanted.to_json(),
                "epoch": 0,
                "attempts": 0,
                "created_s": clock(),
            }
            connection.execute(insert(connection, tasks).values(values))
            if wanted.earlier:
                _add_round(connection, task_id, 0, round_json(1, 1, 1, wanted.earlier, {}))
            return task_id

        return self._db.write(work)

    def claim(self, device: str, poll: str) -> Task | None:
        """A task for a machine that has none: the one that it was given under the same `poll`, or the next.

        Its lease begins; the machine counts as seen.
        """

        def work(connection: Connection) -> Row[Any] | None:
            _seen(connection, device)
            self._cancel_with_jobs(connection, device)
            again = connection.execute(
                select(tasks)
                .join(rounds, and_(rounds.c.task_id == tasks.c.id, rounds.c.epoch == tasks.c.epoch, rounds.c.n == 0))
                .where(tasks.c.device == device, tasks.c.state == "RUNNING", rounds.c.data == _claim(poll))
            ).one_or_none()
            if again is None:
                return self._next(connection, device, poll)
            if _last(connection, again.id, again.epoch) == 0:
                return _renewed(connection, again.id)
            # It had begun, and has lost what it had: under a new epoch nothing old can come between.
            return _given_out(connection, again.id, again.epoch, poll)

        row = self._db.write(work)
        return None if row is None else self._task(row)

    def claimable(self) -> frozenset[str]:
        """The machines for which there may be a task."""
        query = select(tasks.c.device).where(_to_give_out()).distinct()
        return frozenset(self._db.read(lambda connection: connection.execute(query).scalars().all()))

    def append(self, device: str, task_id: str, epoch: int, documents: Sequence[Json]) -> int:
        """Record rounds of an epoch that follow on those recorded; the number of the last one that is.

        Renews the lease, with no rounds too. `AgentError` for what are no rounds of it, `TaskLost`.
        """
        keys = self._keys(device, task_id)
        for document in documents:
            check_round(document, keys)

        def work(connection: Connection) -> int | None:
            row = self._running(connection, device, task_id, epoch)
            if row is None:
                return None
            last = before = _last(connection, task_id, epoch)
            for document in documents:
                if document["n"] == last + 1:
                    _add_round(connection, task_id, epoch, document)
                    last += 1
            _renewed(connection, task_id)
            if last > before:
                connection.execute(update(tasks).where(tasks.c.id == task_id).values(attempts=0))
            return last

        last = self._db.write(work)
        if last is None:
            raise TaskLost("its job has ended")
        return last

    def finish(self, device: str, task_id: str, epoch: int, outcome: Json) -> dict[str, Measurement]:
        """Record what a task ended with, once; what was measured, by keys.

        The same again changes nothing and is no error; anything else after it is `TaskLost`, and `AgentError` what is no
        outcome of it.
        """
        check_outcome(outcome, self._keys(device, task_id))
        mark = digest(outcome, 32)

        def work(connection: Connection) -> bool:
            ended = _locked(connection, device, task_id)
            if ended.epoch == epoch and mark in ((ended.result or {}).get("digest"), (ended.error or {}).get("digest")):
                return True
            if self._running(connection, device, task_id, epoch) is None:
                return False
            values: dict[str, Json] = {"state": "FAILED", "error": {"digest": mark, **outcome.get("error", {})}}
            if "measured" in outcome:
                values = {"state": "SUCCEEDED", "result": {"digest": mark, "measured": outcome["measured"]}}
                connection.execute(delete(rounds).where(rounds.c.task_id == task_id))
            _end(connection, task_id, values)
            if "measured" in outcome:
                _note(connection, device, task_id, ended.payload["device"], outcome["measured"])
            return True

        if not self._db.write(work):
            raise TaskLost("its job has ended")
        return {key: Measurement.from_json(found) for key, found in outcome.get("measured", {}).items()}

    def standing(self, lease: Lease, task_id: str, after: tuple[int, int]) -> Standing:
        """How far a task is, for the holder of its job. `LeaseLost`."""

        def work(connection: Connection) -> Standing:
            check_held(connection, lease)
            row = connection.execute(
                select(tasks.c.state, tasks.c.error, tasks.c.device, (clock() - devices.c.seen_s).label("silent_s"))
                .join(devices, devices.c.name == tasks.c.device)
                .where(tasks.c.id == task_id)
            ).one()
            before = select(func.count()).where(
                tasks.c.device == row.device, tasks.c.state.in_(OPEN), tasks.c.id < task_id
            )
            new = connection.execute(_rounds_of(task_id, after)).all()
            return Standing(
                row.state,
                row.error,
                [((each.epoch, each.n), each.data) for each in new],
                connection.execute(before).scalar_one(),
                row.silent_s,
            )

        return self._db.read(work)

    def measured(self, task_id: str) -> dict[str, Measurement]:
        """The result of a task that has succeeded."""
        query = select(tasks.c.result).where(tasks.c.id == task_id)
        result = self._db.read(lambda connection: connection.execute(query).scalar_one())
        return {key: Measurement.from_json(found) for key, found in result["measured"].items()}

    def model_bytes(self, device: str, sha256: str) -> int | None:
        """The size of a model that a task names which this machine has in hand; None for any other model."""
        query = select(tasks.c.payload).where(tasks.c.device == device, tasks.c.state == "RUNNING")
        payloads = self._db.read(lambda connection: connection.execute(query).scalars().all())
        graphs = (graph for payload in payloads for graph in payload["graphs"])
        return next((int(graph["size_bytes"]) for graph in graphs if graph["sha256"] == sha256), None)

    def _keys(self, device: str, task_id: str) -> list[str]:
        """The keys of a task's graphs; `NotFound` for a task of another machine."""
        query = select(tasks.c.payload).where(tasks.c.id == task_id, tasks.c.device == device)
        payload = self._db.read(lambda connection: connection.execute(query).scalar_one_or_none())
        if payload is None:
            raise NotFound(f"there is no task {task_id[:80]!r}")
        return [graph["key"] for graph in payload["graphs"]]

    def _covering(self, connection: Connection, job_id: str, wanted: Wanted) -> str | None:
        """A task of the job that measures all of this, or has."""
        query = select(tasks.c.id, tasks.c.payload).where(tasks.c.job_id == job_id, tasks.c.device == wanted.agent)
        for row in connection.execute(query.order_by(tasks.c.id.desc())):
            if Wanted.from_json(wanted.agent, row.payload).covers(wanted):
                return str(row.id)
        return None

    def _revive(self, connection: Connection, task_id: str) -> bool:
        """Put a task that ended for no fault of its graphs into the queue again; whether it was one."""
        row = connection.execute(select(tasks.c.state, tasks.c.error).where(tasks.c.id == task_id)).one()
        if row.state != "CANCELLED" and not (row.state == "FAILED" and row.error["fault"] == INFRASTRUCTURE):
            return False
        again = {"state": "QUEUED", "attempts": 0, "error": None, "finished_s": None, "lease_expires_s": None}
        connection.execute(update(tasks).where(tasks.c.id == task_id).values(again))
        return True

    def _next(self, connection: Connection, device: str, poll: str) -> Row[Any] | None:
        """Give out the oldest task of those that wait or whose lease ran out; those given out in vain too often fail."""
        waiting = select(tasks.c.id, tasks.c.epoch, tasks.c.attempts).where(tasks.c.device == device, _to_give_out())
        for row in connection.execute(waiting.order_by(tasks.c.id)).all():
            if row.attempts >= ATTEMPTS:
                why = f"the machine began {ATTEMPTS} times and came to no round"
                _end(connection, row.id, {"state": "FAILED", "error": error_json(INFRASTRUCTURE, why)})
                continue
            return _given_out(connection, row.id, row.epoch, poll)
        return None

    def _running(self, connection: Connection, device: str, task_id: str, epoch: int) -> Row[Any] | None:
        """The locked row of a task that the machine has in hand under this epoch; None if its job has ended, which ends it."""
        row = _locked(connection, device, task_id)
        if row.state != "RUNNING":
            raise TaskLost(f"it is {row.state}")
        if row.epoch != epoch:
            raise TaskLost(f"it was given out again, as epoch {row.epoch}")
        self._cancel_with_jobs(connection, device)
        state = connection.execute(select(tasks.c.state).where(tasks.c.id == task_id)).scalar_one()
        return row if state == "RUNNING" else None

    def _cancel_with_jobs(self, connection: Connection, device: str) -> None:
        """End the tasks of a machine whose jobs have ended or are to end."""
        over = select(jobs.c.id).where(or_(jobs.c.finished_s.is_not(None), jobs.c.state == "CANCELLING"))
        mine = tasks.c.device == device, tasks.c.state.in_(OPEN), tasks.c.job_id.in_(over)
        connection.execute(update(tasks).where(*mine).values(state="CANCELLED", finished_s=clock()))

    def _task(self, row: Row[Any]) -> Task:
        """What its machine is told of a task."""
        wanted = Wanted.from_json(row.device, row.payload)
        found = self._db.read(lambda connection: connection.execute(_rounds_of(row.id, (0, 0))).all())
        known: dict[str, Measurement] = {}
        for each in found:
            if each.epoch < row.epoch:
                known.update(joined(known, each.data["measured"]))
        return Task(
            row.id, row.epoch, wanted.device, wanted.settings, wanted.fingerprint, wanted.graphs, known, wanted.needs
        )


def end_all(connection: Connection, device: str, why: str) -> None:
    """Fail the open tasks of a machine that is removed."""
    mine = tasks.c.device == device, tasks.c.state.in_(OPEN)
    values = {"state": "FAILED", "finished_s": clock(), "error": error_json("user", why)}
    connection.execute(update(tasks).where(*mine).values(values))


def check_held(connection: Connection, lease: Lease) -> None:
    """The fence of `leases.held` without its lock, for transactions that only read. Raises `LeaseLost`."""
    columns = jobs.c.state, jobs.c.epoch, jobs.c.lease_expires_s, clock().label("now_s")
    row = connection.execute(select(*columns).where(jobs.c.id == lease.job_id)).one()
    if row.epoch != lease.epoch or row.state not in HELD or row.lease_expires_s <= row.now_s:
        raise lost(lease, row)


def _to_give_out() -> ColumnElement[bool]:
    over = and_(tasks.c.state == "RUNNING", tasks.c.lease_expires_s <= clock())
    return or_(tasks.c.state == "QUEUED", over)


def _locked(connection: Connection, device: str, task_id: str) -> Row[Any]:
    """A machine's task as it stays until the transaction ends. The machine's own row first, as everywhere: no deadlock."""
    _seen(connection, device)
    wanted = select(tasks).where(tasks.c.id == task_id, tasks.c.device == device).with_for_update(key_share=True)
    return connection.execute(wanted).one()


def _given_out(connection: Connection, task_id: str, epoch: int, poll: str) -> Row[Any]:
    """The row of a task under its next epoch, which is given to this request."""
    values = {
        "state": "RUNNING",
        "epoch": epoch + 1,
        "attempts": tasks.c.attempts + 1,
        "started_s": func.coalesce(tasks.c.started_s, clock()),
    }
    connection.execute(update(tasks).where(tasks.c.id == task_id).values(values))
    _add_round(connection, task_id, epoch + 1, _claim(poll))
    return _renewed(connection, task_id)


def _renewed(connection: Connection, task_id: str) -> Row[Any]:
    """The row as it is now, with a new lease."""
    connection.execute(update(tasks).where(tasks.c.id == task_id).values(lease_expires_s=clock() + LEASE_S))
    return connection.execute(select(tasks).where(tasks.c.id == task_id)).one()


def _claim(poll: str) -> Json:
    """The first row of every epoch: the request that it was given to."""
    return {"n": 0, "poll": poll}


def _note(connection: Connection, device: str, task_id: str, settings: Json, measured: Json) -> None:
    """Add to the history of the machine how fast the canary was, and what inferences took where that was counted."""
    known = connection.execute(select(devices.c.canary).where(devices.c.name == device)).scalar_one() or {}
    energies = [each["energy"] for each in measured.values() if each["energy"] is not None]
    found = {
        "at_s": connection.execute(select(clock())).scalar_one(),
        "task": task_id,
        "settings": Device.from_json(settings).id,
        "reference_us": median(each["reference_us"] for each in measured.values()),
        **{name: median(each[name] for each in energies) for name in ("joules", "watts") if energies},
    }
    joules = known.get("joules", 0.0) + sum(each["joules"] * each["runs"] for each in energies)
    noted = {"history": [*known.get("history", []), found][-CANARIES:], "joules": joules}
    connection.execute(update(devices).where(devices.c.name == device).values(canary=noted))


def _enrolled(connection: Connection, name: str) -> None:
    query = select(devices.c.name).where(devices.c.name == name, devices.c.revoked_s.is_(None))
    if connection.execute(query).first() is None:
        raise NotFound(f"no machine {name!r} is enrolled; see `nas devices list --server URL`")


def _seen(connection: Connection, device: str) -> None:
    connection.execute(update(devices).where(devices.c.name == device).values(seen_s=clock()))


def _end(connection: Connection, task_id: str, values: Mapping[str, Json]) -> None:
    connection.execute(update(tasks).where(tasks.c.id == task_id).values(**values, finished_s=clock()))


def _last(connection: Connection, task_id: str, epoch: int) -> int:
    query = select(func.max(rounds.c.n)).where(rounds.c.task_id == task_id, rounds.c.epoch == epoch)
    return int(connection.execute(query).scalar_one() or 0)


def _add_round(connection: Connection, task_id: str, epoch: int, document: Json) -> None:
    values = {"task_id": task_id, "epoch": epoch, "n": document["n"], "data": document, "created_s": clock()}
    connection.execute(insert(connection, rounds).values(values).on_conflict_do_nothing())


def _rounds_of(task_id: str, after: tuple[int, int]) -> Any:
    """Rounds after this place, in order; not the rows that say who was given an epoch."""
    epoch, n = after
    later = or_(rounds.c.epoch > epoch, and_(rounds.c.epoch == epoch, rounds.c.n > n))
    return select(rounds).where(rounds.c.task_id == task_id, rounds.c.n > 0, later).order_by(rounds.c.epoch, rounds.c.n)
