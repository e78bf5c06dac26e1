"""The tables: made and brought up to date by revisions, the same in both databases as the code says.

`schemas` has what each released revision makes in each database, with rows: SQLite's `.dump`, and `pg_dump --inserts` without
settings and names of schemas.
"""

import json
import logging
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, create_engine, func, inspect, select, text

from nas import migrations
from nas.database import VERSIONS, Database
from nas.searching.store import TrialStore
from nas.service.errors import SchemaError
from nas.service.schema import METADATA, jobs

pytest_plugins = ["tests.nas.searching.postgres"]

DUMPS = Path(__file__).parent / "schemas"
REVISIONS = sorted(path.stem.removeprefix("r") for path in Path(migrations.__file__).parent.glob("r*.py"))
TRIALS = {"meta", "archs", "evaluations", "searches", "proposals"}


def differences(db: Database) -> list:
    """What Alembic finds in a database that the code does not say, or the other way round."""

    def own(name: str | None, kind: str, parents: object) -> bool:
        return kind != "table" or name not in TRIALS

    def work(connection: Connection) -> list:
        options = {"include_name": own, "compare_type": True, "version_table": VERSIONS}
        return compare_metadata(MigrationContext.configure(connection, opts=options), METADATA)

    return db.read(work)


def counts(db: Database) -> dict[str, int]:
    tables = METADATA.sorted_tables
    return db.read(
        lambda connection: {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one() for table in tables
        }
    )


def load(url: str | Path, revision: str) -> None:
    """Make a database as a revision left it."""
    if isinstance(url, Path):
        with closing(sqlite3.connect(url)) as connection:
            connection.executescript((DUMPS / f"{revision}.sqlite.sql").read_text())
    else:
        import psycopg

        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            connection.execute((DUMPS / f"{revision}.postgresql.sql").read_text())


@pytest.mark.parametrize("revision", REVISIONS)
def test_every_released_schema_is_brought_up_to_date_and_keeps_its_rows(url, revision):
    load(url, revision)
    with Database(url) as db:
        before = counts(db)
        assert min(before.values()) >= 2
        db.upgrade()
        assert differences(db) == []
        assert counts(db) == before
        assert db.read(lambda connection: connection.execute(select(jobs.c.spec))).scalars().all() == [
            {"a": [i, None]} for i in range(3)
        ]
        with pytest.raises(Exception, match="a job that has ended does not change"):
            db.write(lambda connection: connection.execute(jobs.update().values(name="x")))


def test_a_new_database_has_what_the_code_says_and_no_more_the_second_time(url):
    with Database(url) as db:
        for _ in range(2):
            db.upgrade()
            assert differences(db) == []


def test_the_trial_stores_tables_lie_beside_the_services(url):
    with Database(url) as db:
        db.upgrade()
        TrialStore(url).close()
        db.upgrade()
        assert differences(db) == []
        TrialStore(url).close()


def reflected(connection: Connection) -> str:
    """Everything that a database knows of the service's tables."""
    found = inspect(connection)
    return json.dumps(
        {
            table: {
                "columns": [(each["name"], str(each["type"]), each["nullable"]) for each in found.get_columns(table)],
                "primary": found.get_pk_constraint(table),
                "foreign": sorted(found.get_foreign_keys(table), key=str),
                "indexes": sorted(found.get_indexes(table), key=str),
                "unique": sorted(found.get_unique_constraints(table), key=str),
                "checks": sorted(found.get_check_constraints(table), key=str),
            }
            for table in METADATA.tables
        },
        indent=1,
        sort_keys=True,
        default=str,
    )


def test_revisions_and_code_agree_on_what_alembic_does_not_compare(tmp_path):
    with Database(tmp_path / "nas.sqlite") as db:
        db.upgrade()
        upgraded = db.read(reflected)
    engine = create_engine(f"sqlite:///{tmp_path}/other.sqlite")
    with engine.begin() as connection:
        METADATA.create_all(connection)
        assert reflected(connection) == upgraded
    engine.dispose()


@pytest.mark.postgres
def test_revisions_and_code_agree_in_postgresql_too(postgres):
    with Database(postgres) as db:
        db.upgrade()
        upgraded = db.read(reflected)
        name = db.read(lambda connection: connection.execute(text("SELECT current_schema()")).scalar_one())

        def anew(connection: Connection) -> str:
            connection.execute(text(f"DROP SCHEMA {name} CASCADE"))
            connection.execute(text(f"CREATE SCHEMA {name}"))
            METADATA.create_all(connection)
            return reflected(connection)

        assert db.write(anew) == upgraded


def test_processes_that_upgrade_at_once_do_not_disturb_each_other(url):
    code = "import sys; from nas.database import Database; Database(sys.argv[1]).upgrade()"
    started = [subprocess.Popen([sys.executable, "-c", code, str(url)], stderr=subprocess.PIPE) for _ in range(3)]
    assert [(process.communicate()[1], process.returncode) for process in started] == [(b"", 0)] * 3
    with Database(url) as db:
        assert differences(db) == []


def test_a_newer_schema_is_refused_in_one_line(url):
    with Database(url) as db:
        db.upgrade()
        db.write(lambda connection: connection.execute(text(f"UPDATE {VERSIONS} SET version_num = '9999'")))
        with pytest.raises(SchemaError) as caught:
            db.upgrade()
        known = REVISIONS[-1]
        assert str(caught.value) == f"{db.url}: was written by a newer version (schema 9999; this one knows {known})"


def test_tables_of_something_else_are_not_touched(url):
    with Database(url) as db:
        db.write(lambda connection: connection.execute(text("CREATE TABLE users (id TEXT)")))
        with pytest.raises(SchemaError, match=r"has tables of something else \(users\); name an empty database"):
            db.upgrade()
        assert db.read(lambda connection: inspect(connection).get_table_names()) == ["users"]


def test_upgrading_leaves_logging_alone(tmp_path):
    root = logging.getLogger()
    before = (root.level, list(root.handlers), logging.getLogger("nas").disabled)
    with Database(tmp_path / "nas.sqlite") as db:
        db.upgrade()
    assert (root.level, list(root.handlers), logging.getLogger("nas").disabled) == before
