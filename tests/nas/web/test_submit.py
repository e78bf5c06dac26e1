"""Submitting through the page: from the fields, from the YAML, and from an earlier job."""

import re

import pytest
import yaml

from nas.web.drafts import example
from nas.web.rendering import yaml_text
from tests.nas.made_up_run import EVIL, Page
from tests.nas.web.house import searched, trained


def form_on(answer) -> dict[str, str]:
    """What a browser would send of the form on a page."""
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    values = dict(re.findall(r'<input(?=[^>]*name="([^"]+)")(?=[^>]*value="([^"]*)")[^>]*>', answer.text))
    areas = re.findall(r'<textarea[^>]*name="([^"]+)"[^>]*>\n(.*?)</textarea>', answer.text, re.DOTALL)
    for name, body in re.findall(r'<select[^>]*name="([^"]+)"[^>]*>(.*?)</select>', answer.text, re.DOTALL):
        chosen = re.search(r'value="([^"]*)" selected', body) or re.search(r'value="([^"]*)"', body)
        values[name] = chosen[1]
    unescaped = {"&#39;": "'", "&#34;": '"', "&lt;": "<", "&gt;": ">", "&amp;": "&"}
    found = {**values, **dict(areas)}
    for entity, text in unescaped.items():
        found = {name: value.replace(entity, text) for name, value in found.items()}
    return found


def the_job(house, user):
    (job,) = house.services.jobs.page(user.id, limit=1)
    return job


def finished(house, user):
    """A run with all that a search or an export goes on from."""
    job = house.submit(user)
    lease = house.claim(job)
    spec = example()["job"]
    house.leave(
        lease,
        {"job.json": {"format": "nas.run/1", "job": spec}, "train.json": trained(), "search.json": searched("pi")},
    )
    house.finish(lease)
    return job


def test_the_example_is_submitted_as_it_stands(house, as_bob, bob) -> None:
    form = form_on(as_bob.get("/submit"))
    answer = as_bob.post("/submit", {**form, "do": "submit"})
    job = the_job(house, bob)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/jobs/{job.id}")
    assert (job.name, job.kind, job.state) == ("demo", "run", "QUEUED")
    assert job.spec == yaml.safe_load(form["yaml"]) | {"job": job.spec["job"]}


def test_pressing_the_button_twice_submits_once_and_another_job_is_another(house, as_bob, bob) -> None:
    form = form_on(as_bob.get("/submit"))
    first, second = (as_bob.post("/submit", form).headers["location"] for _ in range(2))
    assert first == second
    assert as_bob.post("/submit", {**form, "train.epochs": "41"}).headers["location"] != first
    assert as_bob.post("/submit", form_on(as_bob.get("/submit"))).headers["location"] != first
    assert len(house.services.jobs.page(bob.id)) == 3


def test_a_changed_field_is_in_the_job(house, as_bob, bob) -> None:
    form = form_on(as_bob.get("/submit"))
    as_bob.post(
        "/submit", {**form, "kind": "train", "name": "mine", "train.epochs": "3", "priority": "7", "data.channels": ""}
    )
    job = the_job(house, bob)
    assert (job.name, job.kind, job.priority, job.spec["job"]["train"]["epochs"]) == ("mine", "train", 7, 3)
    assert "channels" not in job.spec["job"]["data"]


def test_what_is_wrong_is_shown_at_its_field_and_nothing_is_lost(house, as_bob) -> None:
    form = form_on(as_bob.get("/submit"))
    wrong = {**form, "search.evaluations": "1", "name": EVIL, "space.settings": "kernels: [2]"}
    answer = as_bob.post("/submit", wrong)
    assert answer.status_code == 422
    page = Page(answer.text)
    at = {attrs["id"]: attrs for tag, attrs in page.elements if tag in ("input", "textarea") and "id" in attrs}
    assert at["f-name"]["value"] == EVIL
    assert at["f-search.evaluations"]["value"] == "1"
    faulty = [attrs["id"].removeprefix("f-") for attrs in at.values() if attrs.get("aria-invalid")]
    assert len(faulty) == 1  # the first that the service has found
    assert f"f-{faulty[0]}-fault" in at[f"f-{faulty[0]}"]["aria-describedby"].split()
    assert house.services.jobs.page() == []


def test_the_preview_says_the_yaml_and_the_faults_of_the_fields(as_bob) -> None:
    form = form_on(as_bob.get("/submit"))
    fine = as_bob.post("/submit/preview", {**form, "train.epochs": "3"}).json()
    assert yaml.safe_load(fine["yaml"])["job"]["train"]["epochs"] == 3
    assert (fine["faults"], fine["others"]) == ({}, [])
    wrong = as_bob.post("/submit/preview", {**form, "search.evaluations": "1"}).json()
    assert list(wrong["faults"]) == ["search.evaluations"]


def test_without_a_script_the_buttons_carry_fields_to_yaml_and_back(as_bob) -> None:
    form = form_on(as_bob.get("/submit"))
    shown = form_on(as_bob.post("/submit", {**form, "train.epochs": "3", "do": "preview"}))
    assert yaml.safe_load(shown["yaml"])["job"]["train"]["epochs"] == 3
    written = shown["yaml"].replace("epochs: 3", "epochs: 5")
    assert form_on(as_bob.post("/submit", {**shown, "yaml": written, "do": "read"}))["train.epochs"] == "5"


def test_the_yaml_is_submitted_as_it_is(house, as_bob, bob) -> None:
    form = form_on(as_bob.get("/submit"))
    document = {
        "kind": "run",
        "job": {**example()["job"], "name": "written", "devices": [{"name": "pi", "threads": 2}]},
    }
    answer = as_bob.post("/submit", {**form, "yaml": yaml_text(document), "do": "yaml"})
    assert answer.status_code == 303
    assert the_job(house, bob).spec == document


@pytest.mark.parametrize("text", ["kind: [", "kind: dance", "a: &x 1\nb: *x", "kind: run\njob: {name: x}", EVIL])
def test_yaml_that_is_no_job_comes_back_with_what_is_wrong(house, as_bob, text) -> None:
    form = form_on(as_bob.get("/submit"))
    answer = as_bob.post("/submit", {**form, "yaml": text, "do": "yaml"})
    assert answer.status_code == 422
    page = Page(answer.text)
    again = form_on(answer)
    assert again["yaml"] == text
    assert again["train.epochs"] == form["train.epochs"]
    assert any(attrs.get("role") == "alert" and "hidden" not in attrs for _, attrs in page.elements)
    assert house.services.jobs.page() == []


def test_a_search_goes_on_from_a_job_with_what_is_changed(house, as_bob, bob) -> None:
    before = finished(house, bob)
    form = form_on(as_bob.get(f"/submit?from={before.id}&kind=search"))
    assert form["search.evaluations"] == "40"
    assert "train.epochs" not in form
    answer = as_bob.post("/submit", {**form, "search.evaluations": "200", "search.constraints": "macs <= 2M\n"})
    job = the_job(house, bob)
    assert answer.headers["location"] == f"/jobs/{job.id}"
    changes = {"search.evaluations": 200, "search.constraints": ["macs <= 2M"]}
    assert job.spec == {"kind": "search", "from": before.id, "set": changes}
    assert (job.parent, job.name) == (before.id, "demo")


def test_an_export_goes_on_from_a_search(house, as_bob, bob) -> None:
    before = finished(house, bob)
    as_bob.post("/submit", {**form_on(as_bob.get(f"/submit?from={before.id}&kind=export")), "export.picks": "knee"})
    assert the_job(house, bob).spec == {"kind": "export", "from": before.id, "set": {"export.picks": ["knee"]}}


def test_a_job_like_another_starts_from_what_that_one_asked_for(house, as_bob, bob) -> None:
    before = finished(house, bob)
    form = form_on(as_bob.get(f"/submit?from={before.id}"))
    as_bob.post("/submit", form)
    found = the_job(house, bob)
    assert found.id != before.id
    assert (found.parent, found.name) == (None, "digits")


def test_what_the_service_cannot_take_now_is_told_above_the_form(house, as_bob, bob) -> None:
    before = finished(house, bob)
    house.services.db.write(lambda connection: connection.exec_driver_sql("update users set max_queued = 0"))
    answer = as_bob.post("/submit", form_on(as_bob.get(f"/submit?from={before.id}&kind=search")))
    assert answer.status_code == 429
    (box,) = [attrs for _, attrs in Page(answer.text).elements if attrs.get("id") == "faults"]
    assert "hidden" not in box


def test_a_form_without_its_token_is_refused(house, as_bob) -> None:
    form = form_on(as_bob.get("/submit"))
    del form["csrf"]
    assert as_bob.post("/submit", form).status_code == 403
    assert as_bob.post("/submit/preview", form).status_code == 403
    assert house.services.jobs.page() == []
