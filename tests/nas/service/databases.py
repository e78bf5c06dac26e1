"""What tests put into databases and do to them: a clock that stands still until it is moved, answers that get lost."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nas.database import Database, insert
from nas.service.jobs import Submission
from nas.service.schema import new_id, users

START_S = 1_700_000_000.0


class Time:
    """What the databases of a test take for the time."""

    def __init__(self) -> None:
        self.now_s = START_S

    def __call__(self) -> float:
        return self.now_s

    def pass_by(self, seconds: float) -> None:
        self.now_s += seconds


def add_user(db: Database, name: str, *, admin: bool = False, max_running: int = 4, max_queued: int = 1000) -> None:
    """Make a user, whose id is the name."""
    row = {"id": name, "name": name, "admin": admin, "created_s": START_S}
    row |= {"max_running": max_running, "max_queued": max_queued}
    db.write(lambda connection: connection.execute(insert(connection, users).values(row)))


def submission(owner: str = "ann", **given: Any) -> Submission:
    """Something to do."""
    return Submission(
        **{"id": new_id("j"), "owner": owner, "name": "digits", "kind": "run", "spec": {"seed": 1}, **given}
    )


@contextmanager
def in_memory() -> Iterator[Path]:
    """A folder on a disk that is none, where the system has such."""
    root = Path(tempfile.mkdtemp(prefix="nas-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        yield root
    finally:
        shutil.rmtree(root)


class LostAnswers:
    """Lets commits succeed whose answers never come: the connection dies in between. `left` is how many more."""

    def __init__(self, db: Database) -> None:
        self.left = 0
        dialect = db._engine.dialect
        self._commit = dialect.do_commit
        dialect.do_commit = self._commit_unheard

    def _commit_unheard(self, connection: Any) -> None:
        self._commit(connection)
        if self.left:
            self.left -= 1
            raise lost_connection(connection)


def lost_connection(connection: Any) -> Exception:
    """What the driver says when the server goes away."""
    if isinstance(connection.dbapi_connection, sqlite3.Connection):
        error = sqlite3.OperationalError("database is locked")  # SQLite has no connection to lose: its nearest kin
        error.sqlite_errorcode = sqlite3.SQLITE_BUSY
        return error
    import psycopg

    connection.dbapi_connection.close()
    return psycopg.OperationalError("server closed the connection unexpectedly")
