"""What a spec refers to, looked up when it is submitted: an earlier job and what that has finished, and uploads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from nas.errors import JobError
from nas.job import Job, job_from_json
from nas.service.artefacts import Artefacts
from nas.service.datasets import registered
from nas.service.jobs import Job as JobRow
from nas.service.jobs import JobStore
from nas.service.specs import DATA, Model, Next, Spec, Whole, changed
from nas.service.uploads import Uploads

Json = Any

# Kind of job -> the stage that the one before it must have finished.
NEEDS = {"profile": "train", "search": "train", "export": "search"}
SEARCHING = ("run", "search")
"""Kinds of job that search."""
_TRAINED = ("space.json", "supernet.safetensors", "train.json")
_PROFILED = ("tables/", "predictors/", "profile.json")
# Kind of job -> what it begins with of an earlier job's artefacts: what the stages before it wrote.
_BEGINS_WITH: Mapping[str, tuple[str, ...]] = {
    "profile": (*_TRAINED, *_PROFILED[:2]),
    "search": (*_TRAINED, *_PROFILED),
    "export": (*_TRAINED, *_PROFILED, "search.json"),
}


class References:
    """What an owner's spec may refer to. Raises `NotFound` and `JobError`."""

    def __init__(self, jobs: JobStore, artefacts: Artefacts, uploads: Uploads, named: Mapping[str, str]) -> None:
        self._jobs = jobs
        self._artefacts = artefacts
        self._uploads = uploads
        self._named = named

    def check(self, spec: Spec, owner: str | None) -> str:
        """That all of it is there, and the owner's own (None: anybody's); a name for the job."""
        for upload in spec.uploads:
            found = self._uploads.get(upload, owner)
            wanted = "onnx" if isinstance(spec.asked, Model) else "parquet"
            if found.kind != wanted:
                raise JobError(f"upload {upload}: is of kind {found.kind}; this takes {wanted}")
        if isinstance(spec.asked, Model):
            return self._uploads.get(spec.asked.upload, owner).name
        if isinstance(spec.asked, Whole):
            self._check_named(spec.asked.job)
            return spec.asked.job.name
        self._check_finished("from", spec.asked.source, owner, NEEDS[spec.kind], f"a {spec.kind}")
        job = self.next_job(spec.asked)
        for job_id in job.search.warm_start if spec.kind == "search" else ():
            earlier = self._check_finished("search.warm_start", job_id, owner, "search", "a warm start")
            if earlier.kind not in SEARCHING:
                raise JobError(
                    f"search.warm_start: job {job_id} is an {earlier.kind}; name the search that it went on from"
                )
        return job.name

    def next_job(self, asked: Next) -> Job:
        """The job of a stage of an earlier job, which has ended."""
        return changed(self.job_of(asked.source), asked)

    def job_of(self, job_id: str) -> Job:
        """The job file of a job that has begun, with its defaults."""
        try:
            with self._artefacts.open(job_id, "job.json") as content:
                return job_from_json(json.loads(content.read())["job"])
        except (KeyError, ValueError) as error:
            raise JobError(f"job {job_id}: its job.json cannot be read ({error})") from error

    def _check_finished(self, key: str, job_id: str, owner: str | None, stage: str, who: str) -> JobRow:
        """That a job which the key names is there, the owner's own, and has ended with this stage finished; the job."""
        found = self._jobs.get(job_id, owner)
        if not found.ended:
            raise JobError(f"{key}: job {found.id} has not ended; wait until it has")
        if f"{stage}.json" not in self._artefacts.of(found.id):
            raise JobError(f"{key}: job {found.id} has not finished its {stage} stage, which {who} needs")
        return found

    def _check_named(self, job: Job) -> None:
        for path in (job.data.path, job.data.test_path):
            if path is not None and path.startswith(DATA):
                registered(path, self._named)


def inherited(kind: str, source: str, paths: Iterable[str]) -> dict[str, str]:
    """Path -> job, of the artefacts of an earlier job that one of this kind begins with."""
    return {path: source for path in paths if path.startswith(_BEGINS_WITH[kind])}
