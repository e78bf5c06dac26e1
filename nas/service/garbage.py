"""Removing what nothing needs any more, while others are put and named: files, and what machines measured for ended jobs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

from sqlalchemy import ColumnElement, Connection, Text, case, delete, exists, func, select, type_coerce, update

from nas.database import Database, clock, insert
from nas.service.blobs import Blob, Blobs
from nas.service.schema import artefacts, blobs, jobs, rounds, tasks, uploads
from nas.service.tasks import OPEN

HOUR_S = 3600.0
_ROWS_AT_ONCE = 500
# Each may have thousands of rounds, and a writer of SQLite keeps all others waiting.
_TASKS_AT_ONCE = 20
_EMPTY: Mapping[str, Sequence[str]] = {"graphs": []}
_DIGESTS = re.compile(r"\b[0-9a-f]{64}\b")
_UNNAMED: ColumnElement[bool] = ~exists().where(artefacts.c.sha256 == blobs.c.sha256) & ~exists().where(
    uploads.c.sha256 == blobs.c.sha256
)


@dataclass(frozen=True, slots=True)
class Collected:
    """What was removed."""

    files: int
    bytes: int


def collect(db: Database, store: Blobs, grace_s: float) -> Collected:
    """Remove blobs that no artefact, upload or task has named for so long, and what was left of puts that were killed; before
    that, what tasks hold whose jobs have ended so long ago.

    Safe beside everything else, at any time and in several processes; when it is killed, the next one goes on.
    """
    while db.write(partial(_emptied, grace_s=grace_s)):
        pass
    _adopt(db, store)
    files = size = 0
    before_s, found = db.read(lambda connection: _unnamed(connection, grace_s))
    for blob in found:
        if _removed(db, store, blob, before_s):
            files += 1
            size += blob.bytes
    # What is on its way is written to all the time.
    return Collected(files, size + store.sweep(max(grace_s, HOUR_S)))


def named_by_tasks(connection: Connection) -> set[str]:
    """The digests in what agents are still asked to measure: a task that is asked for again names its models anew."""
    wanted = select(type_coerce(tasks.c.payload, Text)).where(tasks.c.finished_s.is_(None))
    return {sha256 for text in connection.execute(wanted).scalars() for sha256 in _DIGESTS.findall(text)}


def _emptied(connection: Connection, grace_s: float) -> int:
    """Empty some tasks of jobs that ended so long ago; how many.

    What they measured is in the artefacts of their jobs. A row stays, without graphs, result and rounds: it says which machine
    measured for which job, and to whom comes late that the task has ended. One that its machine never took ends.
    """
    old = (
        select(tasks.c.id)
        .join(jobs, jobs.c.id == tasks.c.job_id)
        .where(jobs.c.finished_s < clock() - grace_s, tasks.c.payload != _EMPTY)
        .limit(_TASKS_AT_ONCE)
        .with_for_update(of=tasks, skip_locked=True)
    )
    found = connection.execute(old).scalars().all()
    values = {
        "payload": _EMPTY,
        "result": None,
        "state": case((tasks.c.state.in_(OPEN), "CANCELLED"), else_=tasks.c.state),
        "finished_s": func.coalesce(tasks.c.finished_s, clock()),
    }
    connection.execute(delete(rounds).where(rounds.c.task_id.in_(found)))
    connection.execute(update(tasks).where(tasks.c.id.in_(found)).values(values))
    return len(found)


def _adopt(db: Database, store: Blobs) -> None:
    """Give blobs that were put and never named a row, from which on they count as old."""
    there = store.walk()
    # A store may hold more than there is memory for.
    while some := list(islice(there, _ROWS_AT_ONCE)):
        known = db.read(partial(_known, found=some))
        if strangers := [blob for blob in some if blob.sha256 not in known]:
            db.write(partial(_add_rows, found=strangers))


def _known(connection: Connection, found: Iterable[Blob]) -> set[str]:
    rows = select(blobs.c.sha256).where(blobs.c.sha256.in_([blob.sha256 for blob in found]))
    return set(connection.execute(rows).scalars())


def _add_rows(connection: Connection, found: Iterable[Blob]) -> None:
    for blob in found:
        row = {"sha256": blob.sha256, "bytes": blob.bytes, "created_s": clock(), "touched_s": clock()}
        connection.execute(insert(connection, blobs).values(row).on_conflict_do_nothing())


def _unnamed(connection: Connection, grace_s: float) -> tuple[float, list[Blob]]:
    """What nothing names and nobody has touched since the moment that stands first."""
    before_s = connection.execute(select(clock())).scalar_one() - grace_s
    old = select(blobs.c.sha256, blobs.c.bytes).where(blobs.c.touched_s < before_s, _UNNAMED)
    rows = connection.execute(old.order_by(blobs.c.sha256)).all()
    named = named_by_tasks(connection) if rows else set()
    return before_s, [Blob(*row) for row in rows if row.sha256 not in named]


def _removed(db: Database, store: Blobs, blob: Blob, before_s: float) -> bool:
    """Remove the file while the row is locked that its deletion began with: see `refer`. Whether it was still to be removed."""

    def work(connection: Connection) -> bool:
        old = (blobs.c.sha256 == blob.sha256, blobs.c.touched_s < before_s)
        # Locked by a statement of its own: the next one then sees what those have written for whom this one waited.
        connection.execute(select(blobs).where(*old).with_for_update())
        if connection.execute(delete(blobs).where(*old, _UNNAMED)).rowcount == 0:
            return False
        store.delete(blob.sha256)
        return True

    return db.write(work)
