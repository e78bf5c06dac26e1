"""Uploads: nothing is kept that was not looked into, and nobody sees another's."""

import importlib
from pathlib import Path

import pytest

from nas.service.blobs import Blobs, TooLarge
from nas.service.errors import Conflict, NotFound
from nas.service.garbage import collect
from nas.service.jobs import JobStore
from nas.service.refusal import UploadRefused
from nas.service.uploads import LONGEST_NAME, Uploads
from tests.nas.service.databases import submission

pytest_plugins = ["tests.nas.searching.postgres"]
BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


class FakeInspection:
    """Finds what it is told to find, and refuses files that begin with `bad`."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bytes]] = []

    def __call__(self, kind: str, path: Path):
        self.seen.append((kind, path.read_bytes()))
        if self.seen[-1][1].startswith(b"bad"):
            raise UploadRefused("it is bad")
        return {"nodes": 3}


@pytest.fixture
def blobs(tmp_path) -> Blobs:
    return Blobs(tmp_path / "blobs")


@pytest.fixture
def inspection() -> FakeInspection:
    return FakeInspection()


@pytest.fixture
def uploads(db, blobs, inspection) -> Uploads:
    return Uploads(db, blobs, inspection)


def test_an_upload_is_kept_with_what_was_found(uploads, blobs, inspection, time):
    found = uploads.add("ann", "onnx", "my model.onnx", iter([b"mo", b"del"]))
    assert inspection.seen == [("onnx", b"model")]
    assert (found.owner, found.kind, found.name, found.bytes) == ("ann", "onnx", "my model.onnx", 5)
    assert (found.facts, found.created_s) == ({"nodes": 3}, time.now_s)
    assert blobs.read(found.sha256) == b"model"
    assert uploads.get(found.id, "ann") == found


def test_what_is_refused_is_nowhere(uploads, blobs, tmp_path):
    with pytest.raises(UploadRefused, match="it is bad"):
        uploads.add("ann", "onnx", "m", b"bad")
    with pytest.raises(TooLarge):
        uploads.add("ann", "onnx", "m", b"12345", limit_bytes=4)
    with pytest.raises(UploadRefused, match="is of kind onnx, safetensors, parquet"):
        uploads.add("ann", "pt", "m.pt", b"model")
    assert uploads.page() == []
    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []


def test_another_owner_finds_nothing(uploads):
    found = uploads.add("ann", "onnx", "m", b"model")
    with pytest.raises(NotFound):
        uploads.get(found.id, "bob")
    with pytest.raises(NotFound):
        uploads.delete(found.id, "bob")
    assert uploads.page("bob") == []
    assert uploads.get(found.id) == found


def test_pages_go_from_new_to_old(uploads):
    made = [uploads.add("ann", "onnx", str(i), str(i).encode()).id for i in range(5)][::-1]
    first = uploads.page("ann", limit=2)
    assert [each.id for each in first] == sorted(made, reverse=True)[:2]
    rest = uploads.page("ann", before=first[-1].id)
    assert {each.id for each in (*first, *rest)} == set(made)


def test_a_deleted_upload_is_gone_and_its_file_is_collected(uploads, db, blobs, time):
    found = uploads.add("ann", "onnx", "m", b"model")
    uploads.delete(found.id, "ann")
    with pytest.raises(NotFound):
        uploads.get(found.id)
    assert blobs.exists(found.sha256)
    time.pass_by(1.0)
    collect(db, blobs, 0.0)
    assert not blobs.exists(found.sha256)


def test_an_upload_that_a_job_needs_stays(uploads, db):
    found, jobs = uploads.add("ann", "parquet", "m", b"images"), JobStore(db)
    job, _ = jobs.submit(submission(spec={"job": {"data": {"path": f"upload:{found.id}"}}}))
    with pytest.raises(Conflict, match=job.id):
        uploads.delete(found.id, "ann")
    jobs.cancel(job.id)
    uploads.delete(found.id, "ann")


def test_an_upload_stays_while_a_job_goes_on_from_one_that_names_it(uploads, db):
    found, jobs = uploads.add("ann", "parquet", "m", b"images"), JobStore(db)
    base, _ = jobs.submit(submission(spec={"job": {"data": {"path": f"upload:{found.id}"}}}))
    jobs.cancel(base.id)
    middle, _ = jobs.submit(submission(spec={"set": {}}, parent=base.id))
    jobs.cancel(middle.id)
    last, _ = jobs.submit(submission(spec={"set": {}}, parent=middle.id))
    with pytest.raises(Conflict, match=last.id):
        uploads.delete(found.id, "ann")
    jobs.cancel(last.id)
    uploads.delete(found.id, "ann")


def test_what_is_collected_before_it_is_recorded_is_kept_again(uploads, db, blobs, time, monkeypatch):
    keep, collected = blobs.keep, []

    def keep_and_collect(received):
        keep(received)
        if not collected:
            collect(db, blobs, 0.0)
            time.pass_by(1.0)
            collected.append(collect(db, blobs, 0.0))

    monkeypatch.setattr(blobs, "keep", keep_and_collect)
    found = uploads.add("ann", "onnx", "m", b"model")
    assert collected[0].files == 1
    assert blobs.read(found.sha256) == b"model"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("../../etc/passwd", "../../etc/passwd"),
        ("a\x1b[2J\nb\u202ec", "a[2Jbc"),
        ("x" * 5000, "x" * LONGEST_NAME),
        ("\n\t ", "onnx"),
        ("Modèle №1", "Modèle №1"),
    ],
)
def test_a_name_is_a_label(uploads, given, kept):
    assert uploads.add("ann", "onnx", given, b"model").name == kept


def test_hundreds_of_hostile_files_are_refused_in_one_line_each(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    hostile = importlib.import_module("hostile_uploads")
    here, service = tmp_path / "here", tmp_path / "service"
    here.mkdir()
    service.mkdir()
    monkeypatch.chdir(here)
    tally = hostile.attack(service, hostile.uploads_of(hostile.Rng(7), 199))
    assert tally.wrong == []
    assert tally.refused.total() > 190
    assert hostile.files_in(here) == set()
    assert {path for path in hostile.files_in(service) if not path.startswith("blobs")} == {"nas.sqlite"}
    assert list(service.rglob("*.part")) == []
