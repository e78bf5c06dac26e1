"""The trial store: every proposal and evaluation of every search, in SQLite or PostgreSQL.

It is the truth of a search: Optuna's study is rebuilt from it. What is written once is never changed. An accuracy depends
on its context (supernet, data, calibration) and not on the search that asked for it, so searches share evaluations.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from sqlalchemy import (
    URL,
    Column,
    Connection,
    Double,
    ForeignKey,
    Insert,
    Integer,
    MetaData,
    Table,
    Text,
    create_engine,
    event,
    func,
    inspect,
    make_url,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError

from nas.errors import FaultError, JobError
from search_spaces import Arch

STORE_FORMAT = 2
WAIT_S = 30.0

Fence = Callable[[Connection], None]
"""Raises where whoever holds the store may no longer write; asked in the transaction that writes."""

# A table of every database of a service.
SERVICE = "service_version"

_SCHEMA = MetaData()
_META = Table("meta", _SCHEMA, Column("key", Text, primary_key=True), Column("value", Text, nullable=False))
_ARCHS = Table("archs", _SCHEMA, Column("arch_id", Text, primary_key=True), Column("arch", Text, nullable=False))
_EVALUATIONS = Table(
    "evaluations",
    _SCHEMA,
    Column("context", Text, primary_key=True),
    Column("arch_id", ForeignKey(_ARCHS.c.arch_id), primary_key=True),
    Column("images", Integer, primary_key=True),
    Column("accuracy", Double, nullable=False),
    Column("seconds", Double, nullable=False),
)
_SEARCHES = Table("searches", _SCHEMA, Column("search", Text, primary_key=True), Column("inputs", Text, nullable=False))
_PROPOSALS = Table(
    "proposals",
    _SCHEMA,
    Column("search", ForeignKey(_SEARCHES.c.search), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("generation", Integer, nullable=False),
    Column("study", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("arch_id", Text, nullable=False),
    Column("codes", Text, nullable=False),
    Column("attrs", Text, nullable=False),
)

# Schema 1: a file for one context, each architecture evaluated on all images.
_FROM_1 = (
    "INSERT INTO archs SELECT arch_id, arch FROM evaluations_1",
    "INSERT INTO evaluations SELECT value, arch_id, 0, val_accuracy, seconds FROM evaluations_1, identity",
    "DROP TABLE evaluations_1",
    "DROP TABLE identity",
)


@dataclass(frozen=True, slots=True)
class Proposal:
    """One trial as a study asked for it.

    `number` counts from 0 within its search, `generation` is the barrier it belongs to, `study` a device's name or "all",
    `source` who thought of it, `codes` its row as it was chosen, inactive choices included, `attrs` the trial's system
    attributes in Optuna (JSON).
    """

    number: int
    generation: int
    study: str
    source: str
    arch_id: str
    codes: tuple[int, ...]
    attrs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Top-1 accuracy on the first so many validation images (0: on all that there are), and the seconds that it took."""

    arch_id: str
    images: int
    accuracy: float
    seconds: float

    def __post_init__(self) -> None:
        if not (self.images >= 0 and 0.0 <= self.accuracy <= 1.0 and 0.0 <= self.seconds < math.inf):
            raise ValueError(f"not an evaluation: {self.accuracy} on {self.images} images in {self.seconds} s")


@dataclass(frozen=True, slots=True)
class _Backend:
    """What differs between the databases.

    `timeout` is the driver's name for how long it waits; `alone`: nothing but a store may be in it; `connected`, `begin` and
    `create` are said to a new connection, in every transaction that writes, and before tables are made.
    """

    driver: str
    insert: Callable[[Table], Any]
    timeout: str
    alone: bool
    connected: tuple[str, ...] = ()
    begin: str = ""
    create: str = ""


_BACKENDS = {
    "sqlite": _Backend(
        driver="sqlite+pysqlite",
        insert=sqlite.insert,
        timeout="timeout",
        alone=True,
        # A kill of the process takes no commit back; a power cut may take the last ones, and they are evaluated again in their
        # place. To wait for the disk at each commit takes 19 ms on a busy machine, as long as a small evaluation.
        connected=("PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL", "PRAGMA foreign_keys=ON"),
        # A transaction that reads first and writes later is refused at once, without waiting, where another one writes.
        begin="BEGIN IMMEDIATE",
    ),
    "postgresql": _Backend(
        driver="postgresql+psycopg",
        insert=postgresql.insert,
        timeout="connect_timeout",
        alone=False,
        # A process that is stopped in the middle of a transaction must not keep what it has locked for good.
        connected=("SET idle_in_transaction_session_timeout = '10s'",),
        begin="SET LOCAL lock_timeout = {wait_ms}",
        # Two that make the same tables at once do not wait for each other, but fail. The number is the store's own.
        create="SELECT pg_advisory_xact_lock(7305114)",
    ),
}

# What the databases say -> what to do about it.
_ADVICE = {
    "database is locked": "another process has kept it locked for {wait_s:g} s; wait until that is done, or end it",
    "lock timeout": "another process has kept it locked for {wait_s:g} s; wait until that is done, or end it",
    "is full": "make room and go on with --resume",
    "disk I/O error": "look whether the disk is full or failing, then go on with --resume",
    "No space left": "make room where the database lies and go on with --resume",
    "readonly": "it must be writable",
    "unable to open": "does its folder exist, and may you write there?",
    "not a database": "it is no store; remove it or name another file",
    "malformed": "it is damaged; bring back a copy, or remove it to begin anew",
}


class TrialStore:
    """Proposals and evaluations, durable when the method that writes them returns.

    A path is a SQLite file; a URL names it or a database: `postgresql+psycopg://user@host/name`. There is one writer to a
    search; others may read meanwhile. What cannot be read or written is a `JobError`; nothing is half written after it.
    `wait_s`: how long to wait for a lock that another process holds. It may stand beside the tables of a service.
    Searches belong to a `scope`, such as a job, and those of another are not seen; evaluations are everybody's.
    """

    def __init__(self, url: str | Path, wait_s: float = WAIT_S, fence: Fence | None = None, scope: str = "") -> None:
        parsed = _parsed(url)
        self._backend = _BACKENDS[parsed.get_backend_name()]
        self._wait_s = wait_s
        self._fence = fence or (lambda connection: None)
        self._prefix = f"{scope}/" if scope else ""
        self._name = _shown(parsed)
        try:
            # The ping finds out that a server has closed a connection on which nothing was said for long, and makes another.
            self._engine = create_engine(
                parsed.set(drivername=self._backend.driver),
                connect_args={self._backend.timeout: math.ceil(wait_s)},
                pool_pre_ping=True,
            )
        except ImportError as error:
            raise JobError(f"{self._name}: PostgreSQL needs psycopg: pip install 'hwnas[postgres]'") from error
        event.listen(self._engine, "connect", self._connected)
        try:
            self._prepare()
        except BaseException:
            self._engine.dispose()
            raise

    def evaluations(self, context: str) -> dict[tuple[str, int], Evaluation]:
        """All evaluations of a context, by architecture id and images."""
        wanted = select(_EVALUATIONS).where(_EVALUATIONS.c.context == context).order_by("arch_id", "images")
        with self._reading() as connection:
            rows = connection.execute(wanted)
            found = (Evaluation(row.arch_id, row.images, row.accuracy, row.seconds) for row in rows)
            return {(each.arch_id, each.images): each for each in found}

    def archs(self, context: str) -> dict[str, dict[str, Any]]:
        """What `Arch.to_json` gave, of every architecture that was evaluated in a context, by its id."""
        evaluated = select(_EVALUATIONS.c.arch_id).where(_EVALUATIONS.c.context == context)
        wanted = select(_ARCHS).where(_ARCHS.c.arch_id.in_(evaluated)).order_by("arch_id")
        with self._reading() as connection:
            return {row.arch_id: json.loads(row.arch) for row in connection.execute(wanted)}

    def add(self, context: str, arch: Arch, evaluation: Evaluation) -> None:
        """Record one evaluation; where there is one of this architecture on as many images, that one stays."""
        assert evaluation.arch_id == arch.id
        # Plain numbers: SQLite would store NumPy's as bytes.
        row = {
            "context": context,
            "arch_id": evaluation.arch_id,
            "images": int(evaluation.images),
            "accuracy": float(evaluation.accuracy),
            "seconds": float(evaluation.seconds),
        }
        with self._writing() as connection:
            connection.execute(self._insert(_ARCHS), {"arch_id": arch.id, "arch": json.dumps(arch.to_json())})
            connection.execute(self._insert(_EVALUATIONS), row)

    def searches(self) -> dict[str, dict[str, str]]:
        """The inputs of every search, by its id."""
        with self._reading() as connection:
            own = _SEARCHES.c.search.startswith(self._prefix, autoescape=True)
            rows = connection.execute(select(_SEARCHES).where(own).order_by("search"))
            return {row.search.removeprefix(self._prefix): json.loads(row.inputs) for row in rows}

    def begin(self, search: str, inputs: Mapping[str, str]) -> None:
        """Record a search with the digests of what it depends on, by name; one that is there must have the same."""
        name = self._prefix + search
        wanted = select(_SEARCHES.c.inputs).where(_SEARCHES.c.search == name)
        with self._writing() as connection:
            connection.execute(self._insert(_SEARCHES), {"search": name, "inputs": json.dumps(dict(inputs))})
            known = json.loads(connection.execute(wanted).scalar_one())
        changed = [
            f"input `{name}` changed since the search began (was {_short(known.get(name))}, is {_short(inputs.get(name))})"
            for name in sorted({*known, *inputs})
            if known.get(name) != inputs.get(name)
        ]
        if changed:
            raise JobError(f"{self._name}: {'; '.join(changed)}; bring it back, or begin anew with --again")

    def proposals(self, search: str) -> list[Proposal]:
        """Everything a search has asked for, by number."""
        wanted = select(_PROPOSALS).where(_PROPOSALS.c.search == self._prefix + search).order_by("number")
        with self._reading() as connection:
            return [
                Proposal(
                    row.number,
                    row.generation,
                    row.study,
                    row.source,
                    row.arch_id,
                    tuple(json.loads(row.codes)),
                    json.loads(row.attrs),
                )
                for row in connection.execute(wanted)
            ]

    def propose(self, search: str, proposals: Sequence[Proposal]) -> None:
        """Record a whole generation, or nothing. Its numbers go on where the last ones of the search ended."""
        name = self._prefix + search
        rows = [
            {
                "search": name,
                "number": int(each.number),
                "generation": int(each.generation),
                "study": each.study,
                "source": each.source,
                "arch_id": each.arch_id,
                "codes": json.dumps([int(code) for code in each.codes]),
                "attrs": json.dumps(dict(each.attrs)),
            }
            for each in proposals
        ]
        with self._writing() as connection:
            # Locked, so that of two writers the second is told so and not taken for a damaged database.
            begun = select(_SEARCHES.c.search).where(_SEARCHES.c.search == name).with_for_update()
            if connection.execute(begun).scalar() is None:
                raise JobError(f"{self._name}: search {search} has not begun")
            count = select(func.count()).where(_PROPOSALS.c.search == name)
            first = connection.execute(count).scalar_one()
            numbers = [each.number for each in proposals]
            if numbers != list(range(first, first + len(numbers))):
                raise JobError(f"{self._name}: proposal {first} of search {search} comes next, not {numbers}")
            if rows:
                connection.execute(_PROPOSALS.insert(), rows)

    def forget(self, search: str) -> None:
        """Drop every search whose id is `search` or begins with it and a slash, with its proposals; evaluations stay."""
        name = self._prefix + search
        with self._writing() as connection:
            for table in (_PROPOSALS, _SEARCHES):
                own = (table.c.search == name) | table.c.search.startswith(f"{name}/", autoescape=True)
                connection.execute(table.delete().where(own))

    def close(self) -> None:
        self._engine.dispose()

    def __enter__(self) -> TrialStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(self) -> None:
        """Make the tables where there are none, bring old ones up to date, refuse what is no store or a newer one."""
        with self._reading() as connection:
            if self._format(connection) == STORE_FORMAT:
                return
        with self._writing() as connection:
            if self._backend.create:
                connection.exec_driver_sql(self._backend.create)
            found = self._format(connection)  # again: another process may have been here meanwhile
            if found == STORE_FORMAT:
                return
            if found == 1:
                connection.execute(text("ALTER TABLE evaluations RENAME TO evaluations_1"))
            _SCHEMA.create_all(connection)
            for step in _FROM_1 if found == 1 else ():
                connection.execute(text(step))
            connection.execute(_META.insert(), {"key": "format", "value": str(STORE_FORMAT)})

    def _format(self, connection: Connection) -> int:
        """The version of the schema; 0 where there is none."""
        names = set(inspect(connection).get_table_names())
        if names == {"identity", "evaluations"}:
            return 1
        if "meta" in names:
            found = connection.execute(select(_META.c.value).where(_META.c.key == "format")).scalar()
            if found is not None and found.isdecimal():
                if int(found) > STORE_FORMAT:
                    raise JobError(
                        f"{self._name}: was written by a newer version (schema {found}, this one knows {STORE_FORMAT})"
                    )
                return int(found)
        alone = self._backend.alone and SERVICE not in names
        in_the_way = names if alone else names & _SCHEMA.tables.keys()
        if in_the_way:
            raise JobError(
                f"{self._name}: is no trial store; it has tables of something else: {', '.join(sorted(names))}"
            )
        return 0

    def _insert(self, table: Table) -> Insert:
        """What adds a row, or does nothing where its key is."""
        statement: Insert = self._backend.insert(table).on_conflict_do_nothing()
        return statement

    def _connected(self, connection: Any, record: object) -> None:
        if self._backend.alone:
            # Python's driver would begin transactions on its own, and none before it makes or renames tables.
            connection.isolation_level = None
        for statement in self._backend.connected:
            connection.execute(statement)
        connection.commit()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._explained("read"), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """One transaction."""
        with self._explained("written"), self._engine.begin() as connection:
            connection.exec_driver_sql(self._backend.begin.format(wait_ms=round(1000 * self._wait_s)))
            self._fence(connection)
            yield connection

    @contextmanager
    def _explained(self, done: str) -> Iterator[None]:
        """Errors of the database, and what it should not hold, in one line with what to do about it."""
        try:
            yield
        except JobError:
            raise
        except (SQLAlchemyError, ValueError, TypeError) as error:
            said = " ".join(str(getattr(error, "orig", None) or error).split())
            advice = [advice for part, advice in _ADVICE.items() if part in said]
            hint = f"; {advice[0].format(wait_s=self._wait_s)}" if advice else ""
            kind = FaultError if isinstance(error, OperationalError) else JobError
            raise kind(f"{self._name}: cannot be {done} ({said}){hint}") from error


def _parsed(url: str | Path) -> URL:
    """A path is a SQLite file."""
    if isinstance(url, Path) or "://" not in url:
        return URL.create("sqlite", database=str(url))
    try:
        found = make_url(url)
        known = found.get_backend_name() in _BACKENDS
    except (ArgumentError, ValueError):
        known = False
    if not known:
        # Not shown: there may be a password in what cannot be read.
        raise JobError("the address of the trial store must be a path or as postgresql+psycopg://user@host/name")
    return found


def _shown(url: URL) -> str:
    """For messages: a file by its path, a database without its password and options."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    return url.set(query={}).render_as_string(hide_password=True)


def _short(digest: str | None) -> str:
    return "absent" if digest is None else digest if len(digest) <= 12 else f"{digest[:12]}..."
