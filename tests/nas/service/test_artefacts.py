"""Files of jobs: given by the holder alone, all or none, final when the job has ended."""

import pytest

from nas.service import schema
from nas.service.artefacts import Artefacts, check_path
from nas.service.blobs import Blobs
from nas.service.errors import LeaseLost, NotFound, ServiceError
from nas.service.events import EventLog
from nas.service.garbage import collect
from nas.service.jobs import JobStore
from tests.nas.service.databases import LostAnswers, submission

pytest_plugins = ["tests.nas.searching.postgres"]


@pytest.fixture
def jobs(db) -> JobStore:
    return JobStore(db)


@pytest.fixture
def blobs(tmp_path) -> Blobs:
    return Blobs(tmp_path / "blobs")


@pytest.fixture
def artefacts(db, blobs) -> Artefacts:
    return Artefacts(db, blobs)


@pytest.fixture
def lease(jobs):
    jobs.submit(submission())
    return jobs.claim("w", 30.0)[1]


def test_a_job_has_the_files_that_its_holder_gave(artefacts, lease, tmp_path):
    (tmp_path / "front.csv").write_bytes(b"1,2")
    given = artefacts.add(lease, {"models/phone-knee/model.onnx": b"model", "fronts/phone.csv": tmp_path / "front.csv"})
    found = artefacts.of(lease.job_id)
    assert found == given
    assert list(found) == ["fronts/phone.csv", "models/phone-knee/model.onnx"]
    assert found["fronts/phone.csv"].bytes == 3
    with artefacts.open(lease.job_id, "models/phone-knee/model.onnx") as file:
        assert file.read() == b"model"


def test_a_newer_file_takes_the_place_of_an_older_one_while_the_job_runs(artefacts, lease):
    artefacts.add(lease, {"train.safetensors": b"one", "space.json": b"{}"})
    artefacts.add(lease, {"train.safetensors": b"two"})
    with artefacts.open(lease.job_id, "train.safetensors") as file:
        assert file.read() == b"two"
    assert list(artefacts.of(lease.job_id)) == ["space.json", "train.safetensors"]


def test_a_new_path_is_told_of_once(db, artefacts, lease):
    for content in (b"one", b"one", b"two"):
        artefacts.add(lease, {"train.safetensors": content})
    told = [event.data for event in EventLog(db).since(lease.job_id, 0) if event.kind == "artefact"]
    assert [(data["path"], data["bytes"]) for data in told] == [("train.safetensors", 3)]


@pytest.mark.parametrize("how", ["late", "claimed by another", "ended"])
def test_who_does_not_hold_the_job_gives_it_nothing(how, artefacts, jobs, lease, time):
    artefacts.add(lease, {"a": b"1"})
    before = artefacts.of(lease.job_id)
    if how == "ended":
        jobs.finish(lease, "SUCCEEDED")
    else:
        time.pass_by(31.0)
    if how == "claimed by another":
        jobs.claim("other", 30.0)
    with pytest.raises(LeaseLost):
        artefacts.add(lease, {"a": b"2", "b": b"3"})
    assert artefacts.of(lease.job_id) == before


def test_a_lost_answer_is_no_second_file(db, artefacts, lease):
    LostAnswers(db).left = 2
    artefacts.add(lease, {"a": b"1", "b": b"2"})
    assert list(artefacts.of(lease.job_id)) == ["a", "b"]
    events = EventLog(db).since(lease.job_id, 0)
    assert [event.kind for event in events].count("artefact") == 2


def test_what_is_collected_between_put_and_record_is_put_again(db, artefacts, blobs, lease, time, monkeypatch):
    put, collected = blobs.put, []

    def put_and_collect(content, limit_bytes=None):
        blob = put(content, limit_bytes)
        if not collected:
            collect(db, blobs, 0.0)  # adopts it
            time.pass_by(1.0)
            collected.append(collect(db, blobs, 0.0))
        return blob

    monkeypatch.setattr(blobs, "put", put_and_collect)
    artefacts.add(lease, {"a": b"1"})
    assert collected[0].files == 1
    with artefacts.open(lease.job_id, "a") as file:
        assert file.read() == b"1"


def test_the_same_content_is_stored_once(db, artefacts, blobs, lease):
    artefacts.add(lease, {"a": b"same", "b": b"same"})
    assert len(list(blobs.walk())) == 1
    count = db.read(lambda connection: len(connection.execute(schema.blobs.select()).all()))
    assert count == 1


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "../a", "a/../b", "a//b", "a/", ".hidden", "a\nb", "a\\b", "a" * 201, "a/\x00", "C:a", "ä"],
)
def test_paths_that_could_lead_elsewhere_are_refused(path, artefacts, lease):
    with pytest.raises(ServiceError, match="is no path of a file"):
        artefacts.add(lease, {"fine": b"", path: b""})
    assert artefacts.of(lease.job_id) == {}


@pytest.mark.parametrize(
    "path", ["job.json", "models/pi-4.b8-knee/model.onnx", "tables/phone.table.rounds", "a b/c+d=e,f@g_h"]
)
def test_paths_of_runs_are_taken(path):
    check_path(path)


def test_a_file_that_a_job_does_not_have_is_not_found(artefacts, lease):
    assert artefacts.of("nothing") == {}
    with pytest.raises(NotFound, match="no file 'b'"):
        artefacts.open(lease.job_id, "b")
