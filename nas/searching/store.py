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
from typing import Any, TypeVar

from sqlalchemy import (
    Column,
    Connection,
    Double,
    ForeignKey,
    Integer,
    MetaData,
    Row,
    Select,
    Table,
    Text,
    func,
    inspect,
    select,
    text,
)
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from nas.database import VERSIONS, WAIT_S, Database, alone, insert, said
from nas.errors import FaultError, JobError
from nas.service.errors import ServiceError, Unavailable
from search_spaces import Arch

T = TypeVar("T")

STORE_FORMAT = 2

Fence = Callable[[Connection], None]
"""Raises where whoever holds the store may no longer write; asked in the transaction that writes."""

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
        self._wait_s = wait_s
        self._fence = fence or (lambda connection: None)
        self._prefix = f"{scope}/" if scope else ""
        try:
            # What a power cut takes away is evaluated again in its place.
            self._db = Database(url, wait_s, durable=False)
        except ServiceError as error:
            raise JobError(f"trial store: {error}") from error
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def evaluations(self, context: str) -> dict[tuple[str, int], Evaluation]:
        """All evaluations of a context, by architecture id and images."""
        wanted = select(_EVALUATIONS).where(_EVALUATIONS.c.context == context).order_by("arch_id", "images")

        def work(connection: Connection) -> dict[tuple[str, int], Evaluation]:
            rows = connection.execute(wanted)
            found = (Evaluation(row.arch_id, row.images, row.accuracy, row.seconds) for row in rows)
            return {(each.arch_id, each.images): each for each in found}

        return self._read(work)

    def archs(self, context: str) -> dict[str, dict[str, Any]]:
        """What `Arch.to_json` gave, of every architecture that was evaluated in a context, by its id."""
        evaluated = select(_EVALUATIONS.c.arch_id).where(_EVALUATIONS.c.context == context)
        wanted = select(_ARCHS).where(_ARCHS.c.arch_id.in_(evaluated)).order_by("arch_id")
        return self._read(lambda connection: {row.arch_id: json.loads(row.arch) for row in connection.execute(wanted)})

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

        def work(connection: Connection) -> None:
            _add(connection, _ARCHS, {"arch_id": arch.id, "arch": json.dumps(arch.to_json())})
            _add(connection, _EVALUATIONS, row)

        self._write(work)

    def searches(self) -> dict[str, dict[str, str]]:
        """The inputs of every search, by its id."""
        own = select(_SEARCHES).where(_SEARCHES.c.search.startswith(self._prefix, autoescape=True)).order_by("search")

        def work(connection: Connection) -> dict[str, dict[str, str]]:
            rows = connection.execute(own)
            return {row.search.removeprefix(self._prefix): json.loads(row.inputs) for row in rows}

        return self._read(work)

    def begin(self, search: str, inputs: Mapping[str, str]) -> None:
        """Record a search with the digests of what it depends on, by name; one that is there must have the same."""
        name = self._prefix + search
        wanted = select(_SEARCHES.c.inputs).where(_SEARCHES.c.search == name)

        def work(connection: Connection) -> dict[str, str]:
            _add(connection, _SEARCHES, {"search": name, "inputs": json.dumps(dict(inputs))})
            found: dict[str, str] = json.loads(connection.execute(wanted).scalar_one())
            return found

        known = self._write(work)
        changed = [
            f"input `{name}` changed since the search began (was {_short(known.get(name))}, is {_short(inputs.get(name))})"
            for name in sorted({*known, *inputs})
            if known.get(name) != inputs.get(name)
        ]
        if changed:
            raise JobError(f"{self._db.url}: {'; '.join(changed)}; bring it back, or begin anew with --again")

    def proposals(self, search: str) -> list[Proposal]:
        """Everything a search has asked for, by number."""
        wanted = _proposals_of(self._prefix + search)
        return self._read(lambda connection: [_proposal(row) for row in connection.execute(wanted)])

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
        numbers = [each["number"] for each in rows]
        begun = select(_SEARCHES.c.search).where(_SEARCHES.c.search == name).with_for_update()
        count = select(func.count()).where(_PROPOSALS.c.search == name)
        tries = 0

        def work(connection: Connection) -> None:
            nonlocal tries
            tries += 1
            # Locked, so that of two writers the second is told so and not taken for a damaged database.
            if connection.execute(begun).scalar() is None:
                raise JobError(f"{self._db.url}: search {search} has not begun")
            first = connection.execute(count).scalar_one()
            if numbers == list(range(first, first + len(numbers))):
                if rows:
                    connection.execute(_PROPOSALS.insert(), rows)
            elif tries == 1 or not _written(connection, name, rows):
                raise JobError(f"{self._db.url}: proposal {first} of search {search} comes next, not {numbers}")

        self._write(work)

    def forget(self, search: str) -> None:
        """Drop every search whose id is `search` or begins with it and a slash, with its proposals; evaluations stay."""
        name = self._prefix + search

        def work(connection: Connection) -> None:
            for table in (_PROPOSALS, _SEARCHES):
                own = (table.c.search == name) | table.c.search.startswith(f"{name}/", autoescape=True)
                connection.execute(table.delete().where(own))

        self._write(work)

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> TrialStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(self) -> None:
        """Make the tables where there are none, bring old ones up to date, refuse what is no store or a newer one."""
        # An address that is wrong is told at once; from then on a server is waited for.
        with self._explained("read"):
            if self._db.read(self._format, patient=False) == STORE_FORMAT:
                return

        def work(connection: Connection) -> None:
            alone(connection)
            found = self._format(connection)  # again: another process may have been here meanwhile
            if found == STORE_FORMAT:
                return
            if found == 1:
                connection.execute(text("ALTER TABLE evaluations RENAME TO evaluations_1"))
            _SCHEMA.create_all(connection)
            for step in _FROM_1 if found == 1 else ():
                connection.execute(text(step))
            connection.execute(_META.insert(), {"key": "format", "value": str(STORE_FORMAT)})

        self._write(work)

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
                        f"{self._db.url}: was written by a newer version (schema {found}, this one knows {STORE_FORMAT})"
                    )
                return int(found)
        # A file of something else is left alone; a server's database, or that of a service, has room for both.
        strict = connection.dialect.name == "sqlite" and VERSIONS not in names
        in_the_way = names if strict else names & _SCHEMA.tables.keys()
        if in_the_way:
            raise JobError(
                f"{self._db.url}: is no trial store; it has tables of something else: {', '.join(sorted(names))}"
            )
        return 0

    def _read(self, work: Callable[[Connection], T]) -> T:
        with self._explained("read"):
            return self._db.read(work)

    def _write(self, work: Callable[[Connection], T]) -> T:
        """One transaction, of whoever may write; `work` is called again while the connection is lost: see `Database`."""

        def fenced(connection: Connection) -> T:
            self._fence(connection)
            return work(connection)

        with self._explained("written"):
            return self._db.write(fenced)

    @contextmanager
    def _explained(self, done: str) -> Iterator[None]:
        """Errors of the database, and what it should not hold, in one line with what to do about it."""
        try:
            yield
        except JobError:
            raise
        except (Unavailable, SQLAlchemyError, ValueError, TypeError) as error:
            cause = error.__cause__ if isinstance(error, Unavailable) and error.__cause__ else error
            complaint = said(cause)
            advice = [advice for part, advice in _ADVICE.items() if part in complaint]
            hint = f"; {advice[0].format(wait_s=self._wait_s)}" if advice else ""
            kind = FaultError if isinstance(cause, OperationalError | PoolTimeout) else JobError
            raise kind(f"{self._db.url}: cannot be {done} ({complaint}){hint}") from error


def _add(connection: Connection, table: Table, row: Mapping[str, Any]) -> None:
    """Add a row, or do nothing where its key is."""
    connection.execute(insert(connection, table).on_conflict_do_nothing(), row)


def _proposals_of(search: str) -> Select[Any]:
    return select(_PROPOSALS).where(_PROPOSALS.c.search == search).order_by("number")


def _proposal(row: Row[Any]) -> Proposal:
    codes = tuple(json.loads(row.codes))
    return Proposal(row.number, row.generation, row.study, row.source, row.arch_id, codes, json.loads(row.attrs))


def _written(connection: Connection, search: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether these are the last proposals of a search: the transaction is repeated whose commit's answer was lost."""
    wanted = _proposals_of(search).where(_PROPOSALS.c.number >= rows[0]["number"])
    return [dict(row) for row in connection.execute(wanted).mappings()] == list(rows)


def _short(digest: str | None) -> str:
    return "absent" if digest is None else digest if len(digest) <= 12 else f"{digest[:12]}..."
