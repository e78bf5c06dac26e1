"""The log of events: appended to by who holds the job, in order, each event once."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nas.database import Database
from nas.service.events import MOST_LOGS, Event, EventLog
from nas.service.jobs import JobStore, Lease
from tests.nas.service.databases import add_user, in_memory, submission

pytest_plugins = ["tests.nas.searching.postgres"]


@pytest.fixture
def log(db) -> EventLog:
    return EventLog(db)


@pytest.fixture
def lease(db) -> Lease:
    return claimed(db)


def claimed(db: Database) -> Lease:
    jobs = JobStore(db)
    jobs.submit(submission())
    return jobs.claim("w1", 30.0)[1]


def test_events_come_back_in_order_with_the_databases_time(log, lease, time):
    log.append(lease, [("point", {"accuracy": 0.5}), ("new-kind", {"any": [1]})], 0)
    time.pass_by(2)
    log.append(lease, [("log", {"level": "info", "text": "é\x00\n"})], 2)
    assert log.since(lease.job_id, 2) == [
        Event(lease.job_id, 3, time.now_s - 2, "point", {"accuracy": 0.5}),
        Event(lease.job_id, 4, time.now_s - 2, "new-kind", {"any": [1]}),
        Event(lease.job_id, 5, time.now_s, "log", {"level": "info", "text": "é\x00\n"}),
    ]
    assert [event.seq for event in log.since(lease.job_id, 1, limit=2)] == [2, 3]
    assert log.since(lease.job_id, 5) == []
    assert log.latest([lease.job_id, "j0"]) == {lease.job_id: 5}
    assert log.latest([]) == {}


def test_nothing_to_say_writes_nothing(log, lease):
    log.append(lease, [], 0)
    assert log.latest([lease.job_id]) == {lease.job_id: 2}


def test_every_epoch_counts_anew(db, log, lease):
    jobs = JobStore(db)
    log.append(lease, [("point", {"by": 1})], 0)
    jobs.give_back(lease)
    second = jobs.claim("w2", 30.0)[1]
    log.append(second, [("point", {"by": 2})], 0)
    assert [event.data["by"] for event in log.since(lease.job_id, 0) if event.kind == "point"] == [1, 2]


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 6)), max_size=8))
def test_batches_that_are_sent_again_in_any_way_leave_each_event_once(shared, batches):
    log, lease = EventLog(shared), claimed(shared)
    said: set[int] = set()
    for n, count in batches:
        log.append(lease, [("point", {"n": n + i}) for i in range(count)], n)
        said |= set(range(n, n + count))
    found = log.since(lease.job_id, 2)
    assert sorted(event.data["n"] for event in found) == sorted(said)
    assert [event.seq for event in found] == list(range(3, 3 + len(said)))


@pytest.fixture(scope="module")
def shared():
    with in_memory() as folder, Database(folder / "nas.sqlite") as db:
        db.upgrade()
        add_user(db, "ann", max_running=10**6, max_queued=10**6)
        yield db


def test_only_so_many_log_lines_are_kept_and_the_last_says_where_the_rest_is(shared):
    log, lease = EventLog(shared), claimed(shared)
    news = [("log", {"level": "info", "text": str(i)}) for i in range(MOST_LOGS - 1)]
    log.append(lease, news, 0)
    end = [("log", {"text": "last"}), ("log", {"text": "too many"}), ("point", {}), ("log", {"text": "too many"})]
    for _ in range(2):  # as after a lost answer
        log.append(lease, end, MOST_LOGS - 1)
    log.append(lease, [("log", {"text": "too many"}), ("point", {})], MOST_LOGS + 3)
    found = log.since(lease.job_id, MOST_LOGS + 1)
    assert [(event.kind, event.data.get("text")) for event in found] == [
        ("log", "last"),
        ("log", "only 5,000 log lines are kept here; all of them are in the log among the files"),
        ("point", None),
        ("point", None),
    ]
    assert log.latest([lease.job_id]) == {lease.job_id: found[-1].seq}


def test_an_event_that_is_no_json_is_refused_and_leaves_nothing(log, lease):
    with pytest.raises(Exception, match="not JSON compliant"):
        log.append(lease, [("point", {"accuracy": 0.5}), ("point", {"accuracy": float("inf")})], 0)
    assert log.latest([lease.job_id]) == {lease.job_id: 2}
