"""The database: transactions whole or not at all, done again while the connection is lost, by one clock."""

import sqlite3
import threading
import time as wall
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from sqlalchemy import text, update
from sqlalchemy.exc import DBAPIError

from nas.database import Database, clock
from nas.service.errors import ServiceError, Unavailable
from nas.service.schema import Json, new_id, users
from tests.nas.service.databases import LostAnswers, add_user

pytest_plugins = ["tests.nas.searching.postgres"]


def limit(db: Database) -> int:
    return db.read(lambda connection: connection.execute(users.select().where(users.c.id == "ann")).one().max_queued)


def one_more(connection) -> None:
    connection.execute(update(users).where(users.c.id == "ann").values(max_queued=users.c.max_queued + 1))


def one_line(caught: pytest.ExceptionInfo) -> str:
    message = str(caught.value)
    assert "\n" not in message
    assert "sqlalche" not in message
    return message


def test_the_databases_clock_is_that_of_its_machine(real_db):
    assert abs(real_db.now() - wall.time()) < 5
    first, second = real_db.now(), real_db.now()
    assert isinstance(first, float)
    assert first <= second


def test_a_test_may_set_the_clock(db, time):
    time.pass_by(12.25)
    assert db.now() == time.now_s
    db.write(lambda connection: connection.execute(update(users).values(created_s=clock() + 1)))
    assert db.read(lambda connection: connection.execute(users.select()).first().created_s) == time.now_s + 1


def test_what_fails_leaves_nothing(db):
    def work(connection) -> None:
        one_more(connection)
        raise KeyError("x")

    with pytest.raises(KeyError):
        db.write(work)
    assert limit(db) == 1000


def test_threads_lose_no_update(real_db):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: real_db.write(one_more), range(80)))
    assert limit(real_db) == 1080


def test_readers_see_what_was_committed_and_do_not_wait_for_who_writes(real_db):
    written, seen = threading.Event(), threading.Event()

    def work(connection) -> None:
        one_more(connection)
        written.set()
        assert seen.wait(10)

    writer = threading.Thread(target=real_db.write, args=(work,))
    writer.start()
    assert written.wait(10)
    assert limit(real_db) == 1000
    seen.set()
    writer.join()
    assert limit(real_db) == 1001


def test_what_is_read_is_of_one_moment(real_db):
    def work(connection) -> tuple[int, int]:
        first = connection.execute(users.select()).one().max_queued
        real_db.write(one_more)
        return first, connection.execute(users.select()).one().max_queued

    assert real_db.read(work) == (1000, 1000)
    assert limit(real_db) == 1001


def test_work_is_done_again_while_the_answer_is_lost(db):
    answers = LostAnswers(db)
    answers.left = 2
    calls = []
    assert db.write(lambda connection: calls.append(one_more(connection)) or len(calls)) == 3
    # What is not idempotent counts again: that is why what is written has to be.
    assert limit(db) == 1003


def test_a_mistake_in_a_statement_is_not_tried_again(db):
    calls = []

    def work(connection) -> None:
        calls.append(1)
        connection.execute(text("SELECT nothing FROM nowhere"))

    with pytest.raises(DBAPIError):
        db.write(work)
    assert calls == [1]


def test_a_database_that_is_locked_for_long_is_unavailable(tmp_path):
    path = tmp_path / "nas.sqlite"
    with Database(path, wait_s=0.2) as db:
        db.upgrade()
        add_user(db, "ann")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Unavailable) as caught:
                db.write(one_more)
            assert one_line(caught) == f"{path}: the database cannot be used (database is locked)"
            assert limit(db) == 1000
        db.write(one_more)


def test_what_is_no_database_is_refused_in_one_line(tmp_path):
    (tmp_path / "notes.txt").write_text("not a database, " * 100)
    for path in (tmp_path / "notes.txt", tmp_path / "absent" / "nas.sqlite"):
        with Database(path) as db, pytest.raises(Unavailable) as caught:
            db.upgrade()
        assert one_line(caught).startswith(f"{path}: the database cannot be used (")


@pytest.mark.postgres
def test_a_server_that_is_not_there_is_unavailable_and_its_password_stays_secret(tmp_path):
    pytest.importorskip("psycopg")
    with Database(f"postgresql://ann:pass%20word@/nas?host={tmp_path}", wait_s=0.3) as db:
        with pytest.raises(Unavailable) as caught:
            db.now()
        assert one_line(caught).startswith("postgresql://ann:***@/nas: the database cannot be used (")
        assert "pass" not in one_line(caught).replace("password", "")


@pytest.mark.parametrize("url", ["mysql://u:secret@h/d", "sqlite://", "sqlite:///:memory:", "://secret"])
def test_addresses_of_nothing_that_is_known_are_refused_without_telling_them(url):
    with pytest.raises(ServiceError, match="must be a path or as postgresql") as caught:
        Database(url)
    assert "secret" not in one_line(caught)


def test_a_file_can_be_named_by_url_too(tmp_path):
    with Database(f"sqlite:///{tmp_path}/nas.sqlite") as db:
        assert db.url == f"{tmp_path}/nas.sqlite"
        db.now()
    assert (tmp_path / "nas.sqlite").exists()


@pytest.mark.parametrize(("durable", "synchronous"), [(True, 2), (False, 1)])
def test_a_sqlite_file_waits_for_the_disk_where_it_is_to_and_keeps_references_whole(tmp_path, durable, synchronous):
    def said(connection, name: str):
        return connection.exec_driver_sql(f"PRAGMA {name}").scalar()

    with Database(tmp_path / "nas.sqlite", durable=durable) as db:
        names = ("journal_mode", "synchronous", "foreign_keys")
        assert db.read(lambda connection: [said(connection, name) for name in names]) == ["wal", synchronous, 1]


def test_ids_sort_by_time_and_differ():
    ids = []
    for _ in range(3):
        ids.append(new_id("j"))
        wall.sleep(0.002)
    assert ids == sorted(ids)
    many = {new_id("j") for _ in range(1000)}
    assert len(many) == 1000
    assert {len(each) for each in many} == {27}


def test_json_columns_refuse_what_is_no_json():
    column = Json()
    for value in (None, 0, "", [], {"a": [1, None, "\x00é"]}):
        assert column.process_result_value(column.process_bind_param(value, None), None) == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        column.process_bind_param({"accuracy": float("nan")}, None)
