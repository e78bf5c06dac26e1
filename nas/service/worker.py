"""A worker: claims jobs, has a keeper carry each out, holds its lease meanwhile, and records what became of it.

It is small and imports nothing that computes. A thread renews the leases of all its jobs and does nothing else; a thread a slot
claims, waits and records. Nothing that a worker keeps in memory matters: kill it, and the next one goes on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from nas.database import Database
from nas.service.blobs import Blobs
from nas.service.errors import LeaseLost, NotFound, ServiceError, Unavailable
from nas.service.hired import Hired
from nas.service.jobs import Job, JobStore
from nas.service.leases import Lease
from nas.service.orders import Order, Outcome, steps_of
from nas.service.orphans import end_orphans, is_alive, worker_id
from nas.service.settings import Settings
from nas.service.workspace import remove

IDLE_S = (0.3, 1.0)
"""Between two looks for work: at first, and after a while without any."""
LOOK_S = 0.5
"""Between two looks at how a job goes, and whether it is to be cancelled."""
CANCEL_S = 4.0
"""What a cancelled step has to end by itself: Ray takes a second or two."""
GIVE_BACK_S = 12.0
"""The same of one whose worker is told to end; it leaves its files to whoever goes on."""
AWAY_S = 1.0

LOG = logging.getLogger("nas.worker")


def work(settings: Settings, slots: int = 1) -> None:
    """Do jobs, `slots` of them side by side, until SIGTERM or SIGINT; jobs that are under way are then given back.

    Raises `Unavailable` where the files of jobs cannot be written: every job would fail here.
    """
    Blobs(settings.blobs_url).check()
    with Database(settings.database_url, wait_s=settings.renew_s) as db:
        db.upgrade()
        worker = Worker(settings, JobStore(db), slots)
        told: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            # Not `worker.stop`: a second signal within it would wait for good for the lock that the first one holds.
            signal.signal(number, lambda number, _: told.append(number))
        worker.run(told)


@dataclass(slots=True)
class _Held:
    """A job under way. `lost`: somebody else has it, or may have it by now."""

    lease: Lease
    renewed_s: float
    """When the last renewal was asked for that succeeded, by this machine's own clock."""
    lost: threading.Event = field(default_factory=threading.Event)


class Worker:
    """`hire` starts a keeper for the worker with this id."""

    def __init__(
        self, settings: Settings, jobs: JobStore, slots: int = 1, hire: Callable[[str], Hired] = Hired.start
    ) -> None:
        self.id = worker_id()
        self._settings = settings
        self._jobs = jobs
        self._slots = slots
        self._hire = hire
        self._blobs = Blobs(settings.blobs_url)
        self._without_files = threading.Event()
        self._stopping = threading.Event()
        self._finished = threading.Event()
        self._held: dict[str, _Held] = {}

    def stop(self) -> None:
        """Claim nothing more, and give back what is under way."""
        self._stopping.set()

    def run(self, told: Sequence[int] = ()) -> None:
        """Until `stop`, or until a signal is among those that the process was told."""
        end_orphans()
        self._release_dead()
        self._clear_ended()
        threads = [threading.Thread(target=self._slot, name=f"slot {n}", daemon=True) for n in range(self._slots)]
        renewing = threading.Thread(target=self._renew, name="renew", daemon=True)
        for thread in (renewing, *threads):
            thread.start()
        LOG.info("worker %s has started with %d slots", self.id, self._slots)
        for thread in threads:
            while thread.is_alive():  # with a timeout, so that signals are heard
                thread.join(LOOK_S)
                if told:
                    self.stop()
        self._finished.set()
        renewing.join()
        with contextlib.suppress(ServiceError):
            self._jobs.gone(self.id)

    def _release_dead(self) -> None:
        """Jobs of workers that have died on this machine need not wait until their leases run out."""
        holders = {job.worker for job in self._jobs.page(states=("RUNNING", "CANCELLING"), limit=1000) if job.worker}
        for worker in sorted(holders):
            if not is_alive(worker):
                LOG.warning("worker %s has died; its %d jobs go on", worker, self._jobs.release(worker))

    def _clear_ended(self) -> None:
        """What has ended needs no folder here, whoever ended it: this worker, or one elsewhere after this one had lost it."""
        work = self._settings.work_folder
        for folder in work.glob("j*") if work.exists() else ():
            with contextlib.suppress(NotFound):
                if self._jobs.get(folder.name).ended:
                    remove(work, folder.name)

    def _renew(self) -> None:
        """Tell the database that the worker lives and holds its jobs."""
        pause_s = 0.0
        while not self._finished.wait(pause_s):
            pause_s = self._settings.renew_s
            try:
                for held in list(self._held.values()):
                    self._renew_one(held)
                self._jobs.beat(self.id, self.id.partition(":")[0], os.getpid())
            except Unavailable as error:
                LOG.warning("%s", error)
                pause_s = AWAY_S

    def _renew_one(self, held: _Held) -> None:
        asked_s = time.monotonic()
        try:
            self._jobs.renew(held.lease, self._settings.lease_s)
            held.renewed_s = asked_s
        except LeaseLost:
            held.lost.set()

    def _slot(self) -> None:
        """One slot; where it breaks, the worker ends, and whoever has started it starts another."""
        try:
            self._serve()
        finally:
            self.stop()

    def _serve(self) -> None:
        """One job after the other, all by one keeper as long as that lives."""
        keeper = self._hire(self.id)
        pause_s = IDLE_S[0]
        while not self._stopping.is_set():
            if not keeper.is_alive():
                keeper.close()
                self._stopping.wait(AWAY_S)
                keeper = self._hire(self.id)
            if not keeper.is_ready(LOOK_S):
                continue
            claimed = self._claimed()
            if claimed is None:
                self._stopping.wait(pause_s)
                pause_s = min(1.2 * pause_s, IDLE_S[1])
                continue
            pause_s = IDLE_S[0]
            self._do(*claimed, keeper)
        keeper.close()

    def _claimed(self) -> tuple[Job, Lease] | None:
        try:
            if self._without_files.is_set():
                self._blobs.check()
                self._without_files.clear()
            return self._jobs.claim(self.id, self._settings.lease_s)
        except Unavailable as error:
            LOG.warning("%s", error)
            self._stopping.wait(AWAY_S)
            return None

    def _do(self, job: Job, lease: Lease, keeper: Hired) -> None:
        """Have a claimed job carried out, and record how it ended."""
        LOG.info("job %s: %s begins, attempt %d", job.id, job.kind, lease.epoch, extra={"job": job.id})
        held = self._held[job.id] = _Held(lease, time.monotonic())
        try:
            order = Order(self._settings.to_json(), job.id, lease.epoch, lease.worker, steps_of(job.kind, job.spec))
            outcome = self._watched(order, held, keeper)
            LOG.info("job %s: %s %s", job.id, outcome.state, outcome.message, extra={"job": job.id})
            self._recorded(held, outcome)
        except (LeaseLost, Unavailable) as error:  # whoever claims it next goes on
            LOG.warning("job %s: %s", job.id, error, extra={"job": job.id})
        finally:
            del self._held[job.id]
        with contextlib.suppress(Unavailable):
            self._clear_ended()

    def _watched(self, order: Order, held: _Held, keeper: Hired) -> Outcome:
        """Until the keeper says how the job ended, or is gone itself."""
        keeper.carry_out(order)
        told = False
        while True:
            outcome = keeper.outcome(LOOK_S)
            if outcome is not None:
                return outcome
            if self._is_lost(held):
                keeper.kill()
            elif not told and self._stopping.is_set():
                keeper.stop(GIVE_BACK_S)
                told = True
            elif not told and self._to_be_cancelled(order.job):
                keeper.stop(CANCEL_S)
                told = True

    def _to_be_cancelled(self, job_id: str) -> bool:
        try:
            return self._jobs.get(job_id).state == "CANCELLING"
        except (Unavailable, NotFound):
            return False

    def _recorded(self, held: _Held, outcome: Outcome) -> None:
        """Record how it ended, however long the database is away, as long as the lease lasts."""
        while True:
            try:
                return self._record(held.lease, outcome)
            except Unavailable as error:
                if self._is_lost(held):
                    raise
                LOG.warning("job %s: %s", held.lease.job_id, error)
                time.sleep(AWAY_S)

    def _is_lost(self, held: _Held) -> bool:
        """Also where nobody has said so, but the lease has run out for want of an answer."""
        return held.lost.is_set() or time.monotonic() - held.renewed_s > self._settings.lease_s

    def _record(self, lease: Lease, outcome: Outcome) -> None:
        if outcome.state == "done":
            self._jobs.finish(lease, "SUCCEEDED", result=outcome.result)
        elif outcome.state == "stopped":
            self._record_stop(lease)
        elif outcome.state == "failed" and outcome.fault in ("infrastructure", "memory"):
            self._record_fault(lease, outcome)
        elif outcome.state == "failed":
            self._jobs.finish(lease, "FAILED", error=outcome.error)

    def _record_fault(self, lease: Lease, outcome: Outcome) -> None:
        """None of the job's own; nor is it counted where the files are away, which no worker could do without."""
        try:
            self._blobs.check()
        except Unavailable as error:
            self._without_files.set()
            self._jobs.give_back(lease, str(error))
        else:
            self._jobs.retry(lease, outcome.fault, outcome.error)

    def _record_stop(self, lease: Lease) -> None:
        """It was told to end: by its owner, by the end of this worker, or by nobody that we know."""
        if self._jobs.get(lease.job_id).state == "CANCELLING":
            self._jobs.finish(lease, "CANCELLED")
        elif self._stopping.is_set():
            self._jobs.give_back(lease)
        else:
            told = Outcome("failed", "infrastructure", "somebody told its process to end")
            self._jobs.retry(lease, told.fault, told.error)
