"""The trial store: what was written is there for good, whole, in SQLite as in PostgreSQL."""

import json
import os
import resource
import secrets
import signal
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nas.database import Database
from nas.errors import JobError
from nas.searching.store import STORE_FORMAT, Evaluation, Proposal, TrialStore
from search_spaces import define_space
from tests.nas.service.databases import LostAnswers

pytest_plugins = ["tests.nas.searching.postgres"]

SPACE = define_space("tiny")
ARCHS = SPACE.decode(np.unique(SPACE.sample(np.random.default_rng(0), 60), axis=0))
ROWS = SPACE.encode(ARCHS).tolist()
INPUTS = {"supernet": "ab12" * 16, "data": "77"}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request, tmp_path) -> str | Path:
    """Where a store may be made: the tests that take it hold for both databases."""
    return tmp_path / "trials.sqlite" if request.param == "sqlite" else request.getfixturevalue("postgres")


def evaluation(i: int = 0, accuracy: float = 0.75, images: int = 100, seconds: float = 1.5) -> Evaluation:
    return Evaluation(ARCHS[i].id, images, accuracy, seconds)


def generation(first: int, count: int = 3, number: int = 0) -> list[Proposal]:
    """So many proposals of one generation, from this number on."""
    asked = [(ARCHS[i % 9].id, tuple(ROWS[i % 9])) for i in range(first, first + count)]
    return [
        Proposal(first + i, number, "all", "sampler", arch_id, codes, {"nsga:generation": number})
        for i, (arch_id, codes) in enumerate(asked)
    ]


def begun(url: str | Path, search: str = "one/seed0") -> TrialStore:
    store = TrialStore(url)
    store.begin(search, INPUTS)
    return store


def one_line(caught: pytest.ExceptionInfo) -> str:
    message = str(caught.value)
    assert "\n" not in message
    assert "sqlalche" not in message
    return message


# What is written comes back


def test_what_was_written_is_there_when_the_store_is_opened_again(url):
    with begun(url) as store:
        assert store.evaluations("x") == store.archs("x") == {}
        assert store.proposals("one/seed0") == []
        store.add("x", ARCHS[0], evaluation(0))
        store.propose("one/seed0", generation(0))
    with TrialStore(url) as store:
        assert store.evaluations("x") == {(ARCHS[0].id, 100): evaluation(0)}
        assert store.archs("x") == {ARCHS[0].id: ARCHS[0].to_json()}
        assert store.searches() == {"one/seed0": INPUTS}
        assert store.proposals("one/seed0") == generation(0)


SHARES = st.floats(0.0, 1.0)
ADDED = st.lists(
    st.tuples(
        st.sampled_from(["x", "y"]),
        st.builds(evaluation, st.integers(0, 5), SHARES, st.sampled_from([0, 50, 2**31 - 1]), st.floats(0.0, 1e6)),
    ),
    max_size=12,
)
FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
BY_ID = {arch.id: arch for arch in ARCHS}


@FEW
@given(added=ADDED)
def test_the_first_evaluation_of_a_network_on_so_many_images_stays_to_the_last_bit(url, added):
    salt = secrets.token_hex(8)  # the database is the same for all examples
    wanted: dict[str, dict] = {f"{salt}x": {}, f"{salt}y": {}}
    with TrialStore(url) as store:
        for context, each in added:
            store.add(f"{salt}{context}", BY_ID[each.arch_id], each)
            wanted[f"{salt}{context}"].setdefault((each.arch_id, each.images), each)
    with TrialStore(url) as store:
        for context, found in wanted.items():
            assert store.evaluations(context) == found
            assert store.archs(context) == {key: BY_ID[key].to_json() for key, _ in found}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
ASKED = st.tuples(st.text(st.characters(exclude_categories=["Cs", "Cc"])), st.dictionaries(st.text(), JSON, max_size=3))


@FEW
@given(asked=st.lists(st.lists(ASKED, max_size=4), max_size=4))
def test_generations_come_back_as_they_were_proposed(url, asked):
    search = secrets.token_hex(8)
    wanted: list[Proposal] = []
    with begun(url, search) as store:
        for number, each in enumerate(asked):
            first = len(wanted)
            proposals = [
                Proposal(first + i, number, "all", source, ARCHS[i].id, (i, 0, 32767), attrs)
                for i, (source, attrs) in enumerate(each)
            ]
            store.propose(search, proposals)
            wanted += proposals
    with TrialStore(url) as store:
        assert store.proposals(search) == wanted


def test_numbers_of_numpy_are_written_as_numbers(url):
    row = SPACE.encode(ARCHS[:1])[0]
    odd = Evaluation(ARCHS[0].id, np.int64(100), np.float32(0.1), np.float64(1.5))
    with begun(url) as store:
        store.add("x", ARCHS[0], odd)
        store.propose("one/seed0", [Proposal(np.int64(0), np.int32(0), "all", "founder", ARCHS[0].id, tuple(row), {})])
        assert store.evaluations("x") == {(ARCHS[0].id, 100): evaluation(0, float(np.float32(0.1)))}
        assert store.proposals("one/seed0")[0].codes == tuple(row.tolist())


def test_searches_and_contexts_do_not_see_each_other(url):
    with begun(url, "one") as store:
        store.begin("two", {})
        store.propose("one", generation(0))
        store.add("x", ARCHS[0], evaluation(0))
        assert store.proposals("two") == []
        assert store.evaluations("y") == store.archs("y") == {}
        store.propose("two", generation(0, 1))
        assert len(store.proposals("one")) == 3
        assert store.searches() == {"one": INPUTS, "two": {}}


def test_another_reader_sees_what_was_written_at_once(url):
    with begun(url) as store, TrialStore(url) as reader:
        store.add("x", ARCHS[0], evaluation(0))
        store.propose("one/seed0", generation(0))
        assert len(reader.evaluations("x")) == 1
        assert len(reader.proposals("one/seed0")) == 3


@pytest.mark.parametrize("broken", [{"accuracy": float("nan")}, {"accuracy": 1.01}, {"images": -1}, {"seconds": -1.0}])
def test_what_is_no_evaluation_is_refused(broken):
    with pytest.raises(ValueError, match="not an evaluation"):
        evaluation(0, **broken)


# What a search promises


def test_a_search_goes_on_with_the_same_inputs_only(url):
    with begun(url) as store:
        store.begin("one/seed0", dict(reversed(INPUTS.items())))
        with pytest.raises(JobError) as caught:
            store.begin("one/seed0", INPUTS | {"supernet": "cd34" * 16})
        assert "input `supernet` changed since the search began (was ab12ab12ab12..., is cd34cd34cd34...);" in one_line(
            caught
        )
        with pytest.raises(JobError, match=r"`data` .*\(was 77, is absent\); input `seed` .*\(was absent, is 1\)"):
            store.begin("one/seed0", {"supernet": INPUTS["supernet"], "seed": "1"})
        assert store.searches() == {"one/seed0": INPUTS}


@pytest.mark.parametrize("first", [2, 4, -1])
def test_a_generation_that_does_not_go_on_where_the_last_ended_is_refused_whole(url, first):
    with begun(url) as store:
        store.propose("one/seed0", generation(0))
        with pytest.raises(JobError, match=r"proposal 3 of search one/seed0 comes next, not \["):
            store.propose("one/seed0", generation(first))
        with pytest.raises(JobError, match="comes next"):
            store.propose("one/seed0", [*generation(3, 2), *generation(3, 1)])
        assert store.proposals("one/seed0") == generation(0)


def test_a_search_that_has_not_begun_takes_no_proposals(url):
    with TrialStore(url) as store, pytest.raises(JobError, match="search one/seed0 has not begun"):
        store.propose("one/seed0", generation(0))


def test_an_empty_generation_is_none(url):
    with begun(url) as store:
        store.propose("one/seed0", [])
        assert store.proposals("one/seed0") == []


# Kills, locks, full disks


def write_without_end(url: str | Path, pipe: int, proposed: int, added: int) -> None:
    """Generations of 20 with 3 evaluations after each, going on from these counts; what is written is said."""
    with TrialStore(url) as store:
        while True:
            store.propose("one/seed0", generation(proposed, 20, proposed // 20))
            proposed += 20
            os.write(pipe, f"proposed {proposed}\n".encode())
            for _ in range(3):
                store.add("x", ARCHS[0], evaluation(0, 1 / (added + 1), images=added))
                added += 1
                os.write(pipe, f"added {added}\n".encode())


def killed_while_writing(url: str | Path, after: int, proposed: int, added: int) -> dict[str, int]:
    """What a writer had said that it had written when it was killed, soon after so many lines."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            write_without_end(url, writing, proposed, added)
        finally:
            os._exit(1)
    os.close(writing)
    with open(reading) as pipe:  # noqa: PTH123, a descriptor
        said = [pipe.readline() for _ in range(after)]
        os.kill(child, signal.SIGKILL)
        said += pipe.readlines()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    return {kind: int(count) for kind, count in map(str.split, said)}


def test_a_writer_that_is_killed_leaves_whole_generations_and_everything_that_it_had_finished(url):
    begun(url).close()
    proposals, evaluations = [], {}
    for after in np.random.default_rng(0).integers(1, 12, 20):
        before = {"proposed": len(proposals), "added": len(evaluations)}
        done = before | killed_while_writing(url, after, **before)
        with TrialStore(url) as store:
            proposals, evaluations = store.proposals("one/seed0"), store.evaluations("x")
        # What was being written may be there or not.
        assert len(proposals) in (done["proposed"], done["proposed"] + 20)
        assert len(evaluations) in (done["added"], done["added"] + 1)
        assert proposals == [p for first in range(0, len(proposals), 20) for p in generation(first, 20, first // 20)]
        assert [each.accuracy for each in evaluations.values()] == [1 / (i + 1) for i in range(len(evaluations))]


def test_a_store_that_another_process_keeps_locked_is_read_but_not_written(tmp_path):
    begun(tmp_path / "a.sqlite").close()
    with closing(sqlite3.connect(tmp_path / "a.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with TrialStore(tmp_path / "a.sqlite", wait_s=0.1) as store:
            assert store.searches() == {"one/seed0": INPUTS}
            with pytest.raises(JobError, match=r"another process has kept it locked for 0\.1 s") as caught:
                store.add("x", ARCHS[0], evaluation(0))
            assert str(tmp_path / "a.sqlite") in one_line(caught)
            other.execute("ROLLBACK")
            store.add("x", ARCHS[0], evaluation(0))
            other.execute("BEGIN EXCLUSIVE")
            assert len(store.evaluations("x")) == 1, "whoever writes keeps nobody from reading"


def say(url: str, statement: str) -> None:
    """Something to the server, past the store."""
    import psycopg

    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        connection.execute(statement)


@pytest.mark.postgres
def test_a_table_that_another_process_keeps_locked_is_not_waited_for_without_end(postgres):
    import psycopg

    with TrialStore(postgres, wait_s=0.1) as store, psycopg.connect(postgres.replace("+psycopg", "")) as other:
        other.execute("LOCK TABLE evaluations")
        with pytest.raises(JobError, match=r"another process has kept it locked for 0\.1 s") as caught:
            store.add("x", ARCHS[0], evaluation(0))
        one_line(caught)
        other.rollback()
        store.add("x", ARCHS[0], evaluation(0))


@pytest.mark.postgres
def test_a_connection_that_the_server_has_closed_is_made_again(postgres):
    others = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname IS NOT NULL AND pid <> pg_backend_pid()"
    )
    with TrialStore(postgres) as store:
        store.add("x", ARCHS[0], evaluation(0))
        say(postgres, others)
        assert len(store.evaluations("x")) == 1


def test_what_was_written_is_written_once_where_the_answer_is_lost(url):
    with begun(url) as store:
        answers = LostAnswers(store._db)
        writes = [
            lambda: store.begin("two", {}),
            lambda: store.propose("one/seed0", generation(0)),
            lambda: store.propose("one/seed0", generation(3)),
            lambda: store.add("x", ARCHS[0], evaluation(0)),
            lambda: store.forget("two"),
        ]
        for write in writes:
            answers.left = 2
            write()
            assert answers.left == 0
        assert store.searches() == {"one/seed0": INPUTS}
        assert store.proposals("one/seed0") == generation(0) + generation(3)
        assert store.evaluations("x") == {(ARCHS[0].id, 100): evaluation(0)}
        with pytest.raises(JobError, match="proposal 6 of search one/seed0 comes next"):
            store.propose("one/seed0", generation(3))


@pytest.mark.postgres
def test_two_that_open_an_empty_database_at_once_both_can(postgres):
    with ThreadPoolExecutor(8) as pool:
        for store in pool.map(TrialStore, [postgres] * 8):
            store.close()


def fill(store: TrialStore) -> None:
    for first in range(0, 100_000, 500):
        store.propose("one/seed0", generation(first, 500, first // 500))


def test_a_full_disk_takes_nothing_or_everything(tmp_path):
    store = begun(tmp_path / "a.sqlite")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (tmp_path / "a.sqlite").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 8192, limits[1]))
    try:
        with pytest.raises(JobError, match=r"a\.sqlite: cannot be written .*--resume") as caught:
            fill(store)
        one_line(caught)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    count = len(store.proposals("one/seed0"))
    assert count % 500 == 0
    store.propose("one/seed0", generation(count, 500))
    assert len(store.proposals("one/seed0")) == count + 500
    store.close()


# What is no store, or not one of this version


def test_a_store_of_a_newer_version_is_refused(url):
    TrialStore(url).close()
    with Database(url) as db:
        db.write(lambda connection: connection.exec_driver_sql(f"UPDATE meta SET value = '{STORE_FORMAT + 1}'"))
    with pytest.raises(JobError, match=r"was written by a newer version \(schema 3, this one knows 2\)") as caught:
        TrialStore(url)
    one_line(caught)


def schema_1(path: Path, statement: str = "") -> None:
    """A file as the first version wrote it."""
    with closing(sqlite3.connect(path)) as database, database:
        database.executescript("""
            CREATE TABLE identity (key TEXT PRIMARY KEY, value TEXT NOT NULL);
            CREATE TABLE evaluations (
                arch_id TEXT PRIMARY KEY, arch TEXT NOT NULL, val_accuracy REAL NOT NULL, seconds REAL NOT NULL
            );
            INSERT INTO identity VALUES ('evaluations', 'mine');
        """)
        rows = [(arch.id, json.dumps(arch.to_json()), 1 / (i + 3), 0.5 * i) for i, arch in enumerate(ARCHS)]
        database.executemany("INSERT INTO evaluations VALUES (?, ?, ?, ?)", rows)
        database.execute(statement)


def test_a_store_of_the_first_version_is_brought_up_to_date(tmp_path):
    schema_1(tmp_path / "a.sqlite")
    for _ in range(2):
        with TrialStore(tmp_path / "a.sqlite") as store:
            assert store.evaluations("mine") == {
                (arch.id, 0): Evaluation(arch.id, 0, 1 / (i + 3), 0.5 * i) for i, arch in enumerate(ARCHS)
            }
            assert store.archs("mine") == {arch.id: arch.to_json() for arch in ARCHS}
            store.add("mine", ARCHS[0], evaluation(0, images=0))
            assert len(store.evaluations("mine")) == len(ARCHS)
    with closing(sqlite3.connect(tmp_path / "a.sqlite")) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")]
    assert names == ["archs", "evaluations", "meta", "proposals", "searches"]


def test_an_upgrade_that_fails_leaves_the_file_as_it_was(tmp_path):
    # The name of the last table that is made is taken.
    schema_1(tmp_path / "a.sqlite", "CREATE INDEX proposals ON evaluations (seconds)")
    with closing(sqlite3.connect(tmp_path / "a.sqlite")) as database:
        before = list(database.iterdump())
    with pytest.raises(JobError, match=r"a\.sqlite: cannot be written .*an index named proposals"):
        TrialStore(tmp_path / "a.sqlite")
    with closing(sqlite3.connect(tmp_path / "a.sqlite")) as database:
        assert list(database.iterdump()) == before


def test_a_database_of_something_else_is_refused_and_kept(tmp_path):
    with closing(sqlite3.connect(tmp_path / "a.sqlite")) as database, database:
        database.execute("CREATE TABLE bookmarks (url TEXT)")
    with pytest.raises(JobError, match=r"a\.sqlite: is no trial store; it has tables of something else: bookmarks"):
        TrialStore(tmp_path / "a.sqlite")
    with closing(sqlite3.connect(tmp_path / "a.sqlite")) as database:
        assert [name for (name,) in database.execute("SELECT name FROM sqlite_master")] == ["bookmarks"]


@pytest.mark.postgres
def test_tables_of_something_else_may_stand_beside_those_of_a_store_on_a_server(postgres):
    say(postgres, "CREATE TABLE bookmarks (url TEXT)")
    begun(postgres).close()
    say(postgres, "DROP TABLE meta")
    with pytest.raises(JobError, match="is no trial store"):
        TrialStore(postgres)


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path):
    content = b"not a database, but long enough to be looked at" * 100
    (tmp_path / "a.sqlite").write_bytes(content)
    with pytest.raises(JobError, match=r"a\.sqlite: cannot be read .*it is no store") as caught:
        TrialStore(tmp_path / "a.sqlite")
    one_line(caught)
    assert (tmp_path / "a.sqlite").read_bytes() == content


def test_a_store_in_a_folder_that_is_not_there_is_refused(tmp_path):
    for path in (tmp_path / "absent" / "a.sqlite", tmp_path):
        with pytest.raises(JobError, match=r"unable to open.*may you write there") as caught:
            TrialStore(path)
        one_line(caught)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE proposals SET codes = '[1'", "delimiter"),
        ("UPDATE proposals SET codes = '7'", "not iterable"),
        ("UPDATE evaluations SET accuracy = 'high'", "not supported between"),
        ("UPDATE evaluations SET accuracy = 1e9", "not an evaluation: 1000000000.0 on 100 images"),
    ],
)
def test_what_a_store_should_not_hold_is_refused(tmp_path, statement, said):
    with begun(tmp_path / "a.sqlite") as store:
        store.propose("one/seed0", generation(0))
        store.add("x", ARCHS[0], evaluation(0))
    with closing(sqlite3.connect(tmp_path / "a.sqlite")) as database, database:
        database.execute(statement)
    with pytest.raises(JobError, match=rf"a\.sqlite: cannot be read \(.*{said}"):
        use_all_of(tmp_path / "a.sqlite")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_refused_in_one_line_or_read(whole_file, tmp_path, data):
    content = bytearray(whole_file)
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(1, len(content) - 1)) :]
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        content[start : start + 40] = data.draw(st.binary(min_size=1, max_size=40))
    (tmp_path / "a.sqlite").write_bytes(content)
    said = ""
    try:
        use_all_of(tmp_path / "a.sqlite")
    except JobError as error:
        said = str(error)
    assert said == "" or said.startswith(f"{tmp_path / 'a.sqlite'}: ")
    assert "\n" not in said


def use_all_of(path: Path) -> None:
    with TrialStore(path, wait_s=0.1) as store:
        store.begin("one/seed0", INPUTS)
        store.proposals("one/seed0")
        store.evaluations("x")
        store.archs("x")
        store.searches()
        store.add("x", ARCHS[20], evaluation(20))
        store.propose("one/seed0", generation(9))


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "a.sqlite"
    with begun(path) as store:
        store.propose("one/seed0", generation(0, 9))
        for i in range(20):
            store.add("x", ARCHS[i], evaluation(i))
    return path.read_bytes()


# Addresses


@pytest.mark.parametrize(
    "address", ["mysql://me:secret@host/db", "postgresql+psycopg://me:secret@host:port/db", "://secret"]
)
def test_an_address_of_something_else_is_refused_without_showing_it(address):
    with pytest.raises(JobError, match=r"must be a path or as postgresql\+psycopg://user@host/name") as caught:
        TrialStore(address)
    assert "secret" not in one_line(caught)


@pytest.mark.parametrize("address", ["postgresql+psycopg://me:secret@{}/db", "postgresql://me@{}/db?password=secret"])
def test_a_server_that_does_not_answer_is_refused_at_once_without_showing_the_password(monkeypatch, address):
    pytest.importorskip("psycopg")
    monkeypatch.setattr("nas.database.time.sleep", lambda pause_s: pytest.fail("it was asked again"))
    with pytest.raises(JobError, match=r"postgresql.*://me.*@127\.0\.0\.1:1/db: cannot be read") as caught:
        TrialStore(address.format("127.0.0.1:1"))
    assert "secret" not in one_line(caught)


def test_a_path_may_be_a_text_and_a_url(tmp_path):
    begun(f"sqlite:///{tmp_path / 'a.sqlite'}").close()
    for address in (str(tmp_path / "a.sqlite"), tmp_path / "a.sqlite"):
        with TrialStore(address) as store:
            assert store.searches() == {"one/seed0": INPUTS}


def test_a_store_in_memory_is_gone_with_it():
    with begun(Path(":memory:")) as store:
        assert store.searches() == {"one/seed0": INPUTS}
    with TrialStore(Path(":memory:")) as store:
        assert store.searches() == {}


# In a service's database


def test_searches_of_one_scope_are_not_seen_in_another_but_evaluations_are(url):
    with TrialStore(url, scope="j1") as one, TrialStore(url, scope="j2") as two:
        one.begin("same/0", INPUTS)
        two.begin("same/0", {"supernet": "other"})
        one.propose("same/0", generation(0))
        one.add("x", ARCHS[0], evaluation(0))
        assert (len(one.proposals("same/0")), len(two.proposals("same/0"))) == (3, 0)
        assert one.searches() == {"same/0": INPUTS}
        assert two.evaluations("x") == one.evaluations("x") != {}
        two.forget("same")
        assert (list(one.searches()), list(two.searches())) == (["same/0"], [])


def test_who_may_no_longer_write_writes_nothing(url):
    class Lost(Exception):
        pass

    def fence(connection):
        assert connection.in_transaction()
        if lost:
            raise Lost

    lost = []
    with TrialStore(url, fence=fence) as store:
        store.begin("one/0", INPUTS)
        lost.append(True)
        writes = [
            lambda: store.begin("two/0", INPUTS),
            lambda: store.propose("one/0", generation(0)),
            lambda: store.add("x", ARCHS[0], evaluation(0)),
            lambda: store.forget("one"),
        ]
        for write in writes:
            with pytest.raises(Lost):
                write()
        assert store.searches() == {"one/0": INPUTS}
        assert store.proposals("one/0") == []
        assert store.evaluations("x") == {}


def test_a_store_may_stand_beside_the_tables_of_a_service(tmp_path):
    path = tmp_path / "service.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE service_version (version_num TEXT)")
        connection.execute("CREATE TABLE jobs (id TEXT)")
        connection.commit()
    with TrialStore(path) as store:
        store.add("x", ARCHS[0], evaluation(0))
    with TrialStore(path) as store:
        assert len(store.evaluations("x")) == 1
