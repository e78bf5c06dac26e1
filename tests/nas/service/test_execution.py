"""A step of a job: its folder, its stage, its events and files; and what is left for whoever goes on.

Stages are made up here, in processes that have this one's modules.
"""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas import pipeline
from nas.database import Database
from nas.errors import FaultError, JobError
from nas.pipeline import Run
from nas.profiling import needs_of
from nas.searching.store import Evaluation, TrialStore
from nas.service import execution
from nas.service.artefacts import Artefacts
from nas.service.blobs import Blobs
from nas.service.events import EventLog
from nas.service.execution import perform
from nas.service.farm import Farm
from nas.service.jobs import Job, JobStore
from nas.service.keeper import _stop
from nas.service.leases import Lease
from nas.service.orders import Order, Outcome, steps_of
from nas.service.settings import Settings
from search_spaces import digest
from tests.nas.agent.fakes import ABOUT
from tests.nas.fakes import LITTLE, small_space
from tests.nas.service.databases import add_user, submission

RUN = {"kind": "run", "job": LITTLE}


@dataclass
class Service:
    """A service in a folder, whose jobs are done by hand."""

    settings: Settings
    db: Database

    def __post_init__(self) -> None:
        self.jobs, self.events = JobStore(self.db), EventLog(self.db)
        self.artefacts = Artefacts(self.db, Blobs(self.settings.blobs_url))

    def submitted(self, spec: dict[str, Any], **given: Any) -> Job:
        return self.jobs.submit(submission(kind=spec["kind"], spec=spec, parent=spec.get("from"), **given))[0]

    def claimed(self) -> Lease:
        found = self.jobs.claim("w", 30.0)
        assert found is not None
        return found[1]

    def perform(self, lease: Lease, step: str, during: Callable[[int], None] = lambda pid: None) -> Outcome:
        """One step, in a process of its own; `during` gets its id."""
        row = self.jobs.get(lease.job_id)
        steps = steps_of(row.kind, row.spec)
        order = Order(self.settings.to_json(), lease.job_id, lease.epoch, lease.worker, steps)
        heard, said = os.pipe()
        pid = os.fork()
        if pid == 0:

            def report(outcome: Outcome) -> None:
                os.write(said, json.dumps(asdict(outcome)).encode())
                os._exit(0)

            signal.signal(signal.SIGTERM, _stop)
            sys.stdout = os.fdopen(1, "w")  # as it is where no test looks on
            report(perform(order, step, steps.index(step), report))
        os.close(said)
        during(pid)
        with os.fdopen(heard) as pipe:
            text = pipe.read()
        os.waitpid(pid, 0)
        return Outcome(**json.loads(text))

    def done(self, spec: dict[str, Any], *steps: str) -> Job:
        """A job of which these steps were done, and that has ended."""
        job = self.submitted(spec)
        lease = self.claimed()
        for step in steps:
            assert self.perform(lease, step).state == "done"
        self.jobs.finish(lease, "SUCCEEDED")
        return job

    def files(self, job_id: str) -> set[str]:
        return set(self.artefacts.of(job_id))

    def content(self, job_id: str, path: str) -> str:
        with self.artefacts.open(job_id, path) as file:
            return file.read().decode()

    def said(self, job_id: str, kind: str) -> list[Any]:
        return [event.data for event in self.events.since(job_id, 0) if event.kind == kind]

    def folder(self, lease: Lease) -> Path:
        return self.settings.work_folder / lease.job_id / str(lease.epoch)


@pytest.fixture
def service(tmp_path) -> Iterator[Service]:
    settings = Settings(tmp_path)
    with Database(settings.database_url) as db:
        db.upgrade()
        add_user(db, "ann", max_running=100)
        yield Service(settings, db)


WRITTEN = {
    "train": ("space.json", "supernet.safetensors", "train.safetensors"),
    "profile": ("tables/one.json", "tables/four.json", "predictors/one.json", "predictors/four.json"),
    "search": (),
    "export": ("models/one-knee/model.onnx", "summary.json"),
}


def made_up(name: str) -> Callable[[Run], dict[str, Any]]:
    """A stage that writes what it is called into the files that it is to leave."""

    def stage(run: Run) -> dict[str, Any]:
        with run.display.stage(name) as progress:
            progress(1, 2, "half")
        for path in WRITTEN[name]:
            (run.folder.root / path).parent.mkdir(parents=True, exist_ok=True)
            (run.folder.root / path).write_text(name)
        for each in run.job.devices if name == "profile" else ():
            measured = {"device": each.to_json(), "fingerprint": run.machine(each).fingerprint().to_json()}
            run.folder.table(each.name).write_text(json.dumps(measured))
        devices = [{"name": each.name, "device": each.to_json(), "predictor": {}} for each in run.job.devices]
        return {"devices": devices, "supernet": {}}

    return stage


@pytest.fixture(autouse=True)
def stages(monkeypatch) -> None:
    for name in WRITTEN:
        monkeypatch.setitem(pipeline.PIPELINE, name, made_up(name))


def replaced(monkeypatch: pytest.MonkeyPatch, name: str, stage: Callable[[Run], Any]) -> None:
    monkeypatch.setitem(pipeline.PIPELINE, name, stage)


def test_a_whole_job_leaves_its_files_its_stages_and_its_result(service):
    job = service.submitted(RUN)
    lease = service.claimed()
    for step in steps_of(job.kind, job.spec)[:-1]:
        assert service.perform(lease, step) == Outcome("done")
    outcome = service.perform(lease, "conclude")
    assert [device["name"] for device in outcome.result["devices"]] == ["one", "four"]
    stages = [each["stage"] for each in service.jobs.get(job.id).stages]
    assert stages == list(outcome.result["stages"]) == ["train", "profile", "search", "export"]
    written = {path for paths in WRITTEN.values() for path in paths} - {"train.safetensors"}
    assert service.files(job.id) == {*written, "job.json", "log.txt", *(f"{name}.json" for name in WRITTEN)}
    assert json.loads(service.content(job.id, "job.json"))["job"]["name"] == "little"
    assert "export               1/2 half" in service.content(job.id, "log.txt")
    assert [each["state"] for each in service.said(job.id, "stage")] == ["started", "finished"] * 4
    assert {"stage": "train", "done": 1, "total": 2, "text": "half"} in service.said(job.id, "progress")


def test_an_attempt_goes_on_with_what_the_one_before_left_on_this_machine(service, monkeypatch):
    job = service.submitted(RUN)
    first = service.claimed()
    service.perform(first, "prepare")
    (service.folder(first) / "tables/one.json.rounds").write_text("half")
    service.jobs.give_back(first)
    second = service.claimed()
    assert service.perform(second, "prepare").state == "done"
    (service.folder(second) / "tables/one.json.rounds").write_text("more")
    assert not service.folder(first).exists()
    assert service.files(job.id) >= {"job.json", "tables/one.json.rounds"}


def test_an_export_that_was_not_finished_is_none_of_the_jobs_files(service):
    job = service.submitted(RUN)
    first = service.claimed()
    service.perform(first, "prepare")
    (service.folder(first) / "models/.one-knee.part").mkdir(parents=True)
    (service.folder(first) / "models/.one-knee.part/model.onnx").write_bytes(b"half")
    service.jobs.give_back(first)
    assert service.perform(service.claimed(), "prepare").state == "done"
    assert not [path for path in service.files(job.id) if path.startswith("models/")]


def test_whoever_was_too_slow_writes_into_files_of_his_own(service):
    service.submitted(RUN)
    first = service.claimed()
    service.perform(first, "prepare")
    root = service.folder(first)
    journal = (root / "tables/one.json.rounds").open("w")
    journal.write("one\n")
    journal.flush()
    service.jobs.release("w")
    second = service.claimed()
    service.perform(second, "prepare")
    with journal:
        journal.write("two\n")
    assert (service.folder(second) / "tables/one.json.rounds").read_text() == "one\n"


def test_an_attempt_on_another_machine_begins_with_the_jobs_files(service):
    job = service.submitted(RUN)
    lease = service.claimed()
    for step in ("prepare", "train"):
        service.perform(lease, step)
    service.jobs.give_back(lease)
    shutil.rmtree(service.settings.work_folder)
    lease = service.claimed()
    service.perform(lease, "prepare")
    assert (service.folder(lease) / "supernet.safetensors").read_text() == "train"
    before = service.said(job.id, "stage")
    assert service.perform(lease, "train").state == "done"
    assert service.said(job.id, "stage") == before, "it was finished, and recorded"


def test_a_stage_that_was_finished_but_not_recorded_is_recorded_and_not_repeated(service, monkeypatch):
    job = service.submitted(RUN)
    lease = service.claimed()
    service.perform(lease, "prepare")
    result = {"devices": [], "seconds": 1.5}
    (service.folder(lease) / "train.json").write_text(json.dumps(result))
    replaced(monkeypatch, "train", lambda run: pytest.fail("again"))
    assert service.perform(lease, "train").state == "done"
    assert service.jobs.get(job.id).stages == [{"stage": "train", "seconds": 1.5}]
    assert "train.json" in service.files(job.id)


# What goes wrong


def raising(error: BaseException) -> Callable[[Run], Any]:
    def stage(run: Run) -> Any:
        (run.folder.root / "half.txt").write_text("half")
        run.display.note("train", "it was going well")
        raise error

    return stage


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (JobError("no such thing"), "user"),
        (FaultError("Ray ended"), "infrastructure"),
        (OSError(28, "No space left on device"), "infrastructure"),
        (MemoryError(), "memory"),
        (KeyError("oh"), "bug"),
    ],
)
def test_a_stage_that_fails_says_why_and_keeps_what_it_made(service, monkeypatch, error, fault):
    replaced(monkeypatch, "train", raising(error))
    job = service.submitted(RUN)
    lease = service.claimed()
    service.perform(lease, "prepare")
    outcome = service.perform(lease, "train")
    assert (outcome.state, outcome.fault) == ("failed", fault)
    assert ("in stage" in outcome.trace) == (fault == "bug")
    assert "half.txt" in service.files(job.id)
    assert [(each["level"], each["text"]) for each in service.said(job.id, "log")] == [
        ("info", "it was going well"),
        ("error", outcome.message),
    ]
    assert outcome.message in service.content(job.id, "log.txt")


def test_the_folder_of_a_job_is_not_told(service, monkeypatch):
    replaced(monkeypatch, "train", lambda run: run.folder.result("search"))
    service.submitted(RUN)
    lease = service.claimed()
    service.perform(lease, "prepare")
    message = service.perform(lease, "train").message
    assert message.startswith("the job: the search stage has not finished")
    assert str(service.settings.data) not in message


def test_a_stage_that_is_told_to_stop_leaves_its_files(service, monkeypatch):
    def stage(run: Run) -> None:
        (run.folder.root / "train.safetensors").write_text("half")
        time.sleep(60)

    replaced(monkeypatch, "train", stage)
    job = service.submitted(RUN)
    lease = service.claimed()
    service.perform(lease, "prepare")

    def stop(pid: int) -> None:
        while not (service.folder(lease) / "train.safetensors").exists():
            time.sleep(0.01)
        os.kill(pid, signal.SIGTERM)

    assert service.perform(lease, "train", stop) == Outcome("stopped")
    assert service.content(job.id, "train.safetensors") == "half"


@pytest.mark.parametrize("step", ["prepare", "train", "conclude"])
def test_who_has_lost_the_job_writes_nothing(service, step):
    job = service.submitted(RUN)
    lease = service.claimed()
    if step != "prepare":
        service.perform(lease, "prepare")
    service.jobs.release("w")
    other = service.claimed()
    before = service.events.since(job.id, 0), service.artefacts.of(job.id)
    outcome = service.perform(lease, step)
    if step != "conclude":  # which only reads
        assert outcome == Outcome("lost")
    assert (service.events.since(job.id, 0), service.artefacts.of(job.id)) == before
    assert service.jobs.get(job.id).epoch == other.epoch


def test_a_stage_whose_job_is_lost_meanwhile_ends_in_the_middle(service, monkeypatch):
    def stage(run: Run) -> None:
        (run.folder.root / "begun").touch()
        for i in range(1000):
            run.display.note("train", f"still here {i}")
            time.sleep(0.05)

    replaced(monkeypatch, "train", stage)
    service.submitted(RUN)
    lease = service.claimed()
    service.perform(lease, "prepare")

    def take(pid: int) -> None:
        while not (service.folder(lease) / "begun").exists():
            time.sleep(0.01)
        service.jobs.release("w")

    assert service.perform(lease, "train", take) == Outcome("lost")


# Jobs that go on from others


def test_a_search_begins_with_what_was_trained_and_measured_and_nothing_later(service):
    first = service.done(RUN, "prepare", "train", "profile", "search", "export")
    asked = {"kind": "search", "from": first.id, "set": {"search.evaluations": 7}}
    job = service.submitted(asked)
    lease = service.claimed()
    assert service.perform(lease, "prepare").state == "done"
    begun = {"space.json", "supernet.safetensors", "train.json", "profile.json", *WRITTEN["profile"]}
    assert service.files(job.id) == {*begun, "job.json", "log.txt"}
    assert json.loads(service.content(job.id, "job.json"))["job"]["search"]["evaluations"] == 7
    service.perform(lease, "profile")
    assert service.said(job.id, "stage") == [{"stage": "profile", "state": "skipped"}]


def test_a_search_on_another_device_of_the_same_name_measures_it_anew(service):
    first = service.done(RUN, "prepare", "train", "profile")
    devices = [{"name": "one"}, {"name": "four", "batch": 2}, {"name": "new"}]
    job = service.submitted({"kind": "search", "from": first.id, "devices": devices})
    lease = service.claimed()
    assert service.perform(lease, "prepare").state == "done"
    there = service.folder(lease)
    assert (there / "tables/one.json").exists()
    assert not (there / "tables/four.json").exists()
    assert not (there / "predictors/four.json").exists()
    assert not (there / "profile.json").exists()
    assert [each["text"] for each in service.said(job.id, "log")] == [
        "four: was measured as another device or elsewhere, and is measured anew"
    ]
    service.perform(lease, "profile")
    assert [each["state"] for each in service.said(job.id, "stage")] == ["started", "finished"]


def test_what_was_measured_on_another_machine_is_measured_anew(service):
    job = service.submitted(RUN)
    lease = service.claimed()
    for step in ("prepare", "train"):
        service.perform(lease, step)
    elsewhere = {"device": {"name": "one"}, "fingerprint": {"cpu": "another"}}
    (service.folder(lease) / "tables/one.json").write_text(json.dumps(elsewhere))
    service.jobs.give_back(lease)
    lease = service.claimed()
    service.perform(lease, "prepare")
    assert not (service.folder(lease) / "tables/one.json").exists()
    assert service.said(job.id, "log")


def test_what_killed_processes_left_of_files_on_their_way_is_removed_on_this_machine(service):
    left = Path(service.settings.blobs_url) / "incoming" / "half.part"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    service.submitted(RUN)
    assert service.perform(service.claimed(), "prepare").state == "done"
    assert not left.exists()


def test_a_device_that_is_not_here_is_refused_before_anything_is_trained(service):
    job = {**LITTLE, "devices": [{"name": "gpu", "provider": "NoSuchExecutionProvider"}]}
    service.submitted({"kind": "run", "job": job})
    outcome = service.perform(service.claimed(), "prepare")
    assert outcome.fault == "user"
    assert "has no provider NoSuchExecutionProvider" in outcome.message


def test_more_workers_than_the_machine_has_room_for_are_refused(service):
    service.submitted({"kind": "run", "job": {**LITTLE, "train": {"workers": service.settings.evaluators + 1}}})
    outcome = service.perform(service.claimed(), "prepare")
    assert (outcome.state, outcome.fault) == ("failed", "user")
    assert "train.workers" in outcome.message


def test_an_agent_that_is_not_enrolled_is_refused_in_one_line(service):
    job = {**LITTLE, "devices": [{"name": "phone", "agent": "pixel"}]}
    service.submitted({"kind": "run", "job": job})
    outcome = service.perform(service.claimed(), "prepare")
    assert (outcome.state, outcome.fault) == ("failed", "user")
    assert "no machine 'pixel' is enrolled" in outcome.message


def test_energy_that_an_agent_cannot_measure_is_refused_before_anything_is_trained(service):
    farm = Farm(service.db)
    farm.enrol(farm.enrolment("pi", "ann")[0], "n", replace(ABOUT, needs=("footprint",)))
    search = {**LITTLE["search"], "objectives": ["accuracy", "energy_mj"]}
    service.submitted({"kind": "run", "job": {**LITTLE, "devices": [{"name": "pi", "agent": "pi"}], "search": search}})
    lease = service.claimed()
    outcome = service.perform(lease, "prepare")
    assert (outcome.state, outcome.fault) == ("failed", "user")
    assert "device pi: machine pi measures no energy" in outcome.message
    farm.hello("pi", ABOUT)
    assert service.perform(lease, "prepare") == Outcome("done")


def test_a_search_for_what_nobody_measured_yet_begins_with_the_profile(service, monkeypatch):
    """The table has no energies: it is gone on with, and not taken as it is."""
    first = service.done(RUN, "prepare", "train", "profile")
    monkeypatch.setattr("latency_tables.measuring.needs.find_meter", lambda: "a meter")
    monkeypatch.setattr(execution, "lacks", lambda folder, job, device: bool(needs_of(job)))
    service.submitted({"kind": "search", "from": first.id, "set": {"search.objectives": ["accuracy", "energy_mj"]}})
    lease = service.claimed()
    assert service.perform(lease, "prepare") == Outcome("done")
    assert (service.folder(lease) / "tables/one.json").exists()
    assert not (service.folder(lease) / "profile.json").exists()


def test_the_front_is_measured_in_a_step_of_its_own(service, monkeypatch):
    """Not in that of the search, which makes way for others."""
    monkeypatch.setattr(pipeline, "measure_fronts", lambda run: (run.folder.root / "here").touch())
    search = {**LITTLE["search"], "measure_front": True}
    service.submitted({**RUN, "job": {**LITTLE, "search": search}})
    lease = service.claimed()
    for step in ("prepare", "train", "profile", "search"):
        assert service.perform(lease, step) == Outcome("done")
    assert not (service.folder(lease) / "here").exists()
    assert service.perform(lease, "front") == Outcome("done")
    assert (service.folder(lease) / "here").exists()


def test_a_search_begins_with_what_an_earlier_job_evaluated_and_nothing_else(service, monkeypatch):
    space = small_space()
    archs = space.decode(space.sample(np.random.default_rng(0), 3))
    context = {"supernet": "a", "data": "b", "calibration": "c"}

    def stage(run: Run) -> dict[str, Any]:
        with run.trials() as store:
            store.begin("mine", {**context, "predictor": "d"})
        rows = [{"arch": arch.values, "accuracy": i / 10, "final": i != 2} for i, arch in enumerate(archs, 1)]
        return {"devices": [], "search": {"images": [50, 200], "architectures": rows}}

    replaced(monkeypatch, "search", stage)
    first = service.done(RUN, "prepare", "train", "profile", "search")
    with TrialStore(service.settings.database_url) as store:  # what others find later is not the job's
        store.add(digest(context), archs[1], Evaluation(archs[1].id, 200, 0.9, 1.0))

    def later(run: Run) -> dict[str, Any]:
        names = run.job.search.warm_start
        found = run.warm_start(names, space, context, 200)
        assert found == {archs[0]: 0.1, archs[2]: 0.3}
        for changed, images in (({**context, "supernet": "z"}, 200), (context, 100)):
            with pytest.raises(JobError, match=f"search.warm_start: {first.id}"):
                run.warm_start(names, space, changed, images)
        return {"devices": []}

    replaced(monkeypatch, "search", later)
    service.submitted({"kind": "search", "from": first.id, "set": {"search.warm_start": [first.id]}})
    lease = service.claimed()
    for step in ("prepare", "profile", "search"):
        assert service.perform(lease, step) == Outcome("done")


def test_a_search_tells_what_it_finds_once(service, monkeypatch):
    def stage(run: Run) -> dict[str, Any]:
        run.watch.point("one", 1, "a", 0.5, 1.0)
        run.watch.volume("one", 0, 4, 0.25)
        run.watch.measured("one", "a", 1.5)
        return {"devices": []}

    replaced(monkeypatch, "search", stage)
    job = service.submitted(RUN)
    lease = service.claimed()
    for step in ("prepare", "train", "profile", "search"):
        service.perform(lease, step)
    service.jobs.give_back(lease)
    shutil.rmtree(service.settings.work_folder)
    lease = service.claimed()
    service.perform(lease, "prepare")
    (service.folder(lease) / "search.json").unlink()
    assert service.perform(lease, "search").state == "done"
    assert service.said(job.id, "point") == [
        {"device": "one", "evaluations": 1, "arch_id": "a", "accuracy": 0.5, "latency_ms": 1.0}
    ]
    assert service.said(job.id, "volume") == [{"device": "one", "seed": 0, "evaluations": 4, "hypervolume": 0.25}]
    assert service.said(job.id, "measured") == [{"device": "one", "arch_id": "a", "latency_ms": 1.5}]


def test_the_trial_store_of_a_job_is_behind_its_lease(service, monkeypatch):
    def stage(run: Run) -> dict[str, Any]:
        with run.trials() as store, Database(service.settings.database_url) as db:
            store.begin("mine", {"a": "b"})
            JobStore(db).release("w")
            store.begin("too late", {"a": "b"})
        return {"devices": []}

    replaced(monkeypatch, "search", stage)
    job = service.submitted(RUN)
    lease = service.claimed()
    for step in ("prepare", "train", "profile"):
        service.perform(lease, step)
    assert service.perform(lease, "search").state == "lost"
    with TrialStore(service.settings.database_url, scope=job.id) as store:
        assert list(store.searches()) == ["mine"]
    with TrialStore(service.settings.database_url, scope="another") as store:
        assert list(store.searches()) == []
