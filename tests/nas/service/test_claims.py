"""Many workers at once, and a server that is killed under them: each job goes to one, and nothing is lost."""

import secrets
import shutil
import subprocess
import tempfile
import threading
import time as wall
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nas.database import Database
from nas.service.events import EventLog
from nas.service.jobs import JobStore, Lease
from tests.nas.service.databases import add_user, submission

pytest_plugins = ["tests.nas.searching.postgres"]

LEASE_S = 30.0


def test_workers_that_claim_at_once_get_different_jobs(real_db):
    jobs = JobStore(real_db)
    asked = {jobs.submit(submission())[0].id for _ in range(24)}
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: jobs.claim(f"w{i}", LEASE_S), range(32)))
    claimed = [job.id for job, _ in filter(None, found)]
    assert Counter(claimed) == Counter(asked)


def test_an_owner_has_no_more_running_than_he_may_however_many_claim_at_once(real_db):
    jobs = JobStore(real_db)
    add_user(real_db, "bob", max_running=3)
    for _ in range(12):
        jobs.submit(submission("bob"))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: jobs.claim(f"w{i}", LEASE_S), range(16)))
    assert len(list(filter(None, found))) == 3


def test_of_submissions_at_once_under_one_key_one_makes_a_job(real_db):
    jobs = JobStore(real_db)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: jobs.submit(submission(key="k", key_digest="d")), range(16)))
    assert len({job.id for job, _ in found}) == 1
    assert [new for _, new in found].count(True) == 1


def test_an_owner_gets_no_more_jobs_than_he_may_however_many_are_submitted_at_once(real_db):
    jobs = JobStore(real_db)
    add_user(real_db, "bob", max_queued=5)

    def submit(_: int) -> bool:
        try:
            return jobs.submit(submission("bob"))[1]
        except Exception:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(submit, range(16))) == 5


@pytest.mark.postgres
def test_a_claim_passes_over_what_another_one_is_taking(postgres):
    with Database(postgres) as db, Database(postgres, wait_s=1) as other:
        db.upgrade()
        add_user(db, "ann")
        jobs = JobStore(db)
        first, second = (jobs.submit(submission(priority=priority))[0] for priority in (1, 0))

        def work(connection) -> None:
            connection.exec_driver_sql(f"SELECT 1 FROM jobs WHERE id = '{first.id}' FOR UPDATE")
            claimed = JobStore(other).claim("w2", LEASE_S)
            assert claimed is not None
            assert claimed[0].id == second.id

        db.write(work)


@pytest.fixture
def server() -> Iterator[tuple[str, Callable[[str], None]]]:
    """The URL of a server of the test's own, and what tells it to `restart`; it is killed first."""
    from tests.nas.searching.postgres import PROGRAMS, serving, unprivileged

    if not PROGRAMS:
        pytest.skip("needs PostgreSQL's programs in /usr/lib/postgresql/*/bin")
    pytest.importorskip("psycopg")
    root = Path(tempfile.mkdtemp(prefix="pg-"))

    def control(word: str) -> None:
        said = [PROGRAMS[-1] / "pg_ctl", word, "-D", root / "data", "-m", "immediate", "-l", root / "restarted"]
        subprocess.run(said, check=True, capture_output=True, cwd=root, user=unprivileged())

    try:
        with serving(root):
            yield f"postgresql+psycopg://trials@/postgres?host={root}", control
            control("stop")
    finally:
        shutil.rmtree(root)


@pytest.mark.postgres
def test_a_server_that_is_killed_again_and_again_loses_nothing_and_nothing_is_done_twice(server):
    url, control = server
    with Database(url) as db:
        db.upgrade()
        add_user(db, "ann", max_running=100, max_queued=10**6)
        jobs, log, stop = JobStore(db), EventLog(db), threading.Event()

        def submit() -> list[str]:
            made = []
            while not stop.is_set():
                job, new = jobs.submit(submission(key=secrets.token_hex(8), key_digest="d"))
                assert new
                made.append(job.id)
            return made

        def carry_out(worker: str) -> list[Lease]:
            done = []
            while not stop.is_set():
                claimed = jobs.claim(worker, LEASE_S)
                if claimed is None:
                    wall.sleep(0.01)
                    continue
                lease = claimed[1]
                for n in range(3):
                    log.append(lease, [("point", {"n": n})], n)
                jobs.stage(lease, "train", 1.0)
                jobs.finish(lease, "SUCCEEDED", result={"by": worker})
                done.append(lease)
            return done

        with ThreadPoolExecutor(4) as pool:
            submitting = pool.submit(submit)
            working = [pool.submit(carry_out, f"w{i}") for i in range(3)]
            try:
                for _ in range(3):
                    wall.sleep(0.5)
                    control("restart")
                wall.sleep(0.5)
            finally:
                stop.set()
            made = submitting.result()
            done = [lease for each in working for lease in each.result()]
        assert done
        assert sorted(job.id for job in jobs.page(limit=10**6)) == sorted(made)
        assert len({lease.job_id for lease in done}) == len(done)
        for lease in done:
            job = jobs.get(lease.job_id)
            assert (job.state, job.epoch, job.faults, job.result) == ("SUCCEEDED", 1, 0, {"by": lease.worker})
            told = [(event.kind, event.data.get("n")) for event in log.since(job.id, 0)]
            points = [("point", n) for n in range(3)]
            assert told == [("state", None), ("state", None), *points, ("stage", None), ("state", None)]
