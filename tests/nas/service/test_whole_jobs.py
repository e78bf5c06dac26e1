"""Whole jobs, done by workers as they are: on images, measured, searched, exported; and killed at any moment."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Connection, text, update

from nas.database import Database
from nas.service.artefacts import Artefacts
from nas.service.blobs import Blobs
from nas.service.errors import Unavailable
from nas.service.events import EventLog
from nas.service.jobs import Job, JobStore
from nas.service.orphans import descendants, marked, processes
from nas.service.schema import artefacts as artefacts_table
from nas.service.schema import events as events_table
from nas.service.schema import jobs as jobs_table
from nas.service.settings import Settings
from supernets.checkpoint import read as read_checkpoint
from tests.nas.fakes import LITTLE
from tests.nas.searching.test_runners import wait_until_gone
from tests.nas.service.databases import add_user, submission

SOON_S = 120.0
WORK = (
    "import json, sys; from nas.service.settings import Settings; from nas.service.worker import work; "
    "work(Settings.from_json(json.loads(sys.argv[1])))"
)
# Longer, so that kills come in the middle.
LONGER = {
    **LITTLE,
    "train": {**LITTLE["train"], "epochs": 40, "threads": 1},
    "profile": {"networks": 14, "budget_s": 0.5, "precision": 0.2},
    "search": {**LITTLE["search"], "evaluations": 30, "seeds": 4},
}


class Service:
    """A service in a folder."""

    def __init__(self, data: Path, **settings: Any) -> None:
        self.settings = Settings(data, **{"evaluators": 1, **settings})
        self.db = Database(self.settings.database_url)
        self.db.upgrade()
        self.jobs, self.events = JobStore(self.db), EventLog(self.db)
        self.artefacts = Artefacts(self.db, Blobs(self.settings.blobs_url))

    def submitted(self, spec: dict[str, Any]) -> Job:
        return self.jobs.submit(submission(kind=spec["kind"], spec=spec, parent=spec.get("from")))[0]

    def ended(self, job: Job) -> Job:
        wait_until(lambda: self.jobs.get(job.id).ended)
        return self.jobs.get(job.id)

    def read(self, job: Job, path: str) -> bytes:
        with self.artefacts.open(job.id, path) as file:
            return file.read()

    def said(self, job: Job, kind: str) -> list[Any]:
        found, last = [], 0
        while page := self.events.since(job.id, last):
            found += [event.data for event in page if event.kind == kind]
            last = page[-1].seq
        return found

    def forgive(self) -> None:
        """As if the faults had been far apart."""
        calm = update(jobs_table).where(jobs_table.c.finished_s.is_(None)).values(faults=0)
        self.db.write(lambda connection: connection.execute(calm))
        waits = update(jobs_table).where(jobs_table.c.state == "RETRY_WAIT").values(not_before_s=0)
        self.db.write(lambda connection: connection.execute(waits))

    @contextmanager
    def working(self) -> Iterator[subprocess.Popen[bytes]]:
        process = subprocess.Popen([sys.executable, "-c", WORK, json.dumps(self.settings.to_json())])
        try:
            yield process
        finally:
            process.terminate()
            process.wait(SOON_S)


@pytest.fixture
def service(tmp_path) -> Iterator[Service]:
    (tmp_path / "service").mkdir()
    found = Service(tmp_path / "service")
    add_user(found.db, "ann")
    yield found
    found.db.close()


def wait_until(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + SOON_S
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_job_is_trained_measured_searched_and_exported_and_others_go_on_from_it(service):
    with service.working():
        whole = service.submitted({"kind": "run", "job": LITTLE})
        changes = {"search.evaluations": 12, "search.measure_front": True, "search.warm_start": [whole.id]}
        search = {"kind": "search", "from": whole.id, "set": changes}
        found = service.ended(whole)
        assert found.state == "SUCCEEDED", found.error
        again = service.submitted(search)
        assert service.ended(again).state == "SUCCEEDED"
        export = service.submitted({"kind": "export", "from": again.id, "set": {"export.picks": ["knee"]}})
        assert service.ended(export).state == "SUCCEEDED"
    summary = json.loads(service.read(whole, "summary.json"))
    assert list(found.result["stages"]) == ["train", "profile", "search", "export"] == list(summary["stages"])
    for device, told in zip(summary["devices"], found.result["devices"], strict=True):
        assert [row["arch_id"] for row in told["front"]] == [row["arch_id"] for row in device["front"]]
        for made in told["exports"]:
            content = service.read(whole, made["file"])
            assert len(content) == made["bytes"]
    assert service.read(whole, "report.html").startswith(b"<!")
    assert {each["device"] for each in service.said(whole, "point")} == {"one", "four"}
    assert service.said(again, "measured")
    searched = json.loads(service.read(again, "search.json"))
    assert searched["search"]["evaluations"] == 12
    known = json.loads(service.read(whole, "search.json"))["search"]["architectures"]
    assert searched["search"]["searches"][0]["sources"]["warm"] == sum(each["final"] for each in known) > 0
    assert all(row["latency_ms_measured"] for device in searched["devices"] for row in device["front"])
    assert "models/one-knee/model.onnx" in service.artefacts.of(export.id)
    assert "models/one-fastest/model.onnx" not in service.artefacts.of(export.id)
    assert [path.name for path in service.settings.work_folder.iterdir()] == ["images"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, str]:
    """The folder of a service with a job that was trained and profiled, and the job's id. To be copied."""
    data = tmp_path_factory.mktemp("trained")
    service = Service(data)
    add_user(service.db, "ann")
    with service.working():
        train = service.submitted({"kind": "train", "job": LONGER})
        assert service.ended(train).state == "SUCCEEDED"
        profile = service.submitted({"kind": "profile", "from": train.id})
        assert service.ended(profile).state == "SUCCEEDED"
    service.db.close()
    return data, profile.id


def copied(trained: tuple[Path, str], to: Path, **settings: Any) -> Service:
    shutil.copytree(trained[0], to)
    return Service(to, **settings)


def searched(service: Service, job: Job) -> str:
    """What a search found; neither seconds nor versions."""
    found = json.loads(service.read(job, "search.json"))
    return re.sub(r'"seconds": [^,}]*', "", json.dumps([found["search"], found["devices"]]))


def undisturbed(trained: tuple[Path, str], folder: Path, spec: dict[str, Any]) -> tuple[Service, Job]:
    """A service in which this job was done without trouble."""
    service = copied(trained, folder)
    job = service.submitted(spec)
    with service.working():
        assert service.ended(job).state == "SUCCEEDED"
    return service, job


def working_for(service: Service, job: Job) -> int | None:
    """The process of the step that is under way."""
    steps = [pid for pid, mark in marked().items() if mark.startswith(f"{service.jobs.get(job.id).worker}/")]
    there = processes()
    return next((pid for pid in steps if pid in there and there[pid].parent in steps), None)


def begun(service: Service, job: Job, epoch: int) -> int:
    """The process of the step of a job that has been claimed so often."""
    wait_until(
        lambda: (at := service.jobs.get(job.id)).state == "RUNNING" and at.epoch >= epoch and working_for(service, job)
    )
    found = working_for(service, job)
    return found if found is not None else begun(service, job, epoch)


def killed(service: Service, job: Job, kills: int, seed: int, delay_s: float) -> Job:
    """The job at its end, for which steps, keepers and workers were killed at random moments."""
    rng = np.random.default_rng(seed)
    epoch = 1
    while epoch <= kills and not service.jobs.get(job.id).ended:
        with service.working() as worker:
            while worker.poll() is None and epoch <= kills and not service.jobs.get(job.id).ended:
                step = begun(service, job, epoch)
                time.sleep(rng.uniform(0, delay_s))
                there = processes().get(step)
                victims = {"step": step, "keeper": there.parent if there else step, "worker": worker.pid}
                try:
                    os.kill(victims[["step", "keeper", "worker"][epoch % 3]], signal.SIGKILL)
                except ProcessLookupError:
                    continue
                epoch += 1
                time.sleep(0.2)
                service.forgive()
    with service.working():
        wait_until(lambda: service.forgive() or service.jobs.get(job.id).ended)
    return service.jobs.get(job.id)


def asleep(service: Service, worker: int) -> set[int]:
    """A worker and all below it, stopped, but not in the middle of a write: SQLite would have all others wait for that."""
    there = processes()
    found = {worker, *descendants(worker)} & there.keys()
    while True:
        told(found, signal.SIGSTOP)
        try:
            with Database(service.settings.database_url, wait_s=0.3) as db:
                db.write(lambda connection: None)
            return found
        except Unavailable:
            told(found, signal.SIGCONT)


def told(pids: set[int], number: int) -> None:
    """Send a signal to those that are still there: what is woken first may end the others."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


@pytest.mark.slow
def test_a_worker_that_slept_past_its_lease_writes_nothing_more(trained, tmp_path):
    spec = {"kind": "search", "from": trained[1]}
    calm, wanted = undisturbed(trained, tmp_path / "calm", spec)
    service = copied(trained, tmp_path / "hard", lease_s=2.0, renew_s=1.0)
    job = service.submitted(spec)
    with service.working() as first:
        step = begun(service, job, 1)
        stopped = asleep(service, first.pid)
        with service.working():
            found = service.ended(job)
        rows = service.db.read(everything)
        told(stopped, signal.SIGCONT)
        assert wait_until_gone({step}, within_s=10) == set()
        assert service.db.read(everything) == rows
        assert first.poll() is None
    assert (found.state, found.epoch) == ("SUCCEEDED", 2)
    assert searched(service, job) == searched(calm, wanted)


def everything(connection: Connection) -> list[Any]:
    """What a job's holder writes."""
    tables = (jobs_table, events_table, artefacts_table)
    found = [connection.execute(table.select()).all() for table in tables]
    return [*found, *(connection.execute(text(f"SELECT * FROM {name}")).all() for name in ("evaluations", "proposals"))]


@pytest.mark.slow
def test_a_search_that_is_killed_again_and_again_finds_the_same_front(trained, tmp_path):
    spec = {"kind": "search", "from": trained[1]}
    calm, wanted = undisturbed(trained, tmp_path / "calm", spec)
    hard = copied(trained, tmp_path / "hard")
    job = hard.submitted(spec)
    found = killed(hard, job, kills=6, seed=1, delay_s=0.4)
    assert found.state == "SUCCEEDED", found.error
    assert found.epoch > 1
    assert searched(hard, job) == searched(calm, wanted)
    points = [(each["device"], each["arch_id"]) for each in hard.said(job, "point")]
    assert len(points) == len(set(points))
    # What was on a front for a while only depends on the order in which a generation is told.
    assert found.result is not None
    fronts = {(device["name"], row["arch_id"]) for device in found.result["devices"] for row in device["front"]}
    assert fronts <= set(points)


@pytest.mark.slow
def test_a_training_that_is_killed_again_and_again_ends_with_the_same_weights(trained, tmp_path):
    hard = copied(trained, tmp_path / "hard")
    job = hard.submitted({"kind": "train", "job": LONGER})
    found = killed(hard, job, kills=4, seed=2, delay_s=1.5)
    assert found.state == "SUCCEEDED", found.error

    def weights(job_id: str) -> dict[str, bytes]:
        path = tmp_path / f"{job_id}.safetensors"
        path.write_bytes(hard.read(hard.jobs.get(job_id), "supernet.safetensors"))
        return {name: tensor.numpy().tobytes() for name, tensor in read_checkpoint(path).tensors.items()}

    assert weights(job.id) == weights(trained[1])


@pytest.mark.slow
@pytest.mark.parametrize("end", ["worker", "keeper", "step", "cancel"])
def test_nothing_of_ray_is_left_however_a_search_ends(trained, tmp_path, end):
    pytest.importorskip("ray")
    service = copied(trained, tmp_path / "ray", evaluators=2)
    job = service.submitted({"kind": "search", "from": trained[1], "set": {"search.evaluations": 80}})
    with service.working() as worker:
        wait_until(lambda: service.said(job, "point"))
        below = descendants(worker.pid)
        step = begun(service, job, 1)
        assert len(below) > 4, "Ray is there"
        keeper = processes()[step].parent
        folders = set(Path("/tmp").glob(f"nas-*-{keeper}-*"))
        assert folders
        if end == "cancel":
            service.jobs.cancel(job.id)
            assert service.ended(job).state == "CANCELLED"
            assert wait_until_gone(below - {keeper}, 0) == set()
        else:
            os.kill({"worker": worker.pid, "keeper": keeper, "step": step}[end], signal.SIGKILL)
            gone = below - ({keeper} if end == "step" else set())
            assert wait_until_gone(gone, 20) == set()
    assert [folder for folder in folders if folder.exists()] == []
    segments = Path("/dev/shm").glob("*plasma*")
    assert list(segments) == []


@pytest.mark.slow
def test_a_worker_that_is_told_to_end_in_the_middle_of_a_training_gives_it_back(trained, tmp_path):
    service = copied(trained, tmp_path / "back")
    job = service.submitted({"kind": "train", "job": {**LONGER, "train": {**LONGER["train"], "epochs": 400}}})
    with service.working():
        wait_until(lambda: any(each["stage"] == "train" for each in service.said(job, "progress")))
    found = service.jobs.get(job.id)
    assert (found.state, found.faults) == ("QUEUED", 0), found.error
    assert {"job.json", "log.txt"} <= service.artefacts.of(job.id).keys()
