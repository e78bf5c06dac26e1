"""From hand to hand: how a job is claimed and given back, and what becomes of it when its holder is lost.

The functions work within a transaction of the job store.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, bindparam, func, select

from nas.database import clock
from nas.service import events
from nas.service.leases import HELD, Lease, held, locked
from nas.service.schema import OPEN, jobs, users

WAITING = ("QUEUED", "RETRY_WAIT")
TERMINAL = ("SUCCEEDED", "FAILED", "CANCELLED")
# Faults that are not the job's own -> the column that counts them, and after how many in a row it is tried again.
FAULTS = {"infrastructure": ("faults", 3), "memory": ("memory_faults", 1)}
# The order of work: what is more urgent, then what is older.
ORDER = (jobs.c.priority.desc(), jobs.c.created_s, jobs.c.id)
# The first job that may run now and is not of an owner who has no room; passing over what others are claiming. It does not ask
# for a state: SQLite would look all jobs of that state up and sort them, 30 ms for 10,000, in place of following the order.
_NEXT = (
    select(jobs.c.id, jobs.c.owner, jobs.c.epoch)
    .where(OPEN, jobs.c.owner.not_in(bindparam("full", expanding=True)))
    .where(jobs.c.lease_expires_s.is_(None), func.coalesce(jobs.c.not_before_s, 0) <= clock())
    .order_by(*ORDER)
    .limit(1)
    .with_for_update(key_share=True, skip_locked=True)
)
_CLAIMED = select(jobs.c.id).where(OPEN, jobs.c.claim == bindparam("mark"), jobs.c.state.in_(HELD))


def claim(connection: Connection, worker: str, lease_s: float, mark: str) -> str | None:
    """Lease the next job to the worker, and give its id; the same again where `mark` has claimed one already."""
    mine = connection.execute(_CLAIMED, {"mark": mark}).scalar()
    if mine is not None:
        return str(mine)
    lapse(connection, jobs.c.lease_expires_s <= clock(), wait=False)
    full: list[str] = []
    while True:
        found: Row[*tuple[Any, ...]] | None = connection.execute(_NEXT, {"full": full}).one_or_none()
        if found is None:
            return None
        if _has_room(connection, found.owner):
            break
        full.append(found.owner)
    change(
        connection,
        found,
        "RUNNING",
        epoch=found.epoch + 1,
        worker=worker,
        claim=mark,
        lease_expires_s=clock() + lease_s,
        started_s=func.coalesce(jobs.c.started_s, clock()),
        not_before_s=None,
        error=None,
    )
    return str(found.id)


def _has_room(connection: Connection, owner: str) -> bool:
    """Whether the owner may have one more job running; the row is locked, so that two claims cannot both find the last room."""
    limit = select(users.c.max_running).where(users.c.id == owner).with_for_update(key_share=True)
    running = select(func.count()).where(OPEN, jobs.c.owner == owner, jobs.c.state.in_(HELD))
    return bool(connection.execute(limit).scalar_one() > connection.execute(running).scalar_one())


def lapse(connection: Connection, which: ColumnElement[bool], *, wait: bool) -> int:
    """Take jobs whose holders are lost back, and count a fault of each; how many. `wait`: also for those that are locked."""
    wanted = select(jobs.c.id).where(OPEN, jobs.c.state.in_(HELD), which)
    found = connection.execute(wanted.with_for_update(key_share=True, skip_locked=not wait)).scalars().all()
    for job_id in found:
        row = locked(connection, job_id)
        error = {"kind": "infrastructure", "message": f"worker {row.worker} was lost while it ran this"}
        # Without a worker: a holder that was only slow must not take this for its own doing.
        _fault(connection, row, "infrastructure", error, at_once=True, worker=None)
    return len(found)


def retry(connection: Connection, lease: Lease, fault: str, error: Mapping[str, Any]) -> None:
    """Put a job back after a fault, or end it where that was one too many."""
    row = locked(connection, lease.job_id)
    if not settled(row, lease, "RETRY_WAIT", "FAILED", "CANCELLED"):
        _fault(connection, held(connection, lease), fault, error, at_once=False)


def give_back(connection: Connection, lease: Lease, reason: str) -> None:
    """Put a job back that nothing is wrong with."""
    row = locked(connection, lease.job_id)
    if settled(row, lease, "QUEUED", "CANCELLED"):
        return
    row = held(connection, lease)
    change(connection, row, "CANCELLED" if row.state == "CANCELLING" else "QUEUED", reason=reason)


def settled(row: Row[Any], lease: Lease, *states: str) -> bool:
    """Whether this lease has ended so already: the transaction is repeated whose commit's answer was lost."""
    return row.epoch == lease.epoch and row.worker == lease.worker and row.state in states


def change(connection: Connection, row: Row[Any], state: str, *, reason: str = "", **values: Any) -> None:
    """Move a job whose row is locked to another state, and say so in an event."""
    if state in TERMINAL:
        values["finished_s"] = clock()
    if state not in HELD:
        values["lease_expires_s"] = None
    said = {"state": state, "reason": reason} if reason else {"state": state}
    epoch = values.get("epoch", row.epoch)
    events.add(connection, row.id, epoch, [(None, "state", said)], {**values, "state": state})


def _fault(
    connection: Connection, row: Row[Any], fault: str, error: Mapping[str, Any], *, at_once: bool, **values: Any
) -> None:
    """What becomes of a job after a fault that is not its own; `at_once`: the first one needs no pause."""
    message = str(error["message"])
    if row.state == "CANCELLING":
        return change(connection, row, "CANCELLED", reason=message, **values)
    column, most = FAULTS[fault]
    count = getattr(row, column) + 1
    values[column] = count
    if count > most:
        message = f"{message} (fault {count} in a row; it is not tried again)"
        return change(connection, row, "FAILED", reason=message, error={**error, "message": message}, **values)
    pause_s = 0 if at_once and count == 1 else 4 ** (count - 1)
    values["not_before_s"] = clock() + pause_s
    return change(connection, row, "RETRY_WAIT", reason=message, error=dict(error), **values)
