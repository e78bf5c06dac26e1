"""The collector: takes what nothing names, and nothing else, whatever happens at the same time."""

import json
import os
import threading
from contextlib import suppress
from functools import partial

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import select

from latency_tables.device import Device
from latency_tables.measuring.measure import Protocol
from latency_tables.measuring.measurement import Round
from nas.agent.errors import AgentError
from nas.agent.wire import GraphRef, error_json, measured_json
from nas.database import Database, insert
from nas.service import garbage, schema
from nas.service.artefacts import Artefacts
from nas.service.blob_rows import refer
from nas.service.blobs import BlobMissing, Blobs
from nas.service.farm import Farm
from nas.service.garbage import Collected, collect
from nas.service.jobs import JobStore
from nas.service.tasks import TaskLost
from nas.service.uploads import Uploads
from nas.service.wanted import Wanted
from tests.nas.agent.fakes import ABOUT, HERE, measurement
from tests.nas.service.databases import START_S, Time, add_user, in_memory, submission

pytest_plugins = ["tests.nas.searching.postgres"]
GRACE_S = 100.0


@pytest.fixture
def blobs(tmp_path) -> Blobs:
    return Blobs(tmp_path / "blobs")


@pytest.fixture
def lease(db):
    jobs = JobStore(db)
    jobs.submit(submission())
    return jobs.claim("w", 30.0)[1]


def add_task(db: Database, blobs: Blobs, task_id: str, content: bytes, **values) -> str:
    """A task of an agent that names a model; the digest."""
    blob = blobs.put(content)

    def work(connection) -> None:
        refer(connection, blobs, [blob])
        device = {"name": "pi", "created_by": "ann", "created_s": START_S}
        connection.execute(insert(connection, schema.devices).values(device).on_conflict_do_nothing())
        row = {
            "id": task_id,
            "device": "pi",
            "owner": "ann",
            "key": task_id,
            "state": "QUEUED",
            "epoch": 0,
            "attempts": 0,
        }
        row |= {"payload": {"graphs": [{"sha256": blob.sha256}]}, "created_s": START_S} | values
        connection.execute(insert(connection, schema.tasks).values(row).on_conflict_do_nothing())

    db.write(work)
    return blob.sha256


def test_only_what_nothing_names_is_removed_and_only_when_it_is_old(db, blobs, lease, time):
    named = [
        Artefacts(db, blobs).add(lease, {"a": b"artefact"})["a"].sha256,
        Uploads(db, blobs, lambda kind, path: {}).add("ann", "onnx", "m", b"upload").sha256,
        add_task(db, blobs, "t1", b"graph"),
    ]
    loose = blobs.put(b"loose!")
    assert collect(db, blobs, GRACE_S) == Collected(0, 0)  # from now on it is known
    time.pass_by(GRACE_S - 1)
    assert collect(db, blobs, GRACE_S) == Collected(0, 0)
    time.pass_by(2)
    assert collect(db, blobs, GRACE_S) == Collected(1, 6)
    assert not blobs.exists(loose.sha256)
    assert all(map(blobs.exists, named))
    assert collect(db, blobs, GRACE_S) == Collected(0, 0)


def test_what_a_task_names_goes_once_the_task_has_ended(db, blobs, time):
    waiting = add_task(db, blobs, "t1", b"graph")
    ended = add_task(db, blobs, "t2", b"another", finished_s=START_S)
    collect(db, blobs, 0.0)
    time.pass_by(1)
    collect(db, blobs, 0.0)
    assert (blobs.exists(waiting), blobs.exists(ended)) == (True, False)


@pytest.fixture
def long_lease(db):
    jobs = JobStore(db)
    jobs.submit(submission())
    return jobs.claim("w", 1e6)[1]


@pytest.fixture
def farm(db) -> Farm:
    farm = Farm(db)
    code, _ = farm.enrolment("pi", "ann")
    farm.enrol(code, "n", ABOUT)
    return farm


def measured_for(farm: Farm, lease, blobs: Blobs) -> tuple[str, str, dict]:
    """A task that has succeeded, one that its machine never took, and what the machine said last of the first."""
    task, late = (
        farm.tasks.submit(lease, wanted(blobs, name), partial(refer, store=blobs, found=[blobs.put(name.encode())]))
        for name in "ab"
    )
    epoch = farm.tasks.claim("pi", "p").epoch
    found = measured_json({"a": measurement("a", [Round((1.0,), 100.0, 1.0)])})
    said = {"measured": json.loads(json.dumps(found))}
    farm.tasks.finish("pi", task, epoch, said)
    return task, late, said


def wanted(blobs: Blobs, name: str) -> Wanted:
    blob = blobs.put(name.encode())
    return Wanted("pi", Device("mine"), Protocol(), HERE.id, (GraphRef(name, blob.sha256, blob.bytes),))


def rows_of(db: Database, table, *columns) -> list:
    return db.read(lambda connection: connection.execute(select(*columns).select_from(table).order_by(*columns)).all())


def test_what_was_measured_goes_once_its_job_has_ended_for_the_grace(db, blobs, long_lease, farm, time):
    task, late, _ = measured_for(farm, long_lease, blobs)
    collect(db, blobs, GRACE_S)
    time.pass_by(2 * GRACE_S)
    collect(db, blobs, GRACE_S)
    assert set(farm.tasks.measured(task)) == {"a"}, "its job may ask for it again as long as it runs"
    JobStore(db).finish(long_lease, "SUCCEEDED")
    time.pass_by(GRACE_S - 1)
    collect(db, blobs, GRACE_S)
    assert set(farm.tasks.measured(task)) == {"a"}
    assert len(list(blobs.walk())) == 1, "the machine may still come for what it has not measured"
    time.pass_by(2)
    collect(db, blobs, GRACE_S)
    columns = schema.tasks.c
    assert rows_of(db, schema.tasks, columns.id, columns.state, columns.payload, columns.result) == [
        (task, "SUCCEEDED", {"graphs": []}, None),
        (late, "CANCELLED", {"graphs": []}, None),
    ]
    assert rows_of(db, schema.rounds, schema.rounds.c.task_id) == []
    assert list(blobs.walk()) == []


def test_what_comes_late_for_a_task_that_was_emptied_is_refused_and_leaves_nothing(db, blobs, long_lease, farm, time):
    task, late, said = measured_for(farm, long_lease, blobs)
    epoch = farm.tasks.claim("pi", "p2").epoch
    JobStore(db).finish(long_lease, "SUCCEEDED")
    time.pass_by(GRACE_S + 1)
    collect(db, blobs, GRACE_S)
    for each in (task, late):
        with pytest.raises((TaskLost, AgentError)):
            farm.tasks.finish("pi", each, epoch, said)
        with pytest.raises(TaskLost):
            farm.tasks.append("pi", each, epoch, [])
        with pytest.raises(TaskLost):
            farm.tasks.finish("pi", each, epoch, {"error": error_json("infrastructure", "what its agent says then")})
    assert farm.tasks.claim("pi", "p3") is None
    assert rows_of(db, schema.rounds, schema.rounds.c.task_id) == []


def test_a_replaced_file_of_a_job_is_removed_after_the_grace(db, blobs, lease, time):
    artefacts = Artefacts(db, blobs)
    old = artefacts.add(lease, {"train.safetensors": b"old"})["train.safetensors"].sha256
    artefacts.add(lease, {"train.safetensors": b"new"})
    collect(db, blobs, GRACE_S)
    assert blobs.exists(old)
    time.pass_by(GRACE_S + 1)
    assert collect(db, blobs, GRACE_S).files == 1
    assert not blobs.exists(old)


def test_a_blob_that_is_named_again_is_young_again(db, blobs, lease, time):
    loose = blobs.put(b"loose")
    collect(db, blobs, GRACE_S)
    time.pass_by(GRACE_S + 1)
    db.write(lambda connection: refer(connection, blobs, [loose]))
    assert collect(db, blobs, GRACE_S).files == 0
    assert blobs.exists(loose.sha256)


def test_what_a_task_names_while_a_collection_is_under_way_stays(db, blobs, time, monkeypatch):
    digest = blobs.put(b"graph").sha256
    collect(db, blobs, GRACE_S)
    time.pass_by(GRACE_S + 1)
    removed = garbage._removed

    def named_first(*arguments) -> bool:
        add_task(db, blobs, "t1", b"graph")
        return removed(*arguments)

    monkeypatch.setattr(garbage, "_removed", named_first)
    assert collect(db, blobs, GRACE_S).files == 0
    assert blobs.exists(digest)


def test_leftovers_of_killed_puts_are_removed_when_they_are_old(db, blobs):
    old = blobs._place.incoming / "old.part"
    old.write_bytes(b"half")
    fresh = blobs._place.incoming / "fresh.part"
    fresh.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert collect(db, blobs, 0.0) == Collected(0, 4)
    assert fresh.exists()


def test_all_that_lies_about_is_removed_however_much_it_is(db, blobs, lease, time, monkeypatch):
    monkeypatch.setattr(garbage, "_ROWS_AT_ONCE", 2)
    named = Artefacts(db, blobs).add(lease, {"a": b"artefact"})["a"].sha256
    loose = [blobs.put(b"loose %d" % i).sha256 for i in range(7)]
    assert collect(db, blobs, GRACE_S).files == 0
    time.pass_by(GRACE_S + 1)
    assert collect(db, blobs, GRACE_S).files == 7
    assert [blobs.exists(digest) for digest in (named, *loose)] == [True] + 7 * [False]


def test_a_row_whose_file_is_gone_does_not_stop_the_collector(db, blobs, time):
    loose = blobs.put(b"loose")
    collect(db, blobs, 0.0)
    blobs.delete(loose.sha256)  # killed between the file and the commit
    time.pass_by(1)
    collect(db, blobs, 0.0)
    assert db.read(lambda connection: connection.execute(schema.blobs.select()).all()) == []


def test_collectors_and_holders_side_by_side_lose_nothing(real_db, blobs):
    """No grace, real threads and the database's own clock: what is named stays readable."""
    jobs, artefacts = JobStore(real_db), Artefacts(real_db, blobs)
    leases = []
    for _ in range(3):
        jobs.submit(submission())
        leases.append(jobs.claim("w", 600.0)[1])
    done, failures = threading.Event(), []

    def watched(work) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    def give(lease) -> None:
        for i in range(12):
            with suppress(BlobMissing):  # without any grace the collectors may come first each time
                artefacts.add(lease, {"same": b"%d" % (i % 3), "own": f"{lease.job_id} {i % 2}".encode()})
            if "own" not in artefacts.of(lease.job_id):
                continue
            with artefacts.open(lease.job_id, "own") as file:
                file.read()

    def clean() -> None:
        while not done.is_set():
            collect(real_db, blobs, 0.0)

    givers = [threading.Thread(target=watched, args=(lambda lease=lease: give(lease),)) for lease in leases]
    cleaners = [threading.Thread(target=watched, args=(clean,)) for _ in range(2)]
    for thread in (*givers, *cleaners):
        thread.start()
    for thread in givers:
        thread.join()
    done.set()
    for thread in cleaners:
        thread.join()
    assert failures == []
    for lease in leases:
        for path in artefacts.of(lease.job_id):
            with artefacts.open(lease.job_id, path) as file:
                file.read()


CONTENTS = [bytes([i]) * (i + 1) for i in range(4)]
content = st.sampled_from(CONTENTS)


class Interleaved(RuleBasedStateMachine):
    """Puts, records, deletions, time and collections in any order, collections also in the middle of a record."""

    @initialize()
    def begin(self) -> None:
        self.folder = in_memory()
        root, self.time = self.folder.__enter__(), Time()
        self.db, self.blobs = Database(root / "nas.sqlite", time_s=self.time), Blobs(root / "blobs")
        self.db.upgrade()
        add_user(self.db, "ann")
        jobs = JobStore(self.db)
        jobs.submit(submission())
        self.lease = jobs.claim("w", 1e9)[1]
        self.artefacts, self.uploads = Artefacts(self.db, self.blobs), Uploads(self.db, self.blobs, lambda *_: {})
        self.files: dict[str, bytes] = {}
        self.sent: dict[str, bytes] = {}

    @rule(content=content)
    def put(self, content) -> None:
        self.blobs.put(content)

    @rule(path=st.sampled_from(["a", "b"]), content=content, collections=st.integers(0, 2))
    def add(self, path, content, collections) -> None:
        put = self.blobs.put

        def then_collected(given, limit_bytes=None):
            blob = put(given, limit_bytes)
            nonlocal collections
            while collections:
                collections -= 1
                self.collect()
            return blob

        self.blobs.put = then_collected  # type: ignore[method-assign]
        try:
            self.artefacts.add(self.lease, {path: content})
        finally:
            self.blobs.put = put  # type: ignore[method-assign]
        self.files[path] = content

    @rule(content=content)
    def send(self, content) -> None:
        self.sent[self.uploads.add("ann", "onnx", "m", content).id] = content

    @rule()
    def forget(self) -> None:
        if self.sent:
            self.uploads.delete(self.sent.popitem()[0])

    @rule(content=content)
    def damage(self, content) -> None:
        """As long as nothing names it; the next put heals it, or it is collected."""
        named = {*self.files.values(), *self.sent.values()}
        path = self.blobs.path(self.blobs.put(content).sha256)
        if content not in named and path is not None:
            path.write_bytes(b"")

    @rule()
    def collect(self) -> None:
        self.time.pass_by(1)
        collect(self.db, self.blobs, 0.0)

    @invariant()
    def what_is_named_can_be_read(self) -> None:
        assert {
            path: self.blobs.read(found.sha256) for path, found in self.artefacts.of(self.lease.job_id).items()
        } == self.files
        assert {found.id: self.blobs.read(found.sha256) for found in self.uploads.page()} == self.sent

    def teardown(self) -> None:
        named = {*self.files.values(), *self.sent.values()}
        self.collect()
        self.collect()
        assert {self.blobs.read(blob.sha256) for blob in self.blobs.walk()} == named
        self.db.close()
        self.folder.__exit__(None, None, None)


Interleaved.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
test_puts_and_collections_in_any_order = Interleaved.TestCase
