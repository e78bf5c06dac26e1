"""A database: transactions that outlive a lost connection, and the only clock that counts.

The service keeps its tables in one, and so does every search (nas/searching/store.py), on its own or beside the service.
"""

from __future__ import annotations

import math
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Double, Table, create_engine, event, make_url, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from nas.service.errors import ServiceError, Unavailable

T = TypeVar("T")

WAIT_S = 30.0
# The table that says which revision of the service's tables a database has. Not Alembic's usual name for it, under which
# another program in the same database may keep its own.
VERSIONS = "service_version"
# A connection for every thread of an API server; PostgreSQL takes 100 unless told otherwise.
_CONNECTIONS = 8
_MORE_CONNECTIONS = 32
# What SQLite takes for a database in memory.
_NO_FILE = (None, "", ":memory:")


@dataclass(frozen=True, slots=True)
class _Backend:
    """What differs between the databases.

    `options` are the driver's own for a new connection, to which `connected` is said, by the seconds to wait and whether it is
    to be durable. `clock` is SQL for epoch seconds. `pauses_s`, the shortest and the longest, lie between two tries. `read` and
    `write` begin a transaction; `alone` keeps all but one process from making tables. `one_writer`: a second one would have to
    wait anyway.
    """

    driver: str
    options: Callable[[float], dict[str, Any]]
    connected: Callable[[float, bool], tuple[str, ...]]
    clock: str
    pauses_s: tuple[float, float]
    read: str
    write: str
    alone: str
    one_writer: bool


_BACKENDS = {
    "sqlite": _Backend(
        driver="sqlite+pysqlite",
        # SQLite's own waiting looks again only after up to 100 ms: beside three processes that write, 99% of writes took up to
        # 41-89 ms with it, and take up to 31 ms so.
        options=lambda wait_s: {"timeout": 0.0},
        # FULL: what was acknowledged survives a power cut. NORMAL waits for the disk at checkpoints only: a kill of the process
        # takes nothing back, a power cut may. To wait at each commit takes 19 ms on a busy machine.
        connected=lambda wait_s, durable: (
            "PRAGMA journal_mode=WAL",
            f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}",
            "PRAGMA foreign_keys=ON",
            # In place of 2 MB, to which each connection of a process that runs for hours would grow. It is no slower.
            "PRAGMA cache_size=-512",
        ),
        clock="((julianday('now') - 2440587.5) * 86400.0)",
        pauses_s=(0.001, 0.01),
        read="BEGIN",
        # A transaction that reads first and writes later would be refused where another one wrote in between.
        write="BEGIN IMMEDIATE",
        alone="",
        one_writer=True,
    ),
    "postgresql": _Backend(
        driver="postgresql+psycopg",
        # A server whose machine is gone is noticed after 25 s, and not after the hours that TCP waits by itself.
        options=lambda wait_s: {
            "connect_timeout": max(2, math.ceil(wait_s / 3)),
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 25_000,
        },
        # A client that is stopped in the middle of a transaction must not keep its rows locked for good.
        connected=lambda wait_s, durable: (
            f"SET lock_timeout = {math.ceil(1000 * min(wait_s, 5))}",
            "SET idle_in_transaction_session_timeout = '10s'",
        ),
        # Not now(): that is when the transaction began, and it may have waited for a lock since.
        clock="extract(epoch from clock_timestamp())::float8",
        pauses_s=(0.05, 1.0),
        read="SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY",
        write="",
        # Two that make the same tables at once do not wait for each other, but fail. The number is our own.
        alone="SELECT pg_advisory_xact_lock(7305115)",
        one_writer=False,
    ),
}


class clock(FunctionElement[float]):
    """SQL: the database's epoch seconds at the moment the statement runs, to a millisecond or better."""

    inherit_cache = True  # or each statement with it would be compiled anew each time
    name = "clock"
    type = Double()


@compiles(clock, "sqlite")
@compiles(clock, "postgresql")
def _compiled(element: clock, compiler: Any, **options: Any) -> str:
    return _BACKENDS[compiler.dialect.name].clock


def insert(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """An insert of the connection's dialect, which can do nothing, or update, where the key is there."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


def alone(connection: Connection) -> None:
    """Wait until no other process makes tables, and let none begin before this transaction ends."""
    if statement := _BACKENDS[connection.dialect.name].alone:
        connection.exec_driver_sql(statement)


class Database:
    """A SQLite file or a PostgreSQL database, for any number of threads; each process, a forked one too, opens its own.

    A path is a SQLite file in a folder that is there; a URL names it or a database: `postgresql+psycopg://user@host/name`.
    What is to be done is given to `read` or `write` as a function of a connection. It is one transaction, and is called
    again while the connection is lost, for up to `wait_s`. The connection may have died after its commit was sent, so that
    what `write` calls must find out by itself that it has been done: ids are made before it, and inserts do nothing on
    conflict. It must not call the database again. What is not `durable` may lose the last that was written in a power cut, and
    may be SQLite's `:memory:`, of which each thread has its own. `time_s` stands in for the database's clock in tests.
    """

    def __init__(
        self,
        url: str | Path,
        wait_s: float = WAIT_S,
        *,
        durable: bool = True,
        time_s: Callable[[], float] | None = None,
    ) -> None:
        self._url = _parsed(url, durable)
        self._backend = _BACKENDS[self._url.get_backend_name()]
        self._wait_s = wait_s
        self._durable = durable
        pool = {"pool_size": _CONNECTIONS, "max_overflow": _MORE_CONNECTIONS, "pool_timeout": wait_s}
        try:
            self._engine = create_engine(
                self._url.set(drivername=self._backend.driver),
                connect_args=self._backend.options(wait_s),
                **({} if self._url.database in _NO_FILE else pool),
            )
        except ImportError as error:
            raise ServiceError(f"{self.url}: PostgreSQL needs psycopg: pip install 'hwnas[postgres]'") from error
        # Threads of one process take turns, so that none starves: else a write beside three busy processes took up to 245 ms.
        self._turn: AbstractContextManager[Any] = threading.Lock() if self._backend.one_writer else nullcontext()
        event.listen(self._engine, "connect", self._connected)
        if time_s is not None:
            event.listen(self._engine, "before_cursor_execute", _with_time(self._backend.clock, time_s), retval=True)

    @property
    def url(self) -> str:
        """For messages and logs: a file by its path, a database without its password and options."""
        if self._url.get_backend_name() == "sqlite":
            return str(self._url.database)
        return self._url.set(query={}).render_as_string(hide_password=True)

    def upgrade(self) -> None:
        """Make the tables, or bring those of an older version up to date; safe when several processes do it at once.

        Raises `SchemaError` where a newer version has made them.
        """
        from nas.service.migration import upgrade  # Alembic takes 0.2 s to import

        def work(connection: Connection) -> None:
            alone(connection)
            upgrade(connection, self.url)

        self.write(work)

    def read(self, work: Callable[[Connection], T], *, patient: bool = True) -> T:
        """What `work` reads, all of it as of one moment; it waits for no writer, and no writer for it.

        Unless `patient`, a server that nobody answers for is not asked again: its address may be wrong.
        """
        return self._repeated(work, self._backend.read, nullcontext(), patient)

    def write(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns, once what it wrote is on the disk. Raises `Unavailable`, and whatever `work` raises."""
        return self._repeated(work, self._backend.write, self._turn, patient=True)

    def now(self) -> float:
        """The database's epoch seconds."""
        return self.read(lambda connection: connection.execute(select(clock())).scalar_one())

    def close(self) -> None:
        self._engine.dispose()

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _repeated(
        self, work: Callable[[Connection], T], begin: str, turn: AbstractContextManager[Any], patient: bool
    ) -> T:
        until_s = time.monotonic() + self._wait_s
        shortest_s, longest_s = self._backend.pauses_s
        pause_s = 0.0  # a connection that died while it was idle is replaced at once
        while True:
            try:
                with turn, self._engine.begin() as connection:
                    if begin:
                        connection.exec_driver_sql(begin)
                    return work(connection)
            except (DBAPIError, PoolTimeout) as error:
                passes = _passes(error, patient)
                if passes is None:
                    raise
                if not passes or time.monotonic() + pause_s > until_s:
                    raise Unavailable(f"{self.url}: the database cannot be used ({said(error)})") from error
            time.sleep(pause_s)
            pause_s = min(max(2 * pause_s, shortest_s), longest_s)

    def _connected(self, connection: Any, record: object) -> None:
        # Python's driver for SQLite would begin transactions by itself, and none before tables are made.
        if self._backend.one_writer:
            connection.isolation_level = None
        for statement in self._backend.connected(self._wait_s, self._durable):
            connection.execute(statement)
        connection.commit()


def said(error: BaseException) -> str:
    """What a database complains of, in one line."""
    return " ".join(str(getattr(error, "orig", None) or error).split())


def _passes(error: DBAPIError | PoolTimeout, patient: bool) -> bool | None:
    """Whether trying again soon may help; None: the statement is at fault, and not the database."""
    cause = getattr(error, "orig", None)
    if isinstance(error, PoolTimeout) or (isinstance(error, DBAPIError) and error.connection_invalidated):
        return True
    if isinstance(cause, sqlite3.Error):
        code = getattr(cause, "sqlite_errorcode", 0) & 0xFF  # the rest says more of the same
        return True if code in _SQLITE_PASSING else False if code in _SQLITE_BROKEN else None
    state = getattr(cause, "sqlstate", None)
    if state is None:  # nobody answered
        return patient if isinstance(error, OperationalError) else None
    return True if state.startswith(_POSTGRES_PASSING) else None


_SQLITE_PASSING = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
_SQLITE_BROKEN = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_READONLY,
}
# Connections (08), conflicts of transactions (40), no room (53), locks (55P03), shutting down or starting (57P), disks (58).
_POSTGRES_PASSING = ("08", "40", "53", "55P03", "57P", "58")


def _with_time(clock_sql: str, time_s: Callable[[], float]) -> Callable[..., tuple[str, Any]]:
    """What puts a number in the place of the clock, in every statement."""

    def replaced(connection: Any, cursor: Any, statement: str, parameters: Any, *_: object) -> tuple[str, Any]:
        return statement.replace(clock_sql, f"{time_s()!r}"), parameters

    return replaced


def _parsed(url: str | Path, durable: bool) -> URL:
    """A path is a SQLite file."""
    found = None
    if isinstance(url, Path) or "://" not in url:
        found = URL.create("sqlite", database=str(url))
    else:
        with suppress(ArgumentError, ValueError):
            found = make_url(url)
    if found is None or found.get_backend_name() not in _BACKENDS or (durable and found.database in _NO_FILE):
        # Not shown: there may be a password in what cannot be read.
        raise ServiceError("the address of the database must be a path or as postgresql+psycopg://user@host/name")
    return found
