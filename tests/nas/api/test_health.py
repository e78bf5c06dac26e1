"""Whether the service is well, and its numbers."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update

from nas.api.health import Readiness
from nas.api.metrics import Metrics
from nas.database import Database
from nas.service.errors import Unavailable
from nas.service.events import EventLog
from nas.service.farm import Farm
from nas.service.jobs import JobStore, Submission
from nas.service.people import People
from nas.service.schema import devices, new_id
from tests.nas.agent.fakes import ABOUT

pytest_plugins = ["tests.nas.searching.postgres"]


class Away:
    """A store that cannot be reached."""

    def check(self) -> None:
        raise Unavailable("away")

    now = check


def test_a_service_is_ready_with_its_database_its_files_and_a_worker(site):
    with site.stranger() as stranger:
        assert stranger.get("/healthz").json() == {"ok": True, "checks": {}}
    before = Readiness(site.services).checks()
    assert set(before) == {"workers"}
    site.services.jobs.beat("worker", "here", 1)
    assert Readiness(site.services).checks() == {}
    assert set(Readiness(replace(site.services, blobs=Away())).checks()) == {"blobs"}
    assert set(Readiness(replace(site.services, db=Away())).checks()) == {"database"}


def test_what_is_not_well_is_told_with_another_status(site, monkeypatch):
    monkeypatch.setitem(site.app.state._state, "readiness", Readiness(replace(site.services, db=Away())))
    with site.stranger() as stranger:
        answer = stranger.get("/readyz")
    assert (answer.status_code, answer.json()["ok"]) == (503, False)


def test_a_store_that_says_nothing_keeps_only_the_first_who_asks(site, monkeypatch):
    monkeypatch.setattr("nas.api.health.PATIENCE_S", 0.01)
    asked, answers = threading.Event(), threading.Event()

    class Silent(Away):
        def check(self) -> None:
            asked.set()
            answers.wait()

    readiness = Readiness(replace(site.services, blobs=Silent()))
    with ThreadPoolExecutor(1) as first:
        waiting = first.submit(readiness.checks)
        asked.wait()
        assert set(readiness.checks()) == {"answers"}
        answers.set()
        assert "answers" not in waiting.result()


def test_however_often_it_is_asked_it_is_looked_up_once(site):
    looks = []

    class Counted(Away):
        def check(self) -> None:
            looks.append(1)

    readiness = Readiness(replace(site.services, blobs=Counted()))
    for _ in range(20):
        readiness.checks()
    assert len(looks) == 1


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def db(request, tmp_path):
    url = tmp_path / "nas.sqlite" if request.param == "sqlite" else request.getfixturevalue("postgres")
    with Database(url) as database:
        database.upgrade()
        yield database


def numbers(db) -> dict[tuple[str, ...], float]:
    """Name and the values of its labels, in the order of their names -> value."""
    text, media_type = Metrics(db).text()
    assert media_type.startswith("text/plain")
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_an_empty_service_has_zeros(db):
    found = numbers(db)
    assert found["nas_database_up",] == 1
    assert found["nas_workers",] == found["nas_evaluations_total",] == found["nas_blob_bytes",] == 0


def test_the_numbers_are_those_of_the_database(db):
    user = People(db).add("ada")
    jobs, events = JobStore(db), EventLog(db)
    for kind in ("run", "search", "run"):
        jobs.submit(Submission(new_id("j"), user.id, "x", kind, {}))
    _, lease = jobs.claim("worker", 60.0)
    jobs.beat("worker", "here", 1)
    events.append(lease, [("point", {"device": "cpu"}), ("point", {"device": "cpu"}), ("log", {})], 0)
    jobs.stage(lease, "train", 1.5)
    jobs.stage(lease, "search", 2.0)
    jobs.finish(lease, "SUCCEEDED", result={})
    _, lease = jobs.claim("worker", 60.0)
    jobs.stage(lease, "train", 0.5)
    with db._engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE evaluations (id INTEGER)")
        connection.exec_driver_sql("INSERT INTO evaluations VALUES (1), (2)")
    found = numbers(db)
    assert found["nas_jobs", "run", "SUCCEEDED"] == 1
    assert found["nas_jobs", "search", "RUNNING"] == 1
    assert found["nas_jobs", "run", "QUEUED"] == 1
    assert (found["nas_leases",], found["nas_workers",]) == (1, 1)
    assert 0 <= found["nas_queue_oldest_seconds",] < 60
    assert (found["nas_stage_seconds_count", "train"], found["nas_stage_seconds_sum", "train"]) == (2, 2.0)
    assert found["nas_front_points_total",] == 2
    assert found["nas_evaluations_total",] == 2


def test_machines_have_numbers_of_their_own(db):
    farm = Farm(db)
    user = People(db).add("ada")
    for name in ("board", "phone", "old"):
        farm.enrol(farm.enrolment(name, user.id)[0], "n", ABOUT)
    farm.revoke("old")
    noted = [
        {"at_s": 1.0, "task": "t1", "settings": "cpu_t1", "reference_us": 90.0, "joules": 0.5, "watts": 9.0},
        {"at_s": 2.0, "task": "t2", "settings": "cpu_t1", "reference_us": 100.0, "joules": 0.25, "watts": 8.0},
        {"at_s": 3.0, "task": "t3", "settings": "cpu_t4", "reference_us": 50.0},
    ]
    with db._engine.begin() as connection:
        row = {"history": noted, "joules": 70.0}
        connection.execute(update(devices).where(devices.c.name == "board").values(canary=row))
        connection.execute(update(devices).where(devices.c.name == "phone").values(seen_s=1.0))
    found = {key: value for key, value in numbers(db).items() if key[0].startswith("nas_device_")}
    assert found == {
        ("nas_device_online", "board"): 1,
        ("nas_device_online", "phone"): 0,
        ("nas_device_joules_total", "board"): 70.0,
        ("nas_device_joules_total", "phone"): 0,
        ("nas_device_canary_seconds", "board", "cpu_t1"): pytest.approx(1e-4),
        ("nas_device_canary_seconds", "board", "cpu_t4"): pytest.approx(5e-5),
        ("nas_device_inference_joules", "board", "cpu_t1"): 0.25,
        ("nas_device_inference_watts", "board", "cpu_t1"): 8.0,
    }


def test_without_a_database_the_numbers_say_so(tmp_path):
    class Gone:
        def read(self, work):
            raise Unavailable("away")

    assert numbers(Gone())["nas_database_up",] == 0


def test_requests_are_counted_by_route_and_not_by_path(site, admin, ada):
    for _ in range(3):
        ada.http.get(f"/v1/jobs/{new_id('j')}")
    ada.http.get("/v1/what/is/this")
    text = admin.http.get("/metrics").text
    assert 'nas_http_requests_total{method="GET",route="/v1/jobs/{job_id}",status="404"} 3.0' in text
    assert 'route="other",status="404"} 1.0' in text
    assert ada.http.get("/metrics").status_code == 403
    assert ada.user.name not in text
