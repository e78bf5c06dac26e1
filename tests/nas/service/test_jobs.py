"""The job store: submitted once, claimed in order, held by one, ended for good."""

import pytest

from nas.database import Database
from nas.service.errors import Conflict, LeaseLost, LimitReached, NotFound, ServiceError
from nas.service.events import EventLog
from nas.service.jobs import Job, JobStore, Lease
from nas.service.schema import jobs as jobs_table
from tests.nas.service.databases import LostAnswers, add_user, submission

pytest_plugins = ["tests.nas.searching.postgres"]

LEASE_S = 30.0
ERROR = {"kind": "infrastructure", "message": "the disk is full"}


@pytest.fixture
def jobs(db) -> JobStore:
    return JobStore(db)


@pytest.fixture
def log(db) -> EventLog:
    return EventLog(db)


def submitted(jobs: JobStore, owner: str = "ann", **given) -> Job:
    return jobs.submit(submission(owner, **given))[0]


def claimed(jobs: JobStore, worker: str = "w1") -> tuple[Job, Lease]:
    found = jobs.claim(worker, LEASE_S)
    assert found is not None
    return found


def states(log: EventLog, job_id: str) -> list[str]:
    return [event.data["state"] for event in log.since(job_id, 0) if event.kind == "state"]


def test_a_job_is_submitted_claimed_and_ended(jobs, log, time):
    job = submitted(jobs, name="digits", spec={"a": [1, None]}, priority=3)
    assert (job.state, job.epoch, job.created_s, job.ended) == ("QUEUED", 0, time.now_s, False)
    running, lease = claimed(jobs)
    assert (running.id, running.state, running.worker) == (job.id, "RUNNING", "w1")
    assert lease == Lease(job.id, 1, "w1")
    time.pass_by(5)
    jobs.finish(lease, "SUCCEEDED", result={"best": 0.5})
    ended = jobs.get(job.id)
    assert (ended.state, ended.result, ended.finished_s, ended.ended) == ("SUCCEEDED", {"best": 0.5}, time.now_s, True)
    assert ended.spec == {"a": [1, None]}
    assert states(log, job.id) == ["QUEUED", "RUNNING", "SUCCEEDED"]
    assert jobs.claim("w1", LEASE_S) is None


def test_a_submission_that_is_sent_again_makes_no_second_job(jobs):
    asked = submission(key="k", key_digest="d")
    first, new = jobs.submit(asked)
    assert new
    assert jobs.submit(asked) == (first, True)
    assert jobs.submit(submission(key="k", key_digest="d")) == (first, False)
    other, new = jobs.submit(submission("bob", key="k", key_digest="d"))
    assert new
    assert other.id != first.id


def test_a_key_that_is_used_for_something_else_is_refused(jobs):
    job = submitted(jobs, key="k", key_digest="d")
    with pytest.raises(Conflict, match=f"the key k was used for another job, {job.id}; use a new key"):
        submitted(jobs, key="k", key_digest="e")


def test_who_has_as_many_jobs_as_he_may_is_refused_until_one_ends(db, jobs):
    add_user(db, "eve", max_queued=2)
    first = submitted(jobs, "eve")
    claimed(jobs)
    submitted(jobs, "eve", key="k", key_digest="d")
    with pytest.raises(LimitReached, match="eve has 2 jobs that have not ended, and may have 2; wait or cancel some"):
        submitted(jobs, "eve")
    # What is there already is no new job.
    submitted(jobs, "eve", key="k", key_digest="d")
    jobs.finish(Lease(first.id, 1, "w1"), "SUCCEEDED")
    submitted(jobs, "eve")


def test_what_is_asked_for_must_be_possible(jobs):
    with pytest.raises(ServiceError, match="priority is -100 to 100, not 101"):
        submission(priority=101)
    with pytest.raises(ServiceError, match="kind is one of train, profile, search, export, run, not bake"):
        submission(kind="bake")
    with pytest.raises(NotFound, match="nobody: there is no such user"):
        submitted(jobs, "nobody")
    with pytest.raises(NotFound, match="j1: there is no such job"):
        submitted(jobs, parent="j1")


def test_only_an_admin_may_go_on_from_anothers_job(db, jobs):
    add_user(db, "root", admin=True)
    job = submitted(jobs, "ann")
    assert submitted(jobs, "ann", parent=job.id).parent == job.id
    assert submitted(jobs, "root", parent=job.id).parent == job.id
    with pytest.raises(NotFound, match="there is no such job"):
        submitted(jobs, "bob", parent=job.id)


def test_a_foreign_job_is_not_told_from_one_that_is_not_there(jobs):
    job = submitted(jobs, "ann")
    for call in (jobs.get, jobs.cancel):
        with pytest.raises(NotFound) as foreign:
            call(job.id, owner="bob")
        with pytest.raises(NotFound) as absent:
            call("j2", owner="bob")
        assert str(foreign.value).replace(job.id, "j2") == str(absent.value)
        assert call(job.id, owner="ann").id == job.id


def test_work_goes_by_priority_then_by_age(jobs, time):
    asked = []
    for priority in (0, 5, -5, 5, 0):
        time.pass_by(1)
        asked.append(submitted(jobs, priority=priority).id)
    order = [asked[i] for i in (1, 3, 0, 4, 2)]
    assert [jobs.position(job_id) for job_id in order] == [1, 2, 3, 4, 5]
    assert jobs.positions(asked[:2]) == {asked[0]: 3, asked[1]: 1}
    assert [claimed(jobs)[0].id for _ in range(4)] == order[:4]
    assert jobs.position(order[0]) is None
    assert jobs.position(order[4]) == 1


def test_an_owner_runs_no_more_side_by_side_than_he_may_and_others_pass(jobs, time):
    for _ in range(3):
        submitted(jobs, "bob", priority=100)
    time.pass_by(1)
    anns = submitted(jobs, "ann")
    first, lease = claimed(jobs)
    assert first.owner == "bob"
    assert claimed(jobs)[0].id == anns.id
    assert jobs.claim("w3", LEASE_S) is None
    jobs.finish(lease, "SUCCEEDED")
    assert claimed(jobs)[0].owner == "bob"


def test_pages_go_from_new_to_old_without_a_gap(jobs):
    made = [submitted(jobs, ("ann", "bob")[i % 2], kind=("train", "search")[i % 3 == 0]).id for i in range(9)]
    newest = sorted(made, reverse=True)
    assert [job.id for job in jobs.page(limit=100)] == newest
    first = jobs.page(limit=4)
    second = jobs.page(limit=4, before=first[-1].id)
    third = jobs.page(limit=4, before=second[-1].id)
    assert [job.id for job in (*first, *second, *third)] == newest
    assert {job.owner for job in jobs.page(owner="bob")} == {"bob"}
    assert len(jobs.page(kinds=("search",), states=("QUEUED", "RUNNING"))) == 3
    assert jobs.page(states=("RUNNING",)) == []


def test_cancelling_ends_what_waits_and_tells_who_holds_what_runs(jobs, log):
    waiting, running = submitted(jobs), submitted(jobs, priority=1)
    lease = claimed(jobs)[1]
    assert not jobs.renew(lease, LEASE_S)
    assert jobs.cancel(waiting.id).state == "CANCELLED"
    assert jobs.cancel(running.id).state == "CANCELLING"
    assert jobs.cancel(running.id).state == "CANCELLING"
    assert jobs.renew(lease, LEASE_S)
    jobs.finish(lease, "CANCELLED")
    assert jobs.cancel(running.id).state == "CANCELLED"
    assert states(log, running.id) == ["QUEUED", "RUNNING", "CANCELLING", "CANCELLED"]


@pytest.mark.parametrize("end", ["finish", "retry", "give_back", "release", "lapse"])
def test_what_is_to_be_cancelled_never_waits_again(jobs, time, end):
    job = submitted(jobs)
    lease = claimed(jobs)[1]
    jobs.cancel(job.id)
    if end == "finish":
        jobs.finish(lease, "CANCELLED")
    elif end == "retry":
        jobs.retry(lease, "infrastructure", ERROR)
    elif end == "give_back":
        jobs.give_back(lease)
    elif end == "release":
        assert jobs.release("w1") == 1
    else:
        time.pass_by(LEASE_S)
        assert jobs.claim("w2", LEASE_S) is None
    assert jobs.get(job.id).state == "CANCELLED"


def test_what_was_to_be_cancelled_but_ended_first_has_ended(jobs):
    job = submitted(jobs)
    lease = claimed(jobs)[1]
    jobs.cancel(job.id)
    jobs.finish(lease, "SUCCEEDED", result={})
    assert jobs.get(job.id).state == "SUCCEEDED"


def test_a_job_that_nobody_cancelled_cannot_end_as_cancelled(jobs):
    submitted(jobs)
    lease = claimed(jobs)[1]
    with pytest.raises(Conflict, match="nobody has cancelled it"):
        jobs.finish(lease, "CANCELLED")
    with pytest.raises(ValueError, match="ends as one of"):
        jobs.finish(lease, "RUNNING")


def test_faults_are_tried_again_after_longer_and_longer_pauses(jobs, log, time):
    job = submitted(jobs)
    for pause_s in (1, 4, 16):
        lease = claimed(jobs)[1]
        waiting = jobs.retry(lease, "infrastructure", ERROR)
        assert (waiting.state, waiting.not_before_s, waiting.error) == ("RETRY_WAIT", time.now_s + pause_s, ERROR)
        time.pass_by(pause_s - 0.001)
        assert jobs.claim("w1", LEASE_S) is None
        time.pass_by(0.001)
    failed = jobs.retry(claimed(jobs)[1], "infrastructure", ERROR)
    message = "the disk is full (fault 4 in a row; it is not tried again)"
    assert (failed.state, failed.error) == ("FAILED", {"kind": "infrastructure", "message": message})
    assert states(log, job.id) == ["QUEUED", *["RUNNING", "RETRY_WAIT"] * 3, "RUNNING", "FAILED"]


@pytest.mark.parametrize("safe", ["stage", "advanced"])
def test_durable_progress_lets_faults_be_forgotten(jobs, time, safe):
    submitted(jobs)
    for i in range(6):
        lease = claimed(jobs)[1]
        if i % 2 and safe == "stage":
            jobs.stage(lease, f"stage{i}", 1.5)
        elif i % 2:
            jobs.advanced(lease)
        assert jobs.retry(lease, "infrastructure", ERROR).faults == 1 + (i + 1) % 2 * (i > 0)
        time.pass_by(20)


def test_a_job_without_memory_is_tried_once_more(jobs, time):
    submitted(jobs)
    error = {"kind": "memory", "message": "not enough memory"}
    assert jobs.retry(claimed(jobs)[1], "memory", error).state == "RETRY_WAIT"
    time.pass_by(1)
    failed = jobs.retry(claimed(jobs)[1], "memory", error)
    assert (failed.state, failed.error["kind"], failed.faults) == ("FAILED", "memory", 0)


def test_a_lost_lease_goes_to_the_next_worker_at_once_and_later_ones_after_pauses(jobs, log, time):
    job = submitted(jobs)
    claimed(jobs)
    time.pass_by(LEASE_S)
    again, lease = claimed(jobs, "w2")
    assert (again.id, again.faults, lease.epoch) == (job.id, 1, 2)
    for pause_s in (4, 16):
        time.pass_by(LEASE_S)
        assert jobs.claim("w2", LEASE_S) is None
        time.pass_by(pause_s)
        claimed(jobs, "w2")
    time.pass_by(LEASE_S)
    assert jobs.claim("w2", LEASE_S) is None
    failed = jobs.get(job.id)
    assert (failed.state, failed.error["kind"]) == ("FAILED", "infrastructure")
    assert failed.error["message"].startswith("worker w2 was lost while it ran this (fault 4 in a row")


def test_the_leases_of_a_dead_worker_end_at_once(jobs):
    mine, other = submitted(jobs), submitted(jobs)
    claimed(jobs, "w1")
    claimed(jobs, "w2")
    assert jobs.release("w1") == 1
    assert jobs.release("w1") == 0
    assert claimed(jobs, "w3")[0].id == mine.id
    assert jobs.get(other.id).worker == "w2"


def test_a_job_that_is_given_back_waits_and_has_no_fault(jobs, log):
    job = submitted(jobs)
    jobs.give_back(claimed(jobs)[1])
    waiting = jobs.get(job.id)
    assert (waiting.state, waiting.faults, waiting.lease_expires_s) == ("QUEUED", 0, None)
    assert claimed(jobs)[1].epoch == 2


def test_progress_is_told_once_a_second_but_for_its_ends(jobs, log, time):
    job = submitted(jobs)
    lease = claimed(jobs)[1]
    for done in (0, 1, 2):
        jobs.progress(lease, "train", done, 9, "hm")
    time.pass_by(1)
    jobs.progress(lease, "train", 3, 9)
    jobs.progress(lease, "train", 9, 9)
    jobs.progress(lease, "profile", 0, 4)
    told = [(event.data["stage"], event.data["done"]) for event in log.since(job.id, 0) if event.kind == "progress"]
    assert told == [("train", 0), ("train", 3), ("train", 9), ("profile", 0)]
    assert jobs.get(job.id).progress == {"stage": "profile", "done": 0, "total": 4, "text": "", "at_s": time.now_s}


def test_finished_stages_are_listed_each_once(jobs, log):
    job = submitted(jobs)
    lease = claimed(jobs)[1]
    for name, seconds in (("train", 3.5), ("train", 3.5), ("profile", 1.0)):
        jobs.stage(lease, name, seconds)
    assert jobs.get(job.id).stages == [{"stage": "train", "seconds": 3.5}, {"stage": "profile", "seconds": 1.0}]
    assert [event.data for event in log.since(job.id, 0) if event.kind == "stage"] == [
        {"stage": "train", "state": "finished", "seconds": 3.5},
        {"stage": "profile", "state": "finished", "seconds": 1.0},
    ]


def test_workers_are_there_as_long_as_they_say_so(jobs, time):
    jobs.beat("w1", "here", 7)
    time.pass_by(10)
    jobs.beat("w2", "here", 8)
    assert [worker.id for worker in jobs.alive(15)] == ["w1", "w2"]
    assert [worker.id for worker in jobs.alive(10)] == ["w2"]
    jobs.beat("w1", "here", 7)
    jobs.gone("w2")
    found = jobs.alive(10)
    assert [(worker.id, worker.started_s, worker.seen_s) for worker in found] == [("w1", time.now_s - 10, time.now_s)]


# Everything that a holder of a lease can write.
WRITES = {
    "renew": lambda jobs, log, lease: jobs.renew(lease, LEASE_S),
    "progress": lambda jobs, log, lease: jobs.progress(lease, "train", 1, 2),
    "stage": lambda jobs, log, lease: jobs.stage(lease, "train", 1.0),
    "advanced": lambda jobs, log, lease: jobs.advanced(lease),
    "finish": lambda jobs, log, lease: jobs.finish(lease, "SUCCEEDED"),
    "fail": lambda jobs, log, lease: jobs.finish(lease, "FAILED", error=ERROR),
    "retry": lambda jobs, log, lease: jobs.retry(lease, "infrastructure", ERROR),
    "give_back": lambda jobs, log, lease: jobs.give_back(lease),
    "append": lambda jobs, log, lease: log.append(lease, [("log", {"text": "hi"})], 0),
    "fence": lambda jobs, log, lease: jobs._db.write(lambda connection: jobs.check(connection, lease)),
}


def everything(db: Database, job_id: str) -> object:
    return db.read(lambda connection: connection.execute(jobs_table.select().where(jobs_table.c.id == job_id)).one())


@pytest.mark.parametrize("since", ["nothing", "given back", "claim", "end", "cancel"])
def test_a_holder_that_slept_past_his_lease_can_write_nothing(db, jobs, log, time, since):
    job = submitted(jobs)
    stale = claimed(jobs)[1]
    time.pass_by(LEASE_S)
    if since in ("given back", "claim", "end"):
        successor = claimed(jobs, "w2")[1]
        if since == "given back":
            jobs.give_back(successor)
        if since == "end":
            jobs.finish(successor, "SUCCEEDED", result={"by": "w2"})
    elif since == "cancel":
        jobs.cancel(job.id)
    before = everything(db, job.id)
    for write in WRITES.values():
        with pytest.raises(LeaseLost, match=f"{job.id}: w1 does not hold it any more at epoch 1"):
            write(jobs, log, stale)
        assert everything(db, job.id) == before


def test_who_holds_a_job_can_write_until_the_last_moment(db, jobs, log, time):
    for write in WRITES.values():
        job = submitted(jobs, priority=100)
        claim, lease = claimed(jobs)
        assert claim.id == job.id
        time.pass_by(LEASE_S - 0.01)
        before = everything(db, job.id)
        write(jobs, log, lease)
        assert everything(db, job.id) != before or write in (WRITES["advanced"], WRITES["fence"])
        jobs.cancel(job.id)
        time.pass_by(LEASE_S)


@pytest.mark.parametrize("write", [write for write in WRITES if write != "fence"])
def test_what_is_written_again_after_a_lost_answer_is_there_once(db, jobs, log, write):
    plain, unheard = submitted(jobs, priority=1), submitted(jobs)
    leases = [claimed(jobs)[1] for _ in range(2)]
    answers = LostAnswers(db)
    seen = []
    for job, lease, lost in zip((plain, unheard), leases, (0, 1), strict=True):
        answers.left = lost
        WRITES[write](jobs, log, lease)
        assert answers.left == 0
        said = [(event.seq, event.kind, event.data) for event in log.since(job.id, 0)]
        ended = jobs.get(job.id)
        seen.append((said, ended.state, ended.faults, ended.stages, ended.last_seq))
    assert seen[0] == seen[1]


def test_a_claim_a_submission_and_a_cancellation_after_lost_answers_are_made_once(db, jobs, log):
    answers = LostAnswers(db)
    answers.left = 1
    job, new = jobs.submit(submission())
    assert new
    answers.left = 2
    running, lease = claimed(jobs)
    assert (running.id, lease.epoch, answers.left) == (job.id, 1, 0)
    assert jobs.claim("w2", LEASE_S) is None
    answers.left = 1
    assert jobs.cancel(job.id).state == "CANCELLING"
    assert states(log, job.id) == ["QUEUED", "RUNNING", "CANCELLING"]


def test_what_has_ended_cannot_be_changed_behind_the_stores_back_either(db, jobs):
    job = submitted(jobs)
    jobs.finish(claimed(jobs)[1], "SUCCEEDED")
    for change in ({"state": "QUEUED", "finished_s": None}, {"result": {"forged": 1}}):
        statement = jobs_table.update().where(jobs_table.c.id == job.id).values(**change)
        with pytest.raises(Exception, match="a job that has ended does not change"):
            db.write(lambda connection, statement=statement: connection.execute(statement))
    assert jobs.get(job.id).state == "SUCCEEDED"
