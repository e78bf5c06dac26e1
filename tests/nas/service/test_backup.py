"""Backups: what comes out is what went in, in either database; what is damaged changes nothing."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import MetaData, select

from nas.database import Database
from nas.searching.store import Evaluation, Proposal, TrialStore
from nas.service import schema
from nas.service.artefacts import Artefacts
from nas.service.backup import STAYS_BEHIND, TRIALS, _parents_first, backup, restore
from nas.service.backup_file import BackupError
from nas.service.blobs import BlobDamaged, Blobs
from nas.service.errors import LeaseLost
from nas.service.events import EventLog
from nas.service.garbage import collect
from nas.service.jobs import JobStore
from nas.service.settings import Settings
from nas.service.uploads import Uploads
from tests.nas.fakes import small_space
from tests.nas.service.databases import START_S, add_user, submission
from tests.nas.service.test_garbage import add_task

pytest_plugins = ["tests.nas.searching.postgres"]

CHANGED = {"jobs", "events", "tasks", *STAYS_BEHIND}
"""Tables that a restored service does not have as they were."""


@pytest.fixture
def service(tmp_path, url) -> Settings:
    """A service that has something of everything, with a job that runs, one to be cancelled and one that has ended."""
    found = Settings(tmp_path / "from", database=str(url))
    found.data.mkdir()
    with Database(found.database_url) as db:
        db.upgrade()
        add_user(db, "ann")
        fill(db, Blobs(found.blobs_url))
    with TrialStore(found.database_url) as trials:
        arch = small_space().smallest()
        trials.add("context", arch, Evaluation(arch.id, 0, 0.125, 1e-9))
        trials.begin("j1/0", {"supernet": "abc"})
        trials.propose("j1/0", [Proposal(0, 0, "all", "ends", arch.id, (1, 0), {"a": [1.5, None]})])
    return found


def fill(db: Database, blobs: Blobs) -> None:
    jobs, artefacts = JobStore(db), Artefacts(db, blobs)
    for name, priority in (("ended", 3), ("cancelling", 2), ("running", 1)):
        jobs.submit(submission(name=name, priority=priority, spec={"text": "ä\u2028\x00", "n": 1e300}))
        lease = jobs.claim("w", 1e9)[1]
        artefacts.add(lease, {"train.safetensors": name.encode() * 1000, "job.json": b"{}"})
        if name == "ended":
            jobs.finish(lease, "SUCCEEDED", result={"accuracy": 0.5})
        elif name == "cancelling":
            jobs.cancel(lease.job_id)
    parent = next(job for job in jobs.page() if job.name == "ended")
    jobs.submit(submission(name="waiting", parent=parent.id))
    Uploads(db, blobs, lambda kind, path: {"nodes": 1}).add("ann", "onnx", "m", b"upload")
    add_task(db, blobs, "t1", b"graph", state="RUNNING", lease_expires_s=1e12, job_id=parent.id)
    blobs.put(b"garbage")
    collect(db, blobs, 1e9)
    token = {"id": "k", "user_id": "ann", "label": "l", "hash": "h", "scopes": ["jobs"], "created_s": START_S}
    session = {"hash": "h", "user_id": "ann", "csrf": "c", "created_s": START_S, "expires_s": START_S}
    db.write(lambda connection: connection.execute(schema.tokens.insert(), token))
    db.write(lambda connection: connection.execute(schema.sessions.insert(), session))
    jobs.beat("w", "host", 1)


@pytest.fixture
def empty(tmp_path) -> Settings:
    (tmp_path / "to").mkdir()
    return Settings(tmp_path / "to")


def rows(settings: Settings) -> dict[str, list]:
    """All rows of all tables, in order."""

    def work(connection) -> dict[str, list]:
        trials = MetaData()
        trials.reflect(connection, only=list(TRIALS))
        tables = (*schema.METADATA.sorted_tables, *trials.sorted_tables)
        return {table.name: connection.execute(select(table).order_by(*table.primary_key)).all() for table in tables}

    with Database(settings.database_url) as db:
        return db.read(work)


def check_the_same(before: dict[str, list], settings: Settings) -> None:
    after = rows(settings)
    assert set(after) == set(before)
    for name in before.keys() - CHANGED - {"blobs"}:
        assert after[name] == before[name], name
        assert before[name] or name in ("devices", "enrolments", "rounds")
    named = {row.sha256 for name in ("artefacts", "uploads") for row in before[name]}
    assert {row.sha256 for row in after["blobs"]} > named
    store = Blobs(settings.blobs_url)
    assert all(len(store.read(row.sha256)) == row.bytes for row in after["blobs"])
    assert b"garbage" not in {store.read(blob.sha256) for blob in store.walk()}


def test_a_restored_service_has_what_the_old_one_had(service, empty, tmp_path):
    before = rows(service)
    made = backup(service, tmp_path / "file.tar")
    found = restore(tmp_path / "file.tar", empty)
    assert made == found
    assert (found.jobs, found.blobs) == (4, 6)
    check_the_same(before, empty)


@pytest.mark.postgres
def test_a_backup_of_a_file_is_restored_into_a_server(tmp_path, postgres):
    source = Settings(tmp_path / "from")
    source.data.mkdir()
    with Database(source.database_url) as db:
        db.upgrade()
        add_user(db, "ann")
        fill(db, Blobs(source.blobs_url))
    TrialStore(source.database_url).close()
    before = rows(source)
    backup(source, tmp_path / "file.tar")
    target = Settings(tmp_path / "to", database=postgres, blobs=f"memory://{tmp_path.name}")
    restore(tmp_path / "file.tar", target)
    after = rows(target)
    for name in before.keys() - CHANGED - {"blobs"}:
        assert after[name] == before[name], name


def test_jobs_that_ran_wait_again_and_their_holders_are_shut_out(service, empty, tmp_path):
    backup(service, tmp_path / "file.tar")
    restore(tmp_path / "file.tar", empty)
    with Database(empty.database_url) as db:
        jobs, log = JobStore(db), EventLog(db)
        found = {job.name: job for job in jobs.page()}
        states = {name: job.state for name, job in found.items()}
        assert states == {"ended": "SUCCEEDED", "cancelling": "CANCELLED", "running": "QUEUED", "waiting": "QUEUED"}
        for job in found.values():
            events = log.since(job.id, 0)
            assert [event.seq for event in events] == list(range(1, job.last_seq + 1))
            assert events[-1].data["state"] == job.state
        task = db.read(lambda connection: connection.execute(select(schema.tasks)).one())
        assert (task.state, task.lease_expires_s) == ("QUEUED", None)
        claimed, lease = jobs.claim("w2", 30.0)
        assert (claimed.name, claimed.epoch) == ("running", 2)
        with pytest.raises(LeaseLost):
            jobs.renew(replace(lease, epoch=1, worker="w"), 30.0)


def test_sessions_and_workers_stay_behind_and_tokens_do_not(service, empty, tmp_path):
    backup(service, tmp_path / "file.tar")
    restore(tmp_path / "file.tar", empty)
    after = rows(empty)
    assert (after["sessions"], after["workers"]) == ([], [])
    assert len(after["tokens"]) == 1


def test_a_service_that_has_something_is_not_overwritten(service, empty, tmp_path):
    backup(service, tmp_path / "file.tar")
    with Database(empty.database_url) as db:
        db.upgrade()
        add_user(db, "bob")
    before = rows_of_ours(empty)
    with pytest.raises(BackupError, match="has users already; restore into an empty service"):
        restore(tmp_path / "file.tar", empty)
    assert rows_of_ours(empty) == before


def rows_of_ours(settings: Settings) -> dict[str, list]:
    def work(connection):
        return {table.name: connection.execute(select(table)).all() for table in schema.METADATA.sorted_tables}

    with Database(settings.database_url) as db:
        return db.read(work)


def changed(file: Path, change) -> Path:
    """A backup with other members: `change` gets and gives a dict of name to bytes."""
    with tarfile.open(file) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    target = file.with_name("changed.tar")
    with tarfile.open(target, "w") as tar:
        for name, content in change(members).items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return target


def a_blob(members: dict) -> str:
    return next(name for name in members if name.startswith("blobs/"))


def with_manifest(members: dict, **values) -> dict:
    return members | {"manifest.json": json.dumps(json.loads(members["manifest.json"]) | values).encode()}


BROKEN = {
    "a row is changed": lambda members: (
        members | {"rows/users.jsonl": members["rows/users.jsonl"].replace(b"ann", b"eve")}
    ),
    "a blob is changed": lambda members: members | {a_blob(members): b"other"},
    "a table is missing": lambda members: {name: value for name, value in members.items() if name != "rows/jobs.jsonl"},
    "something is added": lambda members: members | {"../../evil": b"evil"},
    "the manifest is missing": lambda members: {
        name: value for name, value in members.items() if name != "manifest.json"
    },
    "the manifest is no JSON": lambda members: members | {"manifest.json": b"{"},
    "the format is another": lambda members: with_manifest(members, format="nas.backup/9"),
    "the tables are newer": lambda members: with_manifest(members, versions={"service": "9999", "trials": "2"}),
    "a blob that a row names is missing": lambda members: {
        name: value for name, value in members.items() if name != a_blob(members)
    },
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_damaged_backup_changes_nothing(how, tmp_path, empty):
    source = Settings(tmp_path / "from")
    source.data.mkdir()
    with Database(source.database_url) as db:
        db.upgrade()
        add_user(db, "ann")
        fill(db, Blobs(source.blobs_url))
    backup(source, tmp_path / "file.tar")
    file = changed(tmp_path / "file.tar", BROKEN[how])
    with pytest.raises(BackupError):
        restore(file, empty)
    assert not empty.database_url.exists() or not any(rows_of_ours(empty).values())
    assert not list(empty.data.rglob("blobs/??"))


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100])
def test_what_is_no_backup_is_refused(content, tmp_path, empty):
    (tmp_path / "file.tar").write_bytes(content)
    with pytest.raises(BackupError):
        restore(tmp_path / "file.tar", empty)
    with pytest.raises(BackupError, match="cannot be read"):
        restore(tmp_path / "absent.tar", empty)


def test_a_backup_that_is_cut_off_is_refused(service, empty, tmp_path):
    backup(service, tmp_path / "file.tar")
    whole = (tmp_path / "file.tar").read_bytes()
    for share in (0.2, 0.5, 0.8):
        (tmp_path / "cut.tar").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(BackupError):
            restore(tmp_path / "cut.tar", empty)


def test_a_damaged_file_is_not_backed_up_in_silence(service, tmp_path):
    store = Blobs(service.blobs_url)
    path = next(store.path(blob.sha256) for blob in store.walk() if blob.bytes > 100)
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(BlobDamaged):
        backup(service, tmp_path / "file.tar")
    assert list(tmp_path.glob("*.tar*")) == []


def test_a_file_that_is_there_is_not_overwritten(service, tmp_path):
    (tmp_path / "file.tar").write_bytes(b"mine")
    with pytest.raises(BackupError, match="is there already"):
        backup(service, tmp_path / "file.tar")
    assert (tmp_path / "file.tar").read_bytes() == b"mine"


def test_a_backup_is_for_its_owner_alone(service, tmp_path):
    backup(service, tmp_path / "file.tar")
    assert (tmp_path / "file.tar").stat().st_mode & 0o077 == 0
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith((".", "tmp"))] == []


def test_a_collector_that_comes_in_between_takes_nothing_from_a_backup(service, tmp_path, monkeypatch):
    """Files are replaced after the rows were read, and nobody had named them for long: they are still in the backup."""
    from nas.service import backup as module

    def written(*arguments):
        with Database(service.database_url) as db:
            db.write(lambda connection: connection.execute(schema.artefacts.delete()))
            collect(db, Blobs(service.blobs_url), 3600.0)
        return write(*arguments)

    with Database(service.database_url) as db:
        db.write(lambda connection: connection.execute(schema.blobs.update().values(touched_s=0.0)))
    write = module.write_backup
    monkeypatch.setattr(module, "write_backup", written)
    assert backup(service, tmp_path / "file.tar").blobs == 6


def test_children_come_after_their_parents_whatever_their_ids():
    given = [
        {"id": "a", "parent": "c"},
        {"id": "b", "parent": None},
        {"id": "c", "parent": "d"},
        {"id": "d", "parent": "b"},
    ]
    assert [row["id"] for row in _parents_first(given)] == ["b", "d", "c", "a"]
