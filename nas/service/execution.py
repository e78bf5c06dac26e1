"""What a step of a job does, in a process of its own: prepare the folder, run a stage of the pipeline, say what came of it.

Everything that it writes for the job goes through the lease; where that is lost, the process ends at once.
"""

from __future__ import annotations

import importlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from latency_tables.device import Device
from latency_tables.journal import SUFFIX
from latency_tables.measuring.machine import Machine
from nas import pipeline
from nas.database import Database
from nas.errors import JobError
from nas.folder import STAGES, RunFolder
from nas.job import Job
from nas.profiling import lacks, needs_of
from nas.searching.document import evaluated
from nas.searching.inputs import check_context, checked_start
from nas.searching.store import TrialStore
from nas.service import datasets
from nas.service.artefacts import Artefacts
from nas.service.blobs import Blobs
from nas.service.errors import LeaseLost
from nas.service.events import EventLog
from nas.service.faults import failed
from nas.service.garbage import HOUR_S
from nas.service.jobs import Job as JobRow
from nas.service.jobs import JobStore
from nas.service.leases import Lease
from nas.service.models import measure_upload
from nas.service.orders import Order, Outcome, Report, Stopped, steps_of
from nas.service.references import References, inherited
from nas.service.remote import RemoteMachine
from nas.service.results import result_of
from nas.service.settings import Settings
from nas.service.specs import Model, Next, Whole, check_spec
from nas.service.telling import EventDisplay, EventWatch, Telling
from nas.service.uploads import Uploads
from nas.service.workspace import LOG, Workspace, folder_of
from search_spaces import Arch, Space

Json = Any


def warm_up() -> None:
    """Import what stages import on the way; 1.2 s that no job then waits for."""
    for name in ("scipy.optimize", "sklearn.ensemble", "sklearn.gaussian_process"):
        importlib.import_module(name)


def perform(order: Order, step: str, number: int, report: Report) -> Outcome:
    """Do one step of the job; what a keeper calls."""
    settings = Settings.from_json(order.settings)
    lease = Lease(order.job, order.epoch, order.worker)
    root = folder_of(settings.work_folder, lease)

    def fail(error: BaseException) -> NoReturn:
        report(_outcome(error, root))

    try:
        with Database(settings.database_url) as db:
            jobs, events, blobs = JobStore(db), EventLog(db), Blobs(settings.blobs_url)
            artefacts, uploads = Artefacts(db, blobs), Uploads(db, blobs)
            workspace = Workspace(settings.work_folder, artefacts, lease)
            with Telling(jobs, events, lease, number, fail) as telling:
                job = jobs.get(order.job)
                at = Execution(
                    settings, db, jobs, events, blobs, artefacts, uploads, lease, job, workspace, telling, fail
                )
                result = _done(at, step)
        return Outcome("done", result=result)
    except BaseException as error:
        return _outcome(error, root)


@dataclass(frozen=True, slots=True)
class Execution:
    """A step under way, with all that it needs."""

    settings: Settings
    db: Database
    jobs: JobStore
    events: EventLog
    blobs: Blobs
    artefacts: Artefacts
    uploads: Uploads
    lease: Lease
    row: JobRow
    workspace: Workspace
    telling: Telling
    fail: Callable[[BaseException], NoReturn]

    @property
    def references(self) -> References:
        return References(self.jobs, self.artefacts, self.uploads, self.settings.datasets)

    def machine(self, device: Device) -> Machine:
        """Where a device is measured: here, or at an agent."""
        if not device.agent:
            return pipeline.here(device)
        return RemoteMachine(self.db, self.blobs, self.lease, device.agent)

    def trials(self) -> TrialStore:
        """Evaluations are the service's; the proposals of this search are the job's, and only its holder adds to them."""
        url = self.settings.database_url
        return TrialStore(url, fence=lambda connection: self.jobs.check(connection, self.lease), scope=self.row.id)

    def warm_start(
        self, names: Sequence[str], space: Space, context: Mapping[str, str], images: int
    ) -> dict[Arch, float]:
        """What earlier jobs evaluated; that they are the owner's was seen to when this one was submitted."""
        found: dict[Arch, float] = {}
        for job_id in names:
            with TrialStore(self.settings.database_url, scope=job_id) as store:
                check_context(job_id, store, context)
            with self.artefacts.open(job_id, "search.json") as content:
                found |= checked_start(job_id, evaluated(json.loads(content.read()), space, images), images)
        return found

    def run(self) -> pipeline.Run:
        folder = RunFolder.open(self.workspace.root)
        job, work = folder.job, self.settings.work_folder
        source = datasets.local(job.data, self.uploads, self.blobs, work, self.settings.datasets)
        search = replace(job.search, ray_address=self.settings.ray_address)
        return pipeline.Run(
            folder,
            replace(job, data=source, search=search),
            self.settings.evaluators,
            EventDisplay(self.telling),
            machine=self.machine,
            trials=self.trials,
            warm_start=self.warm_start,
            watch=EventWatch(self.telling, self.events, self.row.id, self.advanced),
        )

    def advanced(self) -> None:
        self.jobs.advanced(self.lease)


def prepare(at: Execution) -> None:
    """The folder with the job's own files, or those that it begins with; its devices are there."""
    datasets.forget_unused(at.settings.work_folder)
    at.blobs.sweep(HOUR_S)  # on this machine; the server's collector sees its own alone
    spec = check_spec(at.row.spec)
    assert isinstance(spec.asked, Whole | Next)
    _begin(at, spec.kind, spec.asked)
    folder = RunFolder(at.workspace.root)
    if not (folder.root / "job.json").exists():
        job = spec.asked.job if isinstance(spec.asked, Whole) else at.references.next_job(spec.asked)
        if not _is_measured(folder, job, at.row.spec):
            folder.reopen("profile")
        folder.change(job)
    job, most = folder.job, at.settings.evaluators
    if job.train.workers > most and not at.settings.ray_address:
        raise JobError(
            f"train.workers: {most} can work side by side on the machine that does this job, not {job.train.workers}"
        )
    if "profile" in steps_of(at.row.kind, at.row.spec) and "profile" not in folder.stages():
        for device in job.devices:
            at.machine(device).check(device, needs_of(job))
        _drop_others(at, folder, job)
    at.workspace.sync()


def stage(name: str, at: Execution) -> None:
    """One stage of the pipeline; it is recorded as finished when its files are safe."""
    context = at.run()
    recorded = {each["stage"] for each in at.row.stages or ()}
    there = name in context.folder.stages()
    if not there:
        at.telling.say("stage", stage=name, state="started")
    with at.workspace.synced(at.fail, at.advanced):
        pipeline.finish_stage(context, name)
    at.workspace.sync()
    at.telling.flush()
    if there and at.row.parent is not None and name != at.row.kind:
        at.telling.say("stage", stage=name, state="skipped")
    elif name not in recorded:
        at.jobs.stage(at.lease, name, context.folder.stages()[name])


def front(at: Execution) -> None:
    """Measure the networks of the fronts, where the job asks for it; a step of its own, since a search makes way for others."""
    if not RunFolder(at.workspace.root).job.search.measure_front:
        return  # `run` looks through all events
    with at.workspace.synced(at.fail, at.advanced):
        pipeline.measure_fronts(at.run())
    at.workspace.sync()
    at.telling.flush()


def measure(at: Execution) -> Json:
    """An uploaded model, on its device: the measurement is the result, and a file."""
    spec = check_spec(at.row.spec)
    assert isinstance(spec.asked, Model)
    _begin(at, spec.kind, spec.asked)
    started = time.perf_counter()
    at.telling.say("stage", stage="measure", state="started")
    upload = at.uploads.get(spec.asked.upload)
    file = datasets.file_of(upload.sha256, at.blobs, at.settings.work_folder / datasets.FILES, ".onnx")
    machine = at.machine(spec.asked.device)
    found = measure_upload(file, upload.name, spec.asked, machine, EventDisplay(at.telling))
    RunFolder(at.workspace.root).write_json("measurement.json", found)
    at.workspace.sync()
    at.telling.flush()
    at.jobs.stage(at.lease, "measure", time.perf_counter() - started)
    return found


def conclude(at: Execution) -> Json:
    """What all stages found, in short; the rest is in the files."""
    return result_of(RunFolder.open(at.workspace.root))


_DO: Mapping[str, Callable[[Execution], Json]] = {
    "prepare": prepare,
    **{name: partial(stage, name) for name in STAGES},
    "front": front,
    "measure": measure,
    "conclude": conclude,
}


def _done(at: Execution, step: str) -> Json:
    """Do it. Its log, and what it made before it failed or was stopped, are the job's either way."""
    _log_into(at.workspace)
    try:
        return _DO[step](at)
    except LeaseLost:
        raise
    except BaseException as error:
        outcome = _outcome(error, at.workspace.root)
        if outcome.state == "failed":
            at.telling.log(outcome.message, level="error")
            print(outcome.trace, flush=True)
        if at.workspace.root.exists():
            at.workspace.sync()
        raise


def _outcome(error: BaseException, root: Path) -> Outcome:
    """`root`: the job's folder, which is nobody's business elsewhere."""
    if isinstance(error, LeaseLost):
        return Outcome("lost")
    if isinstance(error, Stopped | SystemExit):  # Ray answers the signal in its own way: it ends Python
        return Outcome("stopped")
    outcome = failed(error)
    return replace(outcome, message=outcome.message.replace(f"{root}/", "").replace(str(root), "the job"))


def _begin(at: Execution, kind: str, asked: Whole | Next | Model) -> None:
    def of_parent() -> dict[str, str]:
        return inherited(kind, asked.source, at.artefacts.of(asked.source)) if isinstance(asked, Next) else {}

    at.workspace.begin(at.settings.work_folder / datasets.IMAGES, of_parent)
    _log_into(at.workspace)


def _log_into(workspace: Workspace) -> None:
    """What this process and all that it starts print."""
    if workspace.root.exists():
        descriptor = os.open(workspace.root / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)


def _is_measured(folder: RunFolder, job: Job, spec: Mapping[str, Json]) -> bool:
    """Whether an earlier job's profile is of all of this one's devices, and as this one wants it."""
    if "profile" not in folder.stages() or any(key.startswith("profile.") for key in spec.get("set") or {}):
        return False
    known = {each["name"]: each["device"] for each in folder.result("profile")["devices"]}
    return all(known.get(device.name) == device.to_json() and not lacks(folder, job, device) for device in job.devices)


def _document(path: Path) -> dict[str, Json]:
    """What is in a file; nothing where it is damaged."""
    with suppress(ValueError):
        found = json.loads(path.read_text())
        return found if isinstance(found, dict) else {}
    return {}


def _drop_others(at: Execution, folder: RunFolder, job: Job) -> None:
    """Forget what was measured as another device of the same name, or on another machine."""
    for device in job.devices:
        path = folder.table(device.name)
        if path.exists():
            table = _document(path)
            here = at.machine(device).fingerprint().to_json()
            if (table.get("device"), table.get("fingerprint")) != (device.to_json(), here):
                at.telling.log(f"{device.name}: was measured as another device or elsewhere, and is measured anew")
                for stale in (path, path.with_name(f"{path.name}{SUFFIX}"), folder.predictor(device.name)):
                    stale.unlink(missing_ok=True)
