"""The worker: what it claims ends as its keeper says, is given back when it is told to end, and goes on when it is killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from nas.database import Database
from nas.service.blobs import Blobs
from nas.service.errors import Unavailable
from nas.service.hired import Hired
from nas.service.jobs import Job, JobStore
from nas.service.orphans import worker_id
from nas.service.settings import Settings
from nas.service.worker import Worker, work
from tests.nas.searching.test_runners import wait_until_gone
from tests.nas.service.acts import hire, steps, stubborn
from tests.nas.service.databases import add_user, submission

SOON_S = 30.0
# A worker as `nas worker` starts it, but for its keepers.
WORK = (
    "import sys; from pathlib import Path; from nas.service import worker; from nas.service.settings import Settings; "
    "from tests.nas.service.acts import COMMAND; import nas.service.hired as hired; "
    "worker.Hired.start.__defaults__ = (COMMAND,); worker.work(Settings(Path(sys.argv[1])))"
)


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(tmp_path)


@pytest.fixture
def jobs(settings) -> Iterator[JobStore]:
    with Database(settings.database_url) as db:
        db.upgrade()
        add_user(db, "ann")
        yield JobStore(db)


@contextmanager
def working(
    settings: Settings, jobs: JobStore, act: str, slots: int = 1, hire: Callable[[str], Hired] = hire
) -> Iterator[Worker]:
    """A worker in this process, all of whose jobs do this."""
    (settings.data / "act").write_text(act)
    worker = Worker(settings, jobs, slots, hire)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join()


def submitted(jobs: JobStore, **given) -> Job:
    return jobs.submit(submission(**given))[0]


def wait_until(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + SOON_S
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ended(jobs: JobStore, job: Job) -> Job:
    wait_until(lambda: jobs.get(job.id).ended)
    return jobs.get(job.id)


def test_a_job_is_done_step_by_step_and_its_result_recorded(settings, jobs):
    job = submitted(jobs, kind="search")
    (settings.work_folder / job.id).mkdir(parents=True)
    with working(settings, jobs, "do") as worker:
        found = ended(jobs, job)
        assert [each.id for each in jobs.alive(60)] == [worker.id]
    assert (found.state, found.result, found.epoch, found.worker) == ("SUCCEEDED", {"made": "it"}, 1, worker.id)
    assert [row[0] for row in steps(settings.data)] == ["prepare", "profile", "search", "front", "conclude"]
    wait_until(lambda: not (settings.work_folder / job.id).exists())
    assert jobs.alive(60) == []


def test_a_model_is_measured_and_has_no_stages(settings, jobs):
    job = submitted(jobs, kind="profile", spec={"kind": "profile", "model": "u1"})
    with working(settings, jobs, "do"):
        assert ended(jobs, job).state == "SUCCEEDED"
    assert [row[0] for row in steps(settings.data)] == ["measure"]


def test_a_worker_whose_keepers_cannot_start_claims_nothing(settings, jobs):
    job = submitted(jobs)
    hired = []

    def hire_broken(worker: str) -> Hired:
        hired.append(Hired.start(worker, (sys.executable, "-c", "raise SystemExit(3)")))
        return hired[-1]

    with working(settings, jobs, "do", hire=hire_broken):
        wait_until(lambda: len(hired) > 1)
    assert jobs.get(job.id).epoch == 0


def test_slots_work_side_by_side(settings, jobs):
    both = [submitted(jobs), submitted(jobs)]
    with working(settings, jobs, "stay", slots=2):
        wait_until(lambda: [jobs.get(job.id).state for job in both] == ["RUNNING", "RUNNING"])
    assert [jobs.get(job.id).state for job in both] == ["QUEUED", "QUEUED"]


@pytest.mark.parametrize(
    ("act", "error"),
    [
        ("refuse", {"kind": "user", "message": "there is no such thing"}),
        ("stumble", {"kind": "bug", "message": "KeyError: 'nothing there'"}),
    ],
)
def test_a_job_that_is_wrong_fails_at_once(settings, jobs, act, error):
    job = submitted(jobs)
    with working(settings, jobs, act):
        found = ended(jobs, job)
    assert (found.state, found.epoch) == ("FAILED", 1)
    assert found.error.items() >= error.items()
    assert ("traceback" in found.error) == (act == "stumble")


def test_a_job_whose_process_is_killed_is_tried_again_later(settings, jobs):
    job = submitted(jobs)
    with working(settings, jobs, "die"):
        wait_until(lambda: jobs.get(job.id).state == "RETRY_WAIT")
        (settings.data / "act").write_text("do")
        found = ended(jobs, job)
    assert (found.state, found.epoch, found.faults) == ("SUCCEEDED", 2, 1)


def test_while_the_files_are_away_no_fault_is_counted_and_nothing_claimed(settings, jobs, monkeypatch):
    away = threading.Event()

    def check(store: Blobs) -> None:
        if away.is_set():
            raise Unavailable("s3://nas: the store of files cannot be used")

    monkeypatch.setattr(Blobs, "check", check)
    job = submitted(jobs)
    away.set()
    with working(settings, jobs, "die"):
        wait_until(lambda: jobs.get(job.id).state == "QUEUED" and jobs.get(job.id).epoch == 1)
        (settings.data / "act").write_text("do")
        time.sleep(1.0)
        assert jobs.get(job.id).epoch == 1
        away.clear()
        found = ended(jobs, job)
    assert (found.state, found.epoch, found.faults) == ("SUCCEEDED", 2, 0)


def test_a_worker_that_cannot_store_files_does_not_start(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="file"):
        work(Settings(tmp_path, blobs=str(tmp_path / "file")))


def test_a_keeper_that_is_killed_is_replaced(settings, jobs):
    job = submitted(jobs)
    with working(settings, jobs, "spawn_and_stay"):
        wait_until((settings.data / "spawned").exists)
        (settings.data / "act").write_text("do")
        _, _, step, *_ = steps(settings.data)[0]
        os.kill(parent_of(step), signal.SIGKILL)
        found = ended(jobs, job)
    assert (found.state, found.epoch) == ("SUCCEEDED", 2)
    assert wait_until_gone(stubborn(settings.data), 0) == set()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize("act", ["stay", "spawn_and_stay"])
def test_a_cancelled_job_ends_with_all_that_it_started(settings, jobs, act, monkeypatch):
    monkeypatch.setattr("nas.service.worker.CANCEL_S", 0.5)
    job = submitted(jobs)
    with working(settings, jobs, act):
        wait_until(lambda: steps(settings.data) and (act == "stay" or (settings.data / "spawned").exists()))
        assert jobs.cancel(job.id).state == "CANCELLING"
        assert ended(jobs, job).state == "CANCELLED"
        assert wait_until_gone({steps(settings.data)[0][2], *stubborn(settings.data)}, 0) == set()


def test_a_worker_that_is_told_to_end_gives_its_job_back_and_no_fault_is_counted(settings, jobs):
    job = submitted(jobs)
    with working(settings, jobs, "stay"):
        wait_until(lambda: steps(settings.data))
    found = jobs.get(job.id)
    assert (found.state, found.faults) == ("QUEUED", 0)
    with working(settings, jobs, "do"):
        assert ended(jobs, job).state == "SUCCEEDED"


def test_leases_are_renewed(settings, jobs):
    settings = replace(settings, lease_s=2.0, renew_s=0.2)
    job = submitted(jobs)
    with working(settings, jobs, "stay"):
        wait_until(lambda: steps(settings.data))
        first = jobs.get(job.id).lease_expires_s
        wait_until(lambda: jobs.get(job.id).lease_expires_s > first + 2.0)
        assert jobs.get(job.id).epoch == 1


def test_a_worker_that_has_lost_its_lease_ends_what_it_runs_and_writes_nothing(settings, jobs):
    settings = replace(settings, renew_s=0.2)
    job = submitted(jobs)
    with working(settings, jobs, "spawn_and_stay") as worker:
        wait_until((settings.data / "spawned").exists)
        below = {steps(settings.data)[0][2], *stubborn(settings.data)}
        # One who believes that it is dead, before it claims anything again.
        worker._stopping.set()
        jobs.release(worker.id)
        _, lease = jobs.claim("another", 30.0)
        assert wait_until_gone(below, SOON_S) == set()
    found = jobs.get(job.id)
    assert (found.state, found.worker, found.epoch) == ("RUNNING", "another", lease.epoch)


@contextmanager
def worker_process(settings: Settings, act: str) -> Iterator[subprocess.Popen[bytes]]:
    (settings.data / "act").write_text(act)
    process = subprocess.Popen([sys.executable, "-c", WORK, settings.data])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_when_a_worker_is_killed_all_below_it_ends_and_another_goes_on_at_once(settings, jobs):
    job = submitted(jobs)
    with worker_process(settings, "spawn_and_stay") as process:
        wait_until((settings.data / "spawned").exists)
        below = {steps(settings.data)[0][2], *stubborn(settings.data)}
        process.kill()
        process.wait()
        assert wait_until_gone(below, SOON_S) == set()
    assert jobs.get(job.id).state == "RUNNING", "nobody has noticed"
    with working(settings, jobs, "do"):
        found = ended(jobs, job)
    assert (found.state, found.epoch, found.faults) == ("SUCCEEDED", 2, 1)


def test_what_a_worker_and_its_keeper_leave_when_both_are_killed_is_ended_by_the_next_worker(settings, jobs):
    job = submitted(jobs)
    with worker_process(settings, "spawn_and_stay") as process:
        wait_until((settings.data / "spawned").exists)
        keeper = parent_of(steps(settings.data)[0][2])
        process.send_signal(signal.SIGSTOP)  # so that neither sees the other's end
        os.kill(keeper, signal.SIGKILL)
        process.kill()
        process.wait()
    assert wait_until_gone(stubborn(settings.data), 0) == stubborn(settings.data)
    with working(settings, jobs, "do"):
        assert ended(jobs, job).state == "SUCCEEDED"
    assert wait_until_gone(stubborn(settings.data), 0) == set()


def test_a_worker_process_ends_in_order_when_it_is_told_to(settings, jobs):
    job = submitted(jobs)
    with worker_process(settings, "stay") as process:
        wait_until(lambda: steps(settings.data))
        process.terminate()
        assert process.wait(SOON_S) == 0
    assert jobs.get(job.id).state == "QUEUED"
    assert wait_until_gone({steps(settings.data)[0][2]}, 0) == set()


def test_the_folder_of_a_job_that_ended_elsewhere_is_removed_after_the_next_one(settings, jobs):
    lost, job = submitted(jobs), submitted(jobs)
    with working(settings, jobs, "do"):
        ended(jobs, job)
        (settings.work_folder / lost.id).mkdir(parents=True)
        ended(jobs, submitted(jobs))
        wait_until(lambda: not (settings.work_folder / lost.id).exists())


def test_folders_of_jobs_that_ended_without_their_worker_are_removed(settings, jobs):
    job, other = submitted(jobs), submitted(jobs)
    jobs.cancel(job.id)
    for each in (job, other):
        (settings.work_folder / each.id / "1").mkdir(parents=True)
    worker = Worker(settings, jobs, 0, hire)
    worker.stop()
    worker.run()
    assert [path.name for path in settings.work_folder.iterdir()] == [other.id]
    assert worker.id == worker_id()
