"""Everything that a service has in one file, and a service from such a file, in either database.

Leases, sessions of the page, codes for enrolling and the list of workers stay behind; tokens do not.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, MetaData, Table, inspect, select, update

from nas.database import VERSIONS, Database, clock, insert
from nas.searching.store import STORE_FORMAT, TrialStore
from nas.service import claims, schema
from nas.service.backup_file import Backup, BackupError, Manifest, Rows, read_backup, write_backup
from nas.service.blobs import Blob, Blobs
from nas.service.garbage import named_by_tasks
from nas.service.leases import HELD, locked
from nas.service.settings import Settings

Json = Any
Row = dict[str, Json]

STAYS_BEHIND = {"sessions", "enrolments", "workers"}
# The tables of nas/searching/store.py, which makes them itself; `meta` has their version.
TRIALS = ("meta", "archs", "evaluations", "searches", "proposals")
_ROWS_AT_ONCE = 500
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Moved:
    """What a backup or a restored service has."""

    jobs: int
    rows: int
    blobs: int
    bytes: int
    """Of the blobs."""


def backup(settings: Settings, file: Path) -> Moved:
    """Write a consistent copy of a service, which may be at work, to a file that is not there yet.

    Raises `BackupError`, and `BlobDamaged` or `BlobMissing` where a file that a row names is not as it should be.
    """
    if file.exists():
        raise BackupError(f"{file}: is there already; choose another name")
    store = Blobs(settings.blobs_url)
    with Database(settings.database_url) as db, tempfile.TemporaryDirectory(dir=file.absolute().parent) as name:
        db.upgrade()
        scratch = Path(name)
        for _ in range(_TRIES):
            manifest, blobs = db.read(lambda connection: _dump(connection, scratch))
            if db.write(partial(_touched, blobs=blobs)):
                write_backup(file, manifest, scratch, blobs, store)
                return _moved(manifest, blobs)
    raise BackupError("files were collected while the backup began, again and again; try again later")


def restore(file: Path, settings: Settings) -> Moved:
    """Fill an empty service; jobs that ran when the backup was made wait again. Raises `BackupError`.

    All of the file is checked before anything is changed, and the rows come last, in one transaction.
    """
    with read_backup(file) as found, Database(settings.database_url) as db:
        db.upgrade()
        if found.manifest.tables.keys() & set(TRIALS):
            TrialStore(settings.database_url).close()
        _check_versions(found.manifest, db.read(_versions), file)
        db.read(lambda connection: _check_empty(connection, db.url))
        store = Blobs(settings.blobs_url)
        for blob in found.blobs:
            with found.content(blob) as content:
                store.put(content)
        db.write(lambda connection: _fill(connection, found))
        return _moved(found.manifest, found.blobs)


def _tables(connection: Connection) -> dict[str, Table]:
    """What is copied, by name, in the order in which it can be filled."""
    trials = MetaData()
    there = set(inspect(connection).get_table_names())
    trials.reflect(connection, only=[name for name in TRIALS if name in there])
    both = (*schema.METADATA.sorted_tables, *trials.sorted_tables)
    return {table.name: table for table in both if table.name not in STAYS_BEHIND}


def _versions(connection: Connection) -> dict[str, str]:
    versions = Table(VERSIONS, MetaData(), autoload_with=connection)
    return {"service": str(connection.execute(select(versions)).scalar_one()), "trials": str(STORE_FORMAT)}


def _dump(connection: Connection, folder: Path) -> tuple[Manifest, list[Blob]]:
    """Write the rows of each table as they are at one moment; the blobs that they name."""
    tables = _tables(connection)
    blobs = _named(connection)
    kept = {blob.sha256 for blob in blobs}
    # What nothing names is not in the backup, so its row is not either.
    wanted: Mapping[str, Callable[[Json], bool]] = {"blobs": lambda row: row.sha256 in kept}
    found = {
        name: _write_rows(connection, table, folder / f"{name}.jsonl", wanted.get(name, lambda row: True))
        for name, table in tables.items()
    }
    return Manifest(_versions(connection), found), blobs


def _named(connection: Connection) -> list[Blob]:
    """The blobs that artefacts, uploads and tasks name."""
    named = named_by_tasks(connection)
    for column in (schema.artefacts.c.sha256, schema.uploads.c.sha256):
        named.update(connection.execute(select(column).distinct()).scalars())
    wanted = select(schema.blobs.c.sha256, schema.blobs.c.bytes).order_by(schema.blobs.c.sha256)
    return [Blob(*row) for row in connection.execute(wanted) if row.sha256 in named]


def _write_rows(connection: Connection, table: Table, path: Path, wanted: Callable[[Json], bool]) -> Rows:
    digest, count = hashlib.sha256(), 0
    rows = connection.execute(select(table).order_by(*table.primary_key).execution_options(yield_per=_ROWS_AT_ONCE))
    with path.open("wb") as file:
        for row in filter(wanted, rows):
            line = json.dumps(list(row), allow_nan=False).encode() + b"\n"
            digest.update(line)
            file.write(line)
            count += 1
    return Rows(tuple(table.columns.keys()), count, digest.hexdigest())


def _touched(connection: Connection, blobs: Iterable[Blob]) -> bool:
    """Keep the collector off these from now on, for its time of grace; whether all of them are still there."""
    for blob in blobs:
        touch = update(schema.blobs).where(schema.blobs.c.sha256 == blob.sha256).values(touched_s=clock())
        if connection.execute(touch).rowcount == 0:
            return False
    return True


def _check_versions(manifest: Manifest, here: Mapping[str, str], file: Path) -> None:
    if manifest.versions != here:
        raise BackupError(
            f"{file}: was made with tables of version {dict(manifest.versions)}, and here they have {dict(here)}; restore it "
            "with the version that made it, and upgrade then"
        )


def _check_empty(connection: Connection, name: str) -> None:
    tables = _tables(connection)
    full = [
        each for each, table in tables.items() if each != "meta" and connection.execute(select(table).limit(1)).first()
    ]
    if full:
        raise BackupError(f"{name}: has {', '.join(full)} already; restore into an empty service")


def _fill(connection: Connection, found: Backup) -> None:
    if connection.execute(select(schema.users).limit(1)).first():
        return  # it has been done, and only the answer was lost
    for name, table in _tables(connection).items():
        if name not in found.manifest.tables:
            continue
        for rows in _batches(_CHANGED.get(name, _as_they_are)(found.rows(name))):
            connection.execute(insert(connection, table).on_conflict_do_nothing(), rows)
    held = select(schema.jobs.c.id).where(schema.jobs.c.state.in_(HELD)).order_by(schema.jobs.c.id)
    for job_id in connection.execute(held).scalars().all():
        row = locked(connection, job_id)
        state = "CANCELLED" if row.state == "CANCELLING" else "QUEUED"
        claims.change(connection, row, state, reason="restored from a backup", worker=None, claim=None)


def _as_they_are(rows: Iterable[Row]) -> Iterable[Row]:
    return rows


def _parents_first(rows: Iterable[Row]) -> Iterator[Row]:
    """Jobs, each after the one that it began with; nearly always they come so."""
    seen: set[str | None] = {None}
    waiting: dict[str, list[Row]] = {}
    for row in rows:
        if row["parent"] not in seen:
            waiting.setdefault(row["parent"], []).append(row)
            continue
        ready = [row]
        while ready:
            job = ready.pop()
            seen.add(job["id"])
            yield job
            ready += waiting.pop(job["id"], [])


def _released(rows: Iterable[Row]) -> Iterator[Row]:
    """Tasks, given out to nobody."""
    for row in rows:
        yield row | {"state": "QUEUED", "lease_expires_s": None} if row["state"] == "RUNNING" else row


# Table -> what is done to its rows on the way in.
_CHANGED: Mapping[str, Callable[[Iterable[Row]], Iterable[Row]]] = {"jobs": _parents_first, "tasks": _released}


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    rest = iter(rows)
    while batch := list(islice(rest, _ROWS_AT_ONCE)):
        yield batch


def _moved(manifest: Manifest, blobs: Iterable[Blob]) -> Moved:
    sizes = [blob.bytes for blob in blobs]
    rows = sum(each.rows for each in manifest.tables.values())
    return Moved(manifest.tables["jobs"].rows, rows, len(sizes), sum(sizes))
