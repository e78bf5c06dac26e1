"""The pages as a browser without scripts gets them: what they show, to whom, and that names stay text."""

import json
import re

import pytest
from sqlalchemy import update

from nas.api.access import undeclared
from nas.service.schema import devices
from tests.nas.made_up_run import EVIL, Page
from tests.nas.web.conftest import logged_in
from tests.nas.web.house import point, profiled, searched, trained
from tests.nas.web.visitor import Visitor

LISTS = ("/jobs", "/submit", "/uploads", "/supernets", "/devices", "/devices/-", "/tokens")


def read(answer, status: int = 200) -> Page:
    assert answer.status_code == status, answer.text[:400]
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return Page(answer.text)


def unsaid(page: Page, *words: str) -> list[str]:
    """Which of these the page does not say."""
    return [each for each in words if each not in page.text]


def ended(house, user, **names):
    """A run that has all that pages show of one."""
    job = house.submit(user, **names)
    lease = house.claim(job)
    house.tell(
        lease, point("pi", 1, 0.9, 4.0), ("log", {"level": "warning", "text": "12 images left out", "stage": "train"})
    )
    files = {"train.json": trained(), "profile.json": profiled(("pi", "pi-5")), "search.json": searched("pi")}
    house.leave(lease, {**files, "job.json": {"job": job.spec["job"]}, "report.html": b"<h1>Report</h1>"})
    for stage in ("train", "profile", "search", "export"):
        house.services.jobs.stage(lease, stage, 61.0)
    house.finish(lease)
    return house.services.jobs.get(job.id)


@pytest.mark.parametrize("path", [*LISTS, "/", "/jobs/j0", "/jobs/j0/report", "/jobs/j0/optuna/"])
def test_a_stranger_is_sent_to_the_login(house, path) -> None:
    answer = Visitor(house.app).get(path)
    assert answer.status_code == 303
    assert answer.headers["location"] == f"/login?next={path}"


def test_every_page_declares_who_may_see_it(house) -> None:
    assert undeclared(house.app.router.routes) == []


@pytest.mark.parametrize("path", LISTS)
def test_every_page_is_well_formed_and_can_be_walked_by_its_labels(house, as_ann, ann, path) -> None:
    ended(house, ann)
    page = read(as_ann.get(path))
    ids = page.values("id")
    assert len(set(ids)) == len(ids)
    assert [tag for tag, _ in page.elements].count("h1") == 1
    named = {attrs.get("for") for tag, attrs in page.elements if tag == "label"}
    fields = [
        attrs
        for tag, attrs in page.elements
        if tag in ("input", "select", "textarea") and attrs.get("type") != "hidden"
    ]
    assert [field for field in fields if field.get("id") not in named] == []
    referred = {
        part
        for name in ("aria-describedby", "aria-labelledby", "list")
        for value in page.values(name)
        for part in value.split()
    }
    assert referred <= set(ids)
    assert page.elements[0] == ("html", {"lang": "en"})
    assert next(attrs for tag, attrs in page.elements if tag == "a")["href"] == "#main"


@pytest.mark.parametrize("path", [*LISTS, "/jobs/{}"])
def test_a_page_loads_nothing_from_elsewhere_and_has_no_script_or_style_in_it(house, as_ann, ann, path) -> None:
    answer = as_ann.get(path.format(ended(house, ann).id))
    page = read(answer)
    assert all(source.startswith("/static/") for source in page.values("src"))
    assert all(address.startswith(("/", "#")) and not address.startswith("//") for address in page.values("href"))
    assert not page.values("style")
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)
    scripts = [attrs for tag, attrs in page.elements if tag == "script"]
    assert all("src" in script or script["type"] == "application/json" for script in scripts)
    assert not any(tag == "style" for tag, _ in page.elements)
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy


def test_static_files_are_kept_for_good_and_named_by_their_content(house, as_ann, ann) -> None:
    page = read(as_ann.get(f"/jobs/{ended(house, ann).id}"))
    for address in {*page.values("src"), *(href for href in page.values("href") if href.startswith("/static/"))}:
        assert re.fullmatch(r"/static/[\w.]+-[0-9a-f]{16}\.(js|css|svg)", address)
        answer = as_ann.get(address)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.text == as_ann.get(address, headers={"Accept-Encoding": "identity"}).text
    assert as_ann.get("/static/page-0000000000000000.css").status_code == 404
    assert as_ann.get("/static/../pages.py").status_code == 404


def test_the_list_shows_ones_own_jobs_and_an_admin_everybodys(house, as_ann, as_bob, ann, bob) -> None:
    mine, his = house.submit(ann, "of-ann"), house.submit(bob, "of-bob")
    all_of_them, only_his = read(as_ann.get("/jobs")), read(as_bob.get("/jobs"))
    assert unsaid(all_of_them, "of-ann", "of-bob", "bob") == []
    assert "of-ann" not in only_his.text
    assert f"/jobs/{his.id}" in only_his.values("href")
    assert f"/jobs/{mine.id}" not in only_his.values("href")
    assert "number 2 in the queue" in only_his.text


def test_the_list_can_be_narrowed_and_turned_over(house, as_bob, bob) -> None:
    house.services.db.write(lambda connection: connection.exec_driver_sql("update users set max_queued = 100"))
    names = [f"number-{i:02d}" for i in range(51)]
    for name in names:
        house.submit(bob, name)
    first = read(as_bob.get("/jobs?state=QUEUED&kind=run"))
    assert [name for name in names if name not in first.text] == ["number-00"]
    older = next(href for href in first.values("href") if "before=" in href)
    assert "state=QUEUED" in older
    second = read(as_bob.get(older))
    assert [name for name in names if name in second.text] == ["number-00"]
    assert "/jobs?state=QUEUED&kind=run" in second.values("href")
    assert "No job is like this" in read(as_bob.get("/jobs?state=FAILED")).text


def test_a_jobs_page_says_all_that_is_known_without_a_script(house, as_ann, ann) -> None:
    job = ended(house, ann)
    page = read(as_ann.get(f"/jobs/{job.id}"))
    words = (
        "digits",
        "succeeded",
        "1 min 1 s",
        "best2",
        "97.00%",
        "2.50",
        "2.60",
        "12 images left out",
        "family: tiny",
    )
    assert unsaid(page, *words) == []
    for path, file in house.services.artefacts.of(job.id).items():
        assert f"/v1/jobs/{job.id}/artefacts/{path}" in page.values("href")
        assert file.sha256 in page.text
    links = page.values("href")
    assert {
        f"/submit?from={job.id}&kind=search",
        f"/submit?from={job.id}&kind=export",
        f"/jobs/{job.id}/report",
    } <= set(links)
    assert f"/jobs/{job.id}/optuna/" in links
    picture = json.loads(page.scripts[-1])
    assert picture["fronts"]["pi"][0]["arch_id"] == "best0"
    assert picture["measured"]["pi"] == {f"best{i}": 0.6 + i for i in range(3)}
    assert picture["ended"] is True


def test_a_job_that_runs_shows_what_it_is_at_and_what_is_done(house, as_ann, ann) -> None:
    job = house.submit(ann)
    lease = house.claim(job)
    house.services.jobs.stage(lease, "train", 42.0)
    house.services.jobs.progress(lease, "profile pi", 3, 12, "networks settled")
    page = read(as_ann.get(f"/jobs/{job.id}"))
    assert "profile pi: networks settled" in page.text
    stages = [attrs["class"] for tag, attrs in page.elements if tag == "li" and "class" in attrs][:4]
    assert stages == ["finished", "started", "", ""]
    (bar,) = [attrs for tag, attrs in page.elements if tag == "progress"]
    assert (bar["value"], bar["max"]) == ("3", "12")
    assert f"/submit?from={job.id}&kind=search" not in page.values("href")


def test_accuracies_have_the_name_that_their_task_gives_them(house, as_ann, ann) -> None:
    labelled = house.submit(ann)
    house.leave(
        house.claim(labelled), {"train.json": trained() | {"data": trained()["data"] | {"task": "multi_label"}}}
    )
    data = {**labelled.spec["job"]["data"], "task": "multi_label"}
    waiting = house.submit(ann, spec={"kind": "run", "job": {**labelled.spec["job"], "data": data}})
    for job in (waiting, labelled):
        page = read(as_ann.get(f"/jobs/{job.id}"))
        assert "Mean average precision against latency" in page.text
        assert "Mean average precision (%)" in page.scripts[-1]
    assert "Mean average precision of the largest" in read(as_ann.get("/supernets")).text


def test_an_error_is_told_in_words_with_its_traceback_folded(house, as_ann, ann) -> None:
    job = house.submit(ann)
    error = {"kind": "bug", "message": "KeyError: 'x'", "traceback": "Traceback: line 3"}
    house.finish(house.claim(job), "FAILED", error=error)
    page = read(as_ann.get(f"/jobs/{job.id}"))
    assert "fault of the program" in page.text
    assert "KeyError: 'x'" in page.text
    assert ("details", {}) in page.elements
    assert "Traceback: line 3" in page.text


def test_a_job_is_cancelled_by_its_owner_and_by_a_form_of_ours_alone(house, as_ann, as_bob, ann) -> None:
    job = house.submit(ann)
    csrf = re.search(r'name="csrf" value="([^"]+)"', as_ann.get(f"/jobs/{job.id}").text)[1]
    assert as_ann.post(f"/jobs/{job.id}/cancel", {}).status_code == 403
    assert as_bob.post(f"/jobs/{job.id}/cancel", {"csrf": csrf}).status_code in (403, 404)
    assert house.services.jobs.get(job.id).state == "QUEUED"
    answer = as_ann.post(f"/jobs/{job.id}/cancel", {"csrf": csrf, "back": "list"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/jobs")
    assert house.services.jobs.get(job.id).state == "CANCELLED"


@pytest.mark.parametrize(
    "path",
    ["/jobs/{}", "/jobs/{}/report", "/jobs/{}/optuna/dashboard", "/submit?from={}", "/submit?from={}&kind=search"],
)
def test_another_ones_job_is_as_one_that_does_not_exist(house, as_bob, ann, path) -> None:
    job = ended(house, ann)
    there, missing = as_bob.get(path.format(job.id)), as_bob.get(path.format("j" + 26 * "0"))
    assert there.status_code == missing.status_code == 404
    assert there.text.replace(job.id, "") == missing.text.replace("j" + 26 * "0", "")
    assert "Not found" in read(there, 404).text


def test_the_report_runs_in_a_sandbox_of_its_own(house, as_ann, ann) -> None:
    answer = as_ann.get(f"/jobs/{ended(house, ann).id}/report")
    assert answer.text == "<h1>Report</h1>"
    policy = answer.headers["content-security-policy"]
    assert "sandbox allow-scripts" in policy
    assert "allow-same-origin" not in policy
    assert "default-src 'none'" in policy
    assert answer.headers["content-disposition"] == "inline"


def test_supernets_are_the_jobs_that_have_trained_one(house, as_ann, as_bob, ann, bob) -> None:
    job, his = ended(house, ann), ended(house, bob)
    goes_on = house.submit(ann, "goes-on")
    house.leave(house.claim(goes_on), {"train.json": trained()})
    house.submit(ann, "not-yet")
    page, only_his = read(as_ann.get("/supernets")), read(as_bob.get("/supernets"))
    assert unsaid(page, "UTC, ann", "UTC, bob", "goes-on") == []
    assert "UTC, bob" not in only_his.text
    assert f"/jobs/{his.id}" in only_his.values("href")
    assert f"/jobs/{job.id}" not in only_his.values("href")
    assert f"/submit?from={goes_on.id}&kind=search" not in page.values("href")
    assert unsaid(page, "digits, 10 classes", "98.1%", "95.3%", "46,656", "287 k") == []
    assert "not-yet" not in page.text
    assert f"/submit?from={job.id}&kind=search" in page.values("href")


def test_devices_show_how_well_they_are_predicted_and_an_admin_enrols_them(house, as_ann, as_bob, ann) -> None:
    ended(house, ann)
    csrf = re.search(r'name="csrf" value="([^"]+)"', as_ann.get("/devices").text)[1]
    page = read(as_ann.post("/devices/enrol", {"csrf": csrf, "name": "pi-5"}))
    command = re.search(r"nas agent --server http://testserver --enrol (\w+)", page.text)
    assert command is not None
    assert command[1] not in as_ann.get("/devices").text
    assert "small letters" in read(as_ann.post("/devices/enrol", {"csrf": csrf, "name": "<Pi>"}), 400).text
    theirs = re.search(r'name="csrf" value="([^"]+)"', as_bob.get("/devices").text)[1]
    assert as_bob.post("/devices/enrol", {"csrf": theirs, "name": "mine"}).status_code == 403


def test_an_enrolled_machine_shows_what_it_is_and_how_steady_it_is(house, as_ann, ann) -> None:
    house.enrol(ann, "pi-5", (f"fp16: {EVIL}",), python=EVIL)
    history = [{"at_s": 1e9 + i, "settings": EVIL, "reference_us": 200.0 + i, "task": "t"} for i in range(3)]
    known = update(devices).values(canary={"history": history})
    house.services.db.write(lambda connection: connection.execute(known))
    house.measured(ended(house, ann), "pi-5")
    page = read(as_ann.get("/devices"))
    assert unsaid(page, "pi-5", "online", "nothing to do", "202 µs", "3.1%") == []
    page = read(as_ann.get("/devices/pi-5"))
    assert unsaid(page, "online", "Processor", "cpu_t1", EVIL, "202", "ridge") == []
    plots = json.loads(page.scripts[-1])
    assert plots["canary"]["data"][0]["y"] == [200.0, 201.0, 202.0]
    assert "<" not in plots["canary"]["data"][0]["name"]
    assert read(as_ann.get("/devices/pi-6"), 404)


def test_a_machine_is_removed_by_those_who_enrol(house, as_ann, as_bob, ann) -> None:
    house.enrol(ann, "pi-5")
    as_whom = {"csrf": re.search(r'name="csrf" value="([^"]+)"', as_bob.get("/devices/pi-5").text)[1]}
    assert as_bob.post("/devices/pi-5/remove", as_whom).status_code == 403
    assert "/devices/pi-5/remove" not in read(as_bob.get("/devices/pi-5")).values("action")
    as_whom = {"csrf": re.search(r'name="csrf" value="([^"]+)"', as_ann.get("/devices/pi-5").text)[1]}
    assert "/devices/pi-5/remove" in read(as_ann.get("/devices/pi-5")).values("action")
    assert as_ann.post("/devices/pi-5/remove", as_whom).headers["location"] == "/devices"
    assert house.services.farm.devices() == []
    page = read(as_ann.get("/devices/pi-5"))
    assert "removed" in page.text
    assert "/devices/pi-5/remove" not in page.values("action")


def test_the_workers_own_machines_have_a_page_with_predicted_against_measured(house, as_ann, ann) -> None:
    job = house.submit(ann)
    lease = house.claim(job)
    house.leave(lease, {"profile.json": profiled(("desk", ""))})
    page = read(as_ann.get("/devices/-"))
    assert unsaid(page, "desk", "3.1%", "ridge", "additive") == []
    plot = json.loads(page.scripts[-1])["trust-0"]
    assert plot["data"][-1]["x"] == [0.4, 0.7, 1.1, 1.9]
    assert "desk" in read(as_ann.get("/devices")).text


def test_logging_in_leads_where_one_wanted_to_go_and_nowhere_else(house, bob) -> None:
    for wanted, path in (
        ("/devices", "/devices"),
        ("//evil.example", "/jobs"),
        ("https://evil.example", "/jobs"),
        ("/\\evil", "/jobs"),
    ):
        client = Visitor(house.app)
        answer = client.post("/login", {"token": house.code(bob), "next": wanted})
        assert (answer.status_code, answer.headers["location"]) == (303, path)


def test_a_login_link_is_not_used_up_by_looking_at_it(house, bob) -> None:
    client, code = Visitor(house.app), house.code(bob)
    for _ in range(2):
        assert code in read(client.get(f"/login?code={code}")).values("value")
    assert client.post("/login", {"token": code}).status_code == 303
    assert "used up" in read(client.post("/login", {"token": code}), 401).text


def test_logging_out_ends_the_session(house, bob) -> None:
    client = logged_in(house, bob)
    csrf = re.search(r'name="csrf" value="([^"]+)"', client.get("/jobs").text)[1]
    assert client.post("/logout", {"csrf": csrf}).headers["location"] == "/login"
    assert client.get("/jobs").status_code == 303


def test_hostile_names_stay_text(house, as_ann, ann) -> None:
    spec = {
        "kind": "run",
        "job": {"name": EVIL, "data": {"kind": EVIL}, "space": {"family": EVIL}, "search": {"constraints": [EVIL]}},
    }
    job = house.submit(ann, EVIL, spec=spec)
    lease = house.claim(job)
    house.services.jobs.progress(lease, EVIL, 1, 2, EVIL)
    kind, found = point(EVIL, 1, 0.9, 4.0)
    house.tell(lease, (kind, {**found, "arch_id": EVIL}), ("log", {"level": EVIL, "text": EVIL, "stage": EVIL}))
    house.tell(lease, ("volume", {"device": EVIL, "seed": 1, "evaluations": 3, "hypervolume": 0.5}))
    network = trained() | {"data": {"name": EVIL, "classes": [EVIL]}, "space": {"family": EVIL, "size": 3}}
    measured = profiled((EVIL, ""))
    measured["devices"][0]["predictor"] |= {"kind": EVIL, "errors": {EVIL: 0.1}}
    files = {
        "train.json": network,
        "profile.json": measured,
        "search.json": searched(EVIL),
        "job.json": {"job": spec["job"]},
    }
    house.leave(lease, files)
    for path in (
        "/jobs",
        f"/jobs/{job.id}",
        f"/submit?from={job.id}",
        f"/submit?from={job.id}&kind=search",
        "/supernets",
        "/devices",
        "/devices/-",
    ):
        page = read(as_ann.get(path))
        assert EVIL in page.text or EVIL in " ".join(page.values("value")), path
        assert not any(tag == "img" for tag, _ in page.elements)
        assert all("alert(1)" not in script or json.loads(script) for script in page.scripts)
    house.finish(lease, "FAILED", error={"kind": EVIL, "message": EVIL, "traceback": EVIL})
    assert read(as_ann.get(f"/jobs/{job.id}")).text.count(EVIL) > 5
