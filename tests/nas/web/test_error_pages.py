"""What is refused is told on a page with the way on, and to programs as ever."""

import pytest

from nas.service.jobs import JobStore
from tests.nas.web.test_pages import read
from tests.nas.web.visitor import Visitor

AS_JSON = {"Accept": "*/*"}


REFUSED = (
    ("GET", "/nowhere", {}, 404, "no such page"),
    ("GET", "/jobs/j0", {}, 404, "no such job"),
    ("GET", f"/submit?from={101 * 'j'}", {}, 422, "at most 100 characters"),
    ("DELETE", "/jobs", {}, 405, "DELETE"),
    ("POST", "/jobs/j0/cancel", {"csrf": "wrong"}, 403, "out of date"),
    ("POST", "/devices/enrol", {"name": 70_000 * "x"}, 413, "65536 bytes"),
    ("GET", "/jobs", {}, 500, "a bug of the service"),
)
"""Method, path, form, and the status and words of the answer; the last by a bug that the test makes."""


def test_a_refusal_is_a_page_with_the_way_on_and_json_for_programs(as_ann, monkeypatch) -> None:
    monkeypatch.setattr(JobStore, "positions", lambda *_: 1 / 0)
    for method, path, form, status, words in REFUSED:
        answer = as_ann.request(method, path, data=form)
        page = read(answer, status)
        assert words in page.text
        assert {"/jobs", "/submit", "/uploads", "/supernets", "/devices", "/tokens"} <= set(page.values("href"))
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        program = as_ann.request(method, path, data=form, headers=AS_JSON)
        assert program.status_code == status
        assert program.json()["error"]["message"]


def test_a_stranger_is_shown_the_way_to_the_login_and_nothing_more(house) -> None:
    page = read(Visitor(house.app).get("/nowhere"), 404)
    assert "/login" in page.values("href")
    assert "/jobs" not in page.values("href")


@pytest.mark.usefixtures("forgetful")
def test_a_page_says_what_is_wrong_also_where_nobody_can_be_looked_up(house, as_ann) -> None:
    house.services.db.write(lambda connection: connection.exec_driver_sql("alter table sessions rename to gone"))
    assert read(as_ann.get("/nowhere"), 404)
    read(as_ann.get("/jobs"), 500)


@pytest.mark.usefixtures("forgetful")
def test_a_login_that_is_over_leads_back_to_the_page_that_one_was_on(house, as_bob, bob) -> None:
    house.services.db.write(lambda connection: connection.exec_driver_sql("delete from sessions"))
    asked = as_bob.get("/jobs?state=FAILED")
    assert asked.headers["location"] == "/login?next=/jobs%3Fstate%3DFAILED"
    page = read(as_bob.get(asked.headers["location"]))
    assert "Your login is over" in page.text
    assert "/jobs?state=FAILED" in page.values("value")
    sent = as_bob.request("POST", "/submit", data={}, headers={"Referer": "http://testserver/submit?kind=run"})
    assert sent.headers["location"] == "/login?next=/submit%3Fkind%3Drun"
    again = as_bob.post("/login", {"token": house.code(bob), "next": "/jobs?state=FAILED"})
    assert again.headers["location"] == "/jobs?state=FAILED"


def test_what_another_application_refuses_stays_as_it_says_it(house, as_ann, ann) -> None:
    job = house.submit(ann)
    csrf = as_ann.get("/jobs").text.partition('name="csrf" value="')[2].partition('"')[0]
    answer = as_ann.request("PUT", f"/jobs/{job.id}/optuna/api/studies", headers={"X-CSRF-Token": csrf})
    assert (answer.status_code, list(answer.json())) == (403, ["reason"])
