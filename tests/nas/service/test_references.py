"""What a spec refers to: there or refused, and what a job begins with of another."""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from nas.database import Database
from nas.errors import JobError
from nas.job import job_from_json, job_to_json
from nas.service.artefacts import Artefacts
from nas.service.blobs import Blobs
from nas.service.errors import NotFound
from nas.service.jobs import JobStore
from nas.service.references import References, inherited
from nas.service.specs import Spec, check_spec
from nas.service.uploads import Uploads
from tests.nas.fakes import LITTLE
from tests.nas.service.databases import add_user, submission


@dataclass
class Place:
    jobs: JobStore
    artefacts: Artefacts
    uploads: Uploads
    references: References

    def job(self, *files: str, ended: bool = True, kind: str = "run") -> str:
        """Ann's job that has left these files."""
        job = self.jobs.submit(submission(kind=kind))[0]
        _, lease = self.jobs.claim("w", 30.0)
        document = {"job": job_to_json(job_from_json(LITTLE))}
        self.artefacts.add(lease, {"job.json": json.dumps(document).encode(), **dict.fromkeys(files, b"x")})
        if ended:
            self.jobs.finish(lease, "FAILED", error={"kind": "user", "message": "no"})
        return job.id

    def upload(self, kind: str) -> str:
        return self.uploads.add("ann", kind, f"my {kind}", io.BytesIO(b"content")).id


@pytest.fixture
def place(tmp_path) -> Iterator[Place]:
    with Database(tmp_path / "nas.sqlite") as db:
        db.upgrade()
        for name in ("ann", "bob"):
            add_user(db, name, max_running=10)
        jobs, blobs = JobStore(db), Blobs(str(tmp_path / "blobs"))
        artefacts, uploads = Artefacts(db, blobs), Uploads(db, blobs, lambda kind, path: {})
        yield Place(jobs, artefacts, uploads, References(jobs, artefacts, uploads, {"photos": "/srv/photos"}))


def data(path: str) -> dict:
    return {"kind": "run", "job": {**LITTLE, "data": {**LITTLE["data"], "kind": "parquet", "path": path}}}


def test_a_whole_job_goes_by_its_own_name(place):
    assert place.references.check(check_spec({"kind": "run", "job": LITTLE}), "ann") == "little"
    assert place.references.check(check_spec(data(f"upload:{place.upload('parquet')}")), "ann") == "little"
    assert place.references.check(check_spec(data("data:photos")), "ann") == "little"


def test_a_model_goes_by_its_files_name(place):
    spec = check_spec({"kind": "profile", "model": place.upload("onnx"), "device": {"name": "one"}})
    assert place.references.check(spec, "ann") == "my onnx"


def test_images_that_are_not_there_are_refused(place):
    with pytest.raises(NotFound):
        place.references.check(check_spec(data("upload:u1")), "ann")
    with pytest.raises(JobError, match="is of kind onnx; this takes parquet"):
        place.references.check(check_spec(data(f"upload:{place.upload('onnx')}")), "ann")
    with pytest.raises(JobError, match="has no images 'data:cats'; it has photos"):
        place.references.check(check_spec(data("data:cats")), "ann")


@pytest.mark.parametrize(("kind", "needs"), [("profile", "train"), ("search", "train"), ("export", "search")])
def test_a_stage_needs_the_one_before_it(place, kind, needs):
    spec = check_spec({"kind": kind, "from": place.job()})
    with pytest.raises(JobError, match=f"has not finished its {needs} stage, which a {kind} needs"):
        place.references.check(spec, "ann")
    assert place.references.check(check_spec({"kind": kind, "from": place.job(f"{needs}.json")}), "ann") == "little"


def test_a_job_that_runs_is_not_gone_on_from(place):
    spec = check_spec({"kind": "search", "from": place.job("train.json", ended=False)})
    with pytest.raises(JobError, match="has not ended; wait until it has"):
        place.references.check(spec, "ann")


def warm(place: Place, *jobs: str) -> Spec:
    """A search that begins with what these jobs found."""
    return check_spec({"kind": "search", "from": place.job("train.json"), "set": {"search.warm_start": list(jobs)}})


def test_a_search_begins_with_what_other_searches_found(place):
    found = [place.job("search.json", kind="run"), place.job("search.json", kind="search")]
    assert place.references.check(warm(place, *found), "ann") == "little"


@pytest.mark.parametrize(
    ("files", "given", "complaint"),
    [
        (["search.json"], {"ended": False}, "has not ended; wait until it has"),
        (["profile.json"], {}, "has not finished its search stage, which a warm start needs"),
        (["search.json"], {"kind": "export"}, "is an export; name the search that it went on from"),
    ],
)
def test_a_warm_start_is_a_search_that_has_finished(place, files, given, complaint):
    name = place.job(*files, **given)
    with pytest.raises(JobError, match=rf"^search\.warm_start: job {name} {complaint}"):
        place.references.check(warm(place, name), "ann")


@pytest.mark.parametrize("name", ["runs/flowers", "/etc/passwd", "j01m80yywaafqjjrwxz9eh4pjsr"])
def test_a_warm_start_names_no_files_and_no_jobs_that_are_not_there(place, name):
    with pytest.raises(NotFound, match=f"^{name}: there is no such job"):
        place.references.check(warm(place, name), "ann")


def test_a_warm_start_of_somebody_else_is_as_if_it_was_not_there(place):
    spec = warm(place, place.job("search.json"))
    assert place.references.check(spec, None), "an admin sees all"
    mine = place.jobs.submit(submission(owner="bob"))[0]
    _, lease = place.jobs.claim("w", 30.0)
    document = {"job": job_to_json(job_from_json(LITTLE))}
    place.artefacts.add(lease, {"job.json": json.dumps(document).encode(), "train.json": b"x"})
    place.jobs.finish(lease, "FAILED", error={"kind": "user", "message": "no"})
    asked = {**spec.document, "from": mine.id}
    with pytest.raises(NotFound, match="there is no such job"):
        place.references.check(check_spec(asked), "bob")
    assert place.references.check(check_spec({**asked, "set": {}}), "bob")


def test_what_is_changed_is_checked_when_it_is_asked_for(place):
    asked = {"kind": "search", "from": place.job("train.json"), "set": {"search.evaluations": 1}}
    with pytest.raises(JobError, match=r"search\.evaluations must be from 4"):
        place.references.check(check_spec(asked), "ann")


def test_what_belongs_to_others_is_as_if_it_was_not_there(place):
    for document in (
        {"kind": "search", "from": place.job("train.json")},
        {"kind": "profile", "model": place.upload("onnx"), "device": {"name": "one"}},
        data(f"upload:{place.upload('parquet')}"),
    ):
        spec = check_spec(document)
        with pytest.raises(NotFound, match="there is no such"):
            place.references.check(spec, "bob")
        assert place.references.check(spec, None), "an admin sees all"


def test_a_job_begins_with_what_the_stages_before_it_wrote():
    paths = ["job.json", "log.txt", "space.json", "supernet.safetensors", "train.json", "train.safetensors"]
    paths += [
        "tables/a.json",
        "predictors/a.json",
        "profile.json",
        "search.json",
        "models/a-knee/model.onnx",
        "export.json",
    ]
    found = {kind: set(inherited(kind, "j1", paths)) for kind in ("profile", "search", "export")}
    trained = {"space.json", "supernet.safetensors", "train.json"}
    assert found["profile"] == {*trained, "tables/a.json", "predictors/a.json"}
    assert found["search"] == {*found["profile"], "profile.json"}
    assert found["export"] == {*found["search"], "search.json"}
    assert inherited("export", "j1", ["train.json"]) == {"train.json": "j1"}
