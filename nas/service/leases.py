"""Leases: who may write for a job. Whoever writes without holding one writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, bindparam, select

from nas.database import clock
from nas.service.errors import LeaseLost, NotFound
from nas.service.schema import jobs

HELD = ("RUNNING", "CANCELLING")

# What transactions about leases look at; not the spec and the result, which may be long. Built once: putting together a
# statement of so many columns takes longer than running it.
_LOCKED = select(
    jobs.c.id,
    jobs.c.owner,
    jobs.c.state,
    jobs.c.epoch,
    jobs.c.worker,
    jobs.c.lease_expires_s,
    jobs.c.faults,
    jobs.c.memory_faults,
    jobs.c.last_seq,
    jobs.c.logs,
    jobs.c.progress,
    jobs.c.stages,
    clock().label("now_s"),
)
# A weaker lock than FOR UPDATE: rows that refer to the job can be added meanwhile. SQLite has locked everything.
_LOCKED = _LOCKED.where(jobs.c.id == bindparam("job_id")).with_for_update(key_share=True)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write for a job; `epoch` grows with each claim, so that no two leases of a job are equal."""

    job_id: str
    epoch: int
    worker: str


def locked(connection: Connection, job_id: str) -> Row[Any]:
    """A job's row, as it stays until the transaction ends, with the clock as `now_s`. Raises `NotFound`."""
    row: Row[*tuple[Any, ...]] | None = connection.execute(_LOCKED, {"job_id": job_id}).one_or_none()
    if row is None:
        raise NotFound(f"{job_id}: there is no such job")
    return row


def held(connection: Connection, lease: Lease) -> Row[Any]:
    """The locked row of the job, if the lease is still good. Raises `LeaseLost`.

    That nobody else writes is due to the epoch and the lock; the time only says from when on another one may claim it.
    """
    row = locked(connection, lease.job_id)
    if row.epoch != lease.epoch or row.state not in HELD or row.lease_expires_s <= row.now_s:
        raise lost(lease, row)
    return row


def lost(lease: Lease, row: Row[Any]) -> LeaseLost:
    late = row.epoch == lease.epoch and row.state in HELD
    why = "it ran out" if late else f"the job is {row.state} at epoch {row.epoch}"
    return LeaseLost(f"{lease.job_id}: {lease.worker} does not hold it any more at epoch {lease.epoch}: {why}")
