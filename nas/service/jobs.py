"""Jobs: submitted by their owners, claimed by workers under a lease, ended once and for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Connection, bindparam, func, or_, select, tuple_, update

from nas.database import Database, clock, insert
from nas.service import claims
from nas.service.claims import ORDER, TERMINAL, WAITING
from nas.service.errors import Conflict, LimitReached, NotFound, ServiceError
from nas.service.events import add
from nas.service.leases import HELD, Lease, held, locked, lost
from nas.service.schema import OPEN, jobs, new_id, users, workers

KINDS = ("train", "profile", "search", "export", "run")
ACTIVE = (*WAITING, *HELD)
STATES = (*ACTIVE, *TERMINAL)
MOST_PRIORITY = 100
PROGRESS_S = 1.0


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stood when it was read; times are the database's epoch seconds.

    `epoch` counts its claims, `faults` the infrastructure faults since its last durable progress. `worker` is who holds it, or
    held it last. `progress` is {stage, done, total, text, at_s}, `stages` a list of {stage, seconds}, `error` {kind, message}.
    """

    id: str
    owner: str
    name: str
    kind: str
    spec: Mapping[str, Any]
    priority: int
    state: str
    epoch: int
    worker: str | None
    lease_expires_s: float | None
    cancel_s: float | None
    not_before_s: float | None
    faults: int
    memory_faults: int
    parent: str | None
    key: str | None
    key_digest: str | None
    created_s: float
    started_s: float | None
    finished_s: float | None
    last_seq: int
    progress: Mapping[str, Any] | None
    stages: Sequence[Mapping[str, Any]] | None
    error: Mapping[str, Any] | None
    result: Mapping[str, Any] | None

    @property
    def ended(self) -> bool:
        return self.state in TERMINAL


@dataclass(frozen=True, slots=True)
class Submission:
    """A job to be: its `id` is made before it is submitted, so that it can be submitted again after a lost answer.

    `key` is the owner's own name for this submission, `key_digest` the digest of what was asked for under it. `parent` is the
    job whose files it begins with. `priority` is -100 to 100; the higher is run first.
    """

    id: str
    owner: str
    name: str
    kind: str
    spec: Mapping[str, Any]
    priority: int = 0
    parent: str | None = None
    key: str | None = None
    key_digest: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ServiceError(f"a job's kind is one of {', '.join(KINDS)}, not {self.kind}")
        if not -MOST_PRIORITY <= self.priority <= MOST_PRIORITY:
            raise ServiceError(f"a job's priority is -{MOST_PRIORITY} to {MOST_PRIORITY}, not {self.priority}")
        if (self.key is None) != (self.key_digest is None):
            raise ValueError("a key and its digest come together")


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that runs jobs."""

    id: str
    host: str
    pid: int
    started_s: float
    seen_s: float
    stopped_s: float | None


# Built once: putting together a statement of so many columns takes longer than running it.
_JOBS = select(*(jobs.c[each.name] for each in fields(Job)))
_ONE = _JOBS.where(jobs.c.id == bindparam("job_id"))
# How many wait with one that does, up to its own place.
_this, _other = jobs.alias(), jobs.alias()
_PLACE = (
    select(func.count(_other.c.id))
    .where(_this.c.id == bindparam("job_id"), *(each.c.finished_s.is_(None) for each in (_this, _other)))
    .where(*(each.c.state.in_(WAITING) for each in (_this, _other)))
    .where(
        tuple_(-_other.c.priority, _other.c.created_s, _other.c.id)
        <= tuple_(-_this.c.priority, _this.c.created_s, _this.c.id)
    )
)


class JobStore:
    """The jobs of the service.

    Work is claimed by priority, then by age. An owner has no more jobs running than `max_running`; the rest of them let others
    pass. Methods that take a lease raise `LeaseLost` where it is not good any more, and write nothing then.
    Every change of state is an event.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    def submit(self, submission: Submission) -> tuple[Job, bool]:
        """Record a job, and whether this submission made it: an earlier one of the same owner under the same key did too.

        Raises `Conflict` where that one asked for something else, `LimitReached` where too many of the owner's have
        not ended, and `NotFound` where the owner or the parent is none, or the parent belongs to another.
        """
        return self._db.write(lambda connection: _submit(connection, submission))

    def get(self, job_id: str, owner: str | None = None) -> Job:
        """One job; with an owner, only if it is theirs. Raises `NotFound`."""
        return self._db.read(lambda connection: _get(connection, job_id, owner))

    def page(
        self,
        owner: str | None = None,
        states: Sequence[str] = (),
        kinds: Sequence[str] = (),
        before: str | None = None,
        limit: int = 50,
    ) -> list[Job]:
        """Jobs, newest first: the first so many whose id is smaller than `before`."""
        wanted = _JOBS.order_by(jobs.c.id.desc()).limit(limit)
        if owner is not None:
            wanted = wanted.where(jobs.c.owner == owner)
        if states:
            wanted = wanted.where(jobs.c.state.in_(states))
        if kinds:
            wanted = wanted.where(jobs.c.kind.in_(kinds))
        if before is not None:
            wanted = wanted.where(jobs.c.id < before)
        return self._db.read(lambda connection: [Job(*row) for row in connection.execute(wanted)])

    def position(self, job_id: str) -> int | None:
        """How many jobs that wait come before this one, and itself: 1 is next. None: it does not wait."""
        return self._db.read(lambda connection: connection.execute(_PLACE, {"job_id": job_id}).scalar_one()) or None

    def positions(self, job_ids: Sequence[str]) -> dict[str, int]:
        """The positions of those that wait of these."""
        place = func.row_number().over(order_by=ORDER).label("place")
        queue = select(jobs.c.id, place).where(OPEN, jobs.c.state.in_(WAITING)).subquery()
        wanted = select(queue).where(queue.c.id.in_(job_ids))
        return self._db.read(lambda connection: {row.id: row.place for row in connection.execute(wanted)})

    def cancel(self, job_id: str, owner: str | None = None) -> Job:
        """End a job that waits, tell the holder of one that runs, leave one that has ended. Raises `NotFound`."""

        def work(connection: Connection) -> Job:
            row = locked(connection, job_id)
            if owner is not None and row.owner != owner:
                raise NotFound(f"{job_id}: there is no such job")
            if row.state in WAITING:
                claims.change(connection, row, "CANCELLED", cancel_s=clock(), worker=None)
            elif row.state == "RUNNING":
                claims.change(connection, row, "CANCELLING", cancel_s=clock())
            return _get(connection, job_id)

        return self._db.write(work)

    def claim(self, worker: str, lease_s: float) -> tuple[Job, Lease] | None:
        """Take the next job, or none. Jobs whose lease ran out go back to the queue first, those to be cancelled end."""
        mark = new_id("c")

        def work(connection: Connection) -> tuple[Job, Lease] | None:
            job_id = claims.claim(connection, worker, lease_s, mark)
            if job_id is None:
                return None
            job = _get(connection, job_id)
            return job, Lease(job.id, job.epoch, worker)

        return self._db.write(work)

    def renew(self, lease: Lease, lease_s: float) -> bool:
        """Hold it for so long from now on. Whether it is to be cancelled."""

        def work(connection: Connection) -> bool:
            good = (jobs.c.id == lease.job_id, jobs.c.epoch == lease.epoch, jobs.c.state.in_(HELD))
            renewed = update(jobs).where(*good, jobs.c.lease_expires_s > clock())
            renewed = renewed.values(lease_expires_s=clock() + lease_s).returning(jobs.c.state)
            state = connection.execute(renewed).scalar_one_or_none()
            if state is None:
                raise lost(lease, locked(connection, lease.job_id))
            return bool(state == "CANCELLING")

        return self._db.write(work)

    def check(self, connection: Connection, lease: Lease) -> None:
        """The fence: what the transaction writes for the job counts only if the lease is good, and stays so until it ends."""
        held(connection, lease)

    def progress(self, lease: Lease, stage: str, done: int, total: int, text: str = "") -> None:
        """How far a stage is; at most once a second, but for its beginning and its end."""

        def work(connection: Connection) -> None:
            row = held(connection, lease)
            said = {"stage": stage, "done": done, "total": total, "text": text}
            last = row.progress or {}
            if said.items() <= last.items():
                return
            # Not only `<`: a clock that was set back would silence it.
            if last.get("stage") == stage and done < total and 0 <= row.now_s - last["at_s"] < PROGRESS_S:
                return
            now = {**said, "at_s": row.now_s}
            add(connection, lease.job_id, lease.epoch, [(None, "progress", said)], {"progress": now})

        self._db.write(work)

    def stage(self, lease: Lease, name: str, seconds: float) -> None:
        """A stage has finished, and what it made is safe: faults before it do not count any more."""

        def work(connection: Connection) -> None:
            row = held(connection, lease)
            done = {"stage": name, "seconds": seconds}
            before = row.stages or []
            if done in before:
                return
            stages = [*(each for each in before if each["stage"] != name), done]
            said = {"stage": name, "state": "finished", "seconds": seconds}
            add(connection, lease.job_id, lease.epoch, [(None, "stage", said)], {"stages": stages, "faults": 0})

        self._db.write(work)

    def advanced(self, lease: Lease) -> None:
        """Something within a stage is safe that a worker who goes on need not do again: faults so far do not count any more."""

        def work(connection: Connection) -> None:
            if held(connection, lease).faults:
                connection.execute(update(jobs).where(jobs.c.id == lease.job_id).values(faults=0))

        self._db.write(work)

    def finish(
        self,
        lease: Lease,
        state: str,
        result: Mapping[str, Any] | None = None,
        error: Mapping[str, Any] | None = None,
    ) -> None:
        """End a job. `error` is {kind, message, ...}."""
        if state not in TERMINAL:
            raise ValueError(f"a job ends as one of {', '.join(TERMINAL)}, not {state}")

        def work(connection: Connection) -> None:
            if claims.settled(locked(connection, lease.job_id), lease, state):
                return
            row = held(connection, lease)
            if state == "CANCELLED" and row.state != "CANCELLING":
                raise Conflict(f"{lease.job_id}: nobody has cancelled it")
            reason = "" if error is None else str(error.get("message", ""))
            claims.change(connection, row, state, reason=reason, result=result, error=error)

        self._db.write(work)

    def retry(self, lease: Lease, fault: str, error: Mapping[str, Any]) -> Job:
        """Give a job back after a fault that is not its own, `infrastructure` or `memory`; `error` is {kind, message, ...}.

        It waits 1, 4 and 16 s before it is tried again; after too many faults in a row it has failed.
        """

        def work(connection: Connection) -> Job:
            claims.retry(connection, lease, fault, error)
            return _get(connection, lease.job_id)

        return self._db.write(work)

    def give_back(self, lease: Lease, reason: str = "its worker shuts down") -> None:
        """Give a job back that nothing is wrong with."""
        self._db.write(lambda connection: claims.give_back(connection, lease, reason))

    def release(self, worker: str) -> int:
        """The leases of a worker that is known to be dead end now; how many there were."""
        return self._db.write(lambda connection: claims.lapse(connection, jobs.c.worker == worker, wait=True))

    def beat(self, worker: str, host: str, pid: int) -> None:
        """A worker is there; to be said every few seconds."""

        def work(connection: Connection) -> None:
            row = {"id": worker, "host": host, "pid": pid, "started_s": clock(), "seen_s": clock()}
            seen = {"seen_s": clock(), "stopped_s": None}
            connection.execute(
                insert(connection, workers).values(row).on_conflict_do_update(index_elements=["id"], set_=seen)
            )

        self._db.write(work)

    def gone(self, worker: str) -> None:
        """A worker has stopped, or is known to be dead."""
        stopped = update(workers).where(workers.c.id == worker, workers.c.stopped_s.is_(None)).values(stopped_s=clock())
        self._db.write(lambda connection: connection.execute(stopped))

    def alive(self, within_s: float) -> list[Worker]:
        """The workers that were there so lately and have not stopped, by id."""
        wanted = select(workers).where(workers.c.stopped_s.is_(None), workers.c.seen_s > clock() - within_s)
        return self._db.read(
            lambda connection: [Worker(*row) for row in connection.execute(wanted.order_by(workers.c.id))]
        )


def _get(connection: Connection, job_id: str, owner: str | None = None) -> Job:
    row = connection.execute(_ONE, {"job_id": job_id}).one_or_none()
    if row is None or owner not in (None, row.owner):
        raise NotFound(f"{job_id}: there is no such job")
    return Job(*row)


def _submit(connection: Connection, asked: Submission) -> tuple[Job, bool]:
    # The owner's row is locked first: of two submissions under one key, the second finds the first.
    owner = connection.execute(
        select(users).where(users.c.id == asked.owner).with_for_update(key_share=True)
    ).one_or_none()
    if owner is None:
        raise NotFound(f"{asked.owner}: there is no such user")
    earlier = _earlier(connection, asked)
    if earlier is not None:
        return earlier, earlier.id == asked.id
    if asked.parent is not None:
        _get(connection, asked.parent, None if owner.admin else asked.owner)
    of_owner = select(func.count()).where(OPEN, jobs.c.owner == asked.owner, jobs.c.state.in_(ACTIVE))
    count = connection.execute(of_owner).scalar_one()
    if count >= owner.max_queued:
        raise LimitReached(
            f"{owner.name} has {count} jobs that have not ended, and may have {owner.max_queued}; wait or cancel some"
        )
    row = {each.name: getattr(asked, each.name) for each in fields(Submission)}
    counters = {"epoch": 0, "faults": 0, "memory_faults": 0, "last_seq": 0, "logs": 0}
    connection.execute(jobs.insert().values(**row, **counters, state="QUEUED", created_s=clock()))
    add(connection, asked.id, 0, [(None, "state", {"state": "QUEUED"})], {})
    return _get(connection, asked.id), True


def _earlier(connection: Connection, asked: Submission) -> Job | None:
    """The job that this submission made before, or another one under the same key."""
    same = jobs.c.id == asked.id
    if asked.key is not None:
        same = or_(same, jobs.c.key == asked.key)
    row = connection.execute(_JOBS.where(jobs.c.owner == asked.owner, same)).first()
    if row is not None and row.key_digest != asked.key_digest:
        raise Conflict(f"the key {asked.key} was used for another job, {row.id}; use a new key for a new job")
    return None if row is None else Job(*row)
