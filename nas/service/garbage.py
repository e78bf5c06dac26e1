"""Removing files that nothing refers to any more, while others are put and named."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from sqlalchemy import ColumnElement, Connection, Text, delete, exists, select, type_coerce

from nas.service.blobs import Blob, Blobs
from nas.service.database import Database, clock, insert
from nas.service.schema import artefacts, blobs, tasks, uploads

HOUR_S = 3600.0
_ROWS_AT_ONCE = 500
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
    """Remove blobs that no artefact, upload or task has named for so long, and what was left of puts that were killed.

    Safe beside everything else, at any time and in several processes; when it is killed, the next one goes on.
    """
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


def _adopt(db: Database, store: Blobs) -> None:
    """Give blobs that were put and never named a row, from which on they count as old."""
    known = db.read(lambda connection: set(connection.execute(select(blobs.c.sha256)).scalars()))
    strangers = [blob for blob in store.walk() if blob.sha256 not in known]
    for start in range(0, len(strangers), _ROWS_AT_ONCE):
        some = strangers[start : start + _ROWS_AT_ONCE]
        db.write(partial(_add_rows, found=some))


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
