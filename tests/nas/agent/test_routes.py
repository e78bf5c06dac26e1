"""What machines ask over HTTP, and what people ask about machines."""

import json
from hashlib import sha256

import pytest

from latency_tables.device import Device
from latency_tables.measuring.measure import Protocol
from latency_tables.measuring.measurement import Round
from nas.agent.transport import Http
from nas.agent.wire import OLDEST, WIRE, GraphRef, measured_json
from nas.service.jobs import JobStore
from nas.service.wanted import Wanted
from tests.nas.agent.conftest import Caller, enrolled
from tests.nas.agent.fakes import ABOUT, HERE, measurement
from tests.nas.service.databases import submission

MODEL = bytes(range(256)) * 4
DIGEST = sha256(MODEL).hexdigest()


def poll(machine: Caller, asked: str = "p", wait_s: float = 0.0):
    return machine.post("/v1/agent/poll", {"wire": WIRE, "poll": asked, "wait_s": wait_s})


@pytest.fixture
def task_id(services, admin, machine) -> str:
    jobs = JobStore(services.db)
    jobs.submit(submission(admin.id))
    _, lease = jobs.claim("w", 1e6)
    services.blobs.put(MODEL)
    wanted = Wanted("board", Device("mine"), Protocol(), HERE.id, (GraphRef("a", DIGEST, len(MODEL)),))
    return services.farm.tasks.submit(lease, wanted, lambda connection: None)


def outcome() -> dict:
    found = {"a": measurement("a", [Round((1.0,), 100.0, 1.0)])}
    return json.loads(json.dumps({"epoch": 1, "measured": measured_json(found)}))


def test_a_task_goes_to_its_machine_and_its_result_comes_back(web, person, machine, task_id):
    assert machine.post("/v1/agent/hello", {"wire": WIRE, "about": ABOUT.to_json()}).json() == {"name": "board"}
    task = poll(machine, wait_s=5.0).json()["task"]
    assert task["id"] == task_id
    whole = machine.get(f"/v1/agent/models/{DIGEST}")
    assert (whole.status_code, whole.content) == (200, MODEL)
    part = machine.get(f"/v1/agent/models/{DIGEST}", Range="bytes=1000-1003")
    assert (part.status_code, part.content) == (206, MODEL[1000:1004])
    assert part.headers["content-range"] == "bytes 1000-1003/1024"
    path = f"/v1/agent/tasks/{task_id}"
    assert machine.post(f"{path}/rounds", {"epoch": 1, "rounds": []}).json() == {"acknowledged": 0}
    assert machine.post(f"{path}/result", outcome()).json() == {"recorded": True}
    assert machine.post(f"{path}/result", outcome()).json() == {"recorded": True}
    late = machine.post(f"{path}/rounds", {"epoch": 1, "rounds": []})
    assert (late.status_code, late.json()["error"]["code"]) == (409, "stale")
    assert poll(machine, "q").json() == {"task": None}
    assert machine.get(f"/v1/agent/models/{DIGEST}").status_code == 404
    found = person.get("/v1/devices/board").json()
    assert (found["online"], found["queued"], found["running"]) == (True, 0, 0)
    assert found["canary"]["reference_us"] == 100.0
    assert found["canaries"] == [found["canary"]]
    assert found["profiles"] == []


def test_the_agents_own_transport_understands_the_server(line, machine, task_id):
    poll(machine)
    http = Http("http://127.0.0.1", machine.headers["Authorization"].split()[1], transport=line)
    assert http.piece(DIGEST, 1000, 100) == MODEL[1000:]
    assert http.post(f"/v1/agent/tasks/{task_id}/rounds", {"epoch": 1, "rounds": []}) == {"acknowledged": 0}


def test_other_machines_and_people_see_nothing_of_a_task(web, person, machine, task_id):
    other = enrolled(web, person, "other")
    poll(machine)
    for path, document in (
        (f"/v1/agent/tasks/{task_id}/rounds", {"epoch": 1, "rounds": []}),
        (f"/v1/agent/tasks/{task_id}/result", outcome()),
    ):
        assert other.post(path, document).status_code == 404
        assert person.post(path, document).status_code == 403
        assert web.post(path, json=document).status_code == 401
    assert other.get(f"/v1/agent/models/{DIGEST}").status_code == 404
    assert poll(other).json() == {"task": None}
    for path in ("/v1/devices", "/v1/jobs", "/v1/me", "/metrics"):
        assert machine.get(path).status_code == 403
    assert machine.post("/v1/enrolments", {"name": "more"}).status_code == 403


def test_people_without_the_scope_enrol_and_remove_nothing(web, services, admin, machine):
    narrow = Caller(web, services.people.issue(admin, ["jobs"])[1])
    assert narrow.get("/v1/devices").status_code == 200
    assert narrow.post("/v1/enrolments", {"name": "more"}).status_code == 403
    assert narrow.delete("/v1/devices/board").status_code == 403


def test_machines_are_listed_removed_and_gone(web, person, machine):
    (found,) = person.get("/v1/devices").json()["devices"]
    assert (found["name"], found["online"], found["canary"]) == ("board", True, None)
    assert found["fingerprint"]["cpu"] == HERE.cpu
    assert person.delete("/v1/devices/board").status_code == 204
    assert person.get("/v1/devices").json() == {"devices": []}
    assert person.get("/v1/devices/board").json()["revoked"]
    assert person.get("/v1/devices/nobody").status_code == 404
    assert person.delete("/v1/devices/nobody").status_code == 404


@pytest.mark.parametrize("wire", [OLDEST - 1, WIRE + 1])
@pytest.mark.parametrize("word", ["enrol", "hello", "poll"])
def test_another_version_is_told_so(machine, wire, word):
    answer = machine.post(f"/v1/agent/{word}", {"wire": wire})
    assert (answer.status_code, answer.json()["error"]["code"]) == (426, "version")
    assert "too old" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"epoch": NaN}', b'{"epoch": 1}', b"[" * 5000, b'{"epoch": 1e400, "rounds": []}']
)
@pytest.mark.parametrize("word", ["rounds", "result"])
def test_what_is_no_report_is_refused(machine, task_id, body, word):
    poll(machine)
    answer = machine.web.post(f"/v1/agent/tasks/{task_id}/{word}", content=body, headers=machine.headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid")


@pytest.mark.parametrize("name", ["", "Board", "../x", "x" * 65])
def test_a_name_that_cannot_be_is_refused(person, name):
    assert person.post("/v1/enrolments", {"name": name}).status_code in (400, 422)


def test_waiting_ends_when_the_server_does(services, machine):
    services.closing.set()
    assert poll(machine, wait_s=60.0).json() == {"task": None}
