"""What happened to jobs, in order: a log that is only ever appended to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select, update

from nas.database import Database, clock
from nas.service.leases import Lease, held
from nas.service.schema import events, jobs

# Of one job; what is more is in the log among its files. 5,000 lines of 100 characters are 1 MB in the database.
MOST_LOGS = 5000
_REST = {
    "level": "warning",
    "text": f"only {MOST_LOGS:,} log lines are kept here; all of them are in the log among the files",
}


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to a job; `seq` counts from 1 without a gap. Kinds are an open set."""

    job_id: str
    seq: int
    at_s: float
    kind: str
    data: Mapping[str, Any]


class EventLog:
    """The events of all jobs."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def append(self, lease: Lease, news: Sequence[tuple[str, Mapping[str, Any]]], n: int) -> None:
        """Add (kind, data) pairs on behalf of a job's holder. Raises `LeaseLost`.

        The holder numbers its events from 0, in each epoch anew; `n` is the number of the first. What has been
        said under its number already is left out, so that a batch can be sent again.
        """

        def work(connection: Connection) -> None:
            row = held(connection, lease)
            said = select(events.c.n).where(
                events.c.job_id == lease.job_id, events.c.epoch == lease.epoch, events.c.n.between(n, n + len(news) - 1)
            )
            known = set(connection.execute(said).scalars())
            fresh = [(n + i, kind, data) for i, (kind, data) in enumerate(news) if n + i not in known]
            kept, logs = _within_cap(fresh, row.logs)
            if kept:
                add(connection, lease.job_id, lease.epoch, kept, {"logs": logs})

        if news:
            self._db.write(work)

    def since(self, job_id: str, seq: int, limit: int = 500) -> list[Event]:
        """The events of a job after number `seq`, oldest first."""
        wanted = select(events.c.job_id, events.c.seq, events.c.at_s, events.c.kind, events.c.data)
        wanted = wanted.where(events.c.job_id == job_id, events.c.seq > seq).order_by(events.c.seq).limit(limit)
        return self._db.read(lambda connection: [Event(*row) for row in connection.execute(wanted)])

    def latest(self, job_ids: Sequence[str]) -> dict[str, int]:
        """The number of each job's last event; a job that is not there is left out."""
        wanted = select(jobs.c.id, jobs.c.last_seq).where(jobs.c.id.in_(job_ids))
        return self._db.read(lambda connection: {row.id: row.last_seq for row in connection.execute(wanted)})


def add(
    connection: Connection,
    job_id: str,
    epoch: int,
    news: Sequence[tuple[int | None, str, Mapping[str, Any]]],
    columns: Mapping[str, Any],
) -> None:
    """Append (n, kind, data) to the events of a job whose row is locked, and set columns of the row in the same step."""
    moved = update(jobs).where(jobs.c.id == job_id).values(**columns, last_seq=jobs.c.last_seq + len(news))
    last = connection.execute(moved.returning(jobs.c.last_seq)).scalar_one()
    first = last - len(news) + 1
    rows = [
        {"job_id": job_id, "seq": first + i, "kind": kind, "data": dict(data), "epoch": epoch, "n": n}
        for i, (n, kind, data) in enumerate(news)
    ]
    connection.execute(events.insert().values(at_s=clock()), rows)


def _within_cap(
    fresh: Sequence[tuple[int, str, Mapping[str, Any]]], logs: int
) -> tuple[list[tuple[int, str, Mapping[str, Any]]], int]:
    """What is kept of new events where so many log lines were kept before, and how many there are then."""
    kept = []
    for n, kind, data in fresh:
        if kind == "log":
            logs += 1
            if logs > MOST_LOGS + 1:
                continue
            data = data if logs <= MOST_LOGS else _REST
        kept.append((n, kind, data))
    return kept, min(logs, MOST_LOGS + 1)
