"""/v1/jobs and what hangs on it: submitted once, listed by pages, cancelled, and files fetched whole or in part."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from nas.api.documents import cursor_of, row_id_of
from nas.api.jobs import digest_of
from nas.api.ranges import span_of
from nas.api.refusals import Refusal
from nas.service.schema import new_id
from tests.nas.api.hosted import SPEC

DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


def test_a_job_is_submitted_and_looked_at(ada):
    made = ada.http.post("/v1/jobs", json={**SPEC, "priority": 7})
    job = made.json()
    assert made.status_code == 201
    assert made.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["name"], job["kind"], job["state"], job["owner"], job["priority"]) == (
        "digits",
        "run",
        "QUEUED",
        ada.user.name,
        7,
    )
    assert (job["attempts"], job["stages"], job["error"], job["result"], job["parent"]) == (0, [], None, None, None)
    assert job["queue_position"] == 1
    assert job["spec"] == {**SPEC, "priority": 7}
    assert ada.http.get(f"/v1/jobs/{job['id']}").json() == job


def test_the_same_key_makes_one_job_however_often_it_is_sent(ada):
    headers = {"Idempotency-Key": "tonight"}
    first = ada.http.post("/v1/jobs", json=SPEC, headers=headers)
    reordered = json.dumps(dict(reversed(SPEC.items())), indent=3)
    again = ada.http.post("/v1/jobs", content=reordered, headers={**headers, "Content-Type": "application/json"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    other = ada.http.post("/v1/jobs", json={**SPEC, "priority": 1}, headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "conflict")
    assert first.json()["id"] in other.json()["error"]["message"]
    assert len(ada.http.get("/v1/jobs").json()["jobs"]) == 1


def test_two_users_can_have_the_same_key(ada, ben):
    answers = [each.http.post("/v1/jobs", json=SPEC, headers={"Idempotency-Key": "tonight"}) for each in (ada, ben)]
    assert [answer.status_code for answer in answers] == [201, 201]


def test_a_machine_that_is_not_enrolled_is_refused(ada):
    job = {**SPEC["job"], "devices": [{"name": "board_t4", "agent": "board"}]}
    answer = ada.http.post("/v1/jobs", json={**SPEC, "job": job})
    assert answer.status_code == 422
    assert answer.json()["error"]["message"].startswith("device board_t4: no machine 'board' is enrolled")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"kind": "dance"}, "kind must be one of"),
        ([], "wanted a mapping"),
        ({"kind": "run", "job": {**SPEC["job"], "trian": {}}}, "did you mean 'train'?"),
        ({"kind": "run", "job": {**SPEC["job"], "data": {"kind": "folder", "path": "/etc"}}}, "takes no 'folder'"),
        (
            {"kind": "run", "job": {**SPEC["job"], "data": {"kind": "parquet", "path": "/etc/passwd"}}},
            "is no path here",
        ),
        ({"kind": "run", "job": {**SPEC["job"], "search": {"store": "sqlite:///x"}}}, "search.store"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(ada, body, said):
    answer = ada.http.post("/v1/jobs", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (422, "invalid")
    assert said in error["message"]
    assert "\n" not in error["message"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"{'a': 1}", b"[" * 100_000, b'{"kind": NaN}', b'{"a": 1e999}']
)
def test_what_is_no_json_is_refused(ada, content):
    answer = ada.http.post("/v1/jobs", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    assert set(answer.json()["error"]) == {"code", "message"}


def test_what_a_job_refers_to_must_be_ones_own(ada, ben, site):
    finished = ada.finished({"train.json": b"{}"})
    upload = site.services.uploads.add(ada.user.id, "parquet", "images", [b"images"])
    data = {"kind": "parquet", "path": f"upload:{upload.id}"}
    for spec in ({"kind": "search", "from": finished}, {"kind": "run", "job": {**SPEC["job"], "data": data}}):
        assert ben.http.post("/v1/jobs", json=spec).status_code == 404
    assert ada.http.post("/v1/jobs", json={"kind": "run", "job": {**SPEC["job"], "data": data}}).status_code == 201


def test_a_search_may_begin_with_what_earlier_ones_found_and_no_others(ada, ben):
    files = {"job.json": json.dumps(SPEC).encode(), "train.json": b"{}", "search.json": b"{}"}
    mine, his, running = ada.finished(files), ben.finished(files), ada.submit()

    def asked(who, *names: str):
        spec = {"kind": "search", "from": mine, "set": {"search.warm_start": list(names)}}
        answer = who.http.post("/v1/jobs", json=spec)
        return answer.status_code, (answer.json()["error"] or {}).get("message", "")

    assert asked(ada, mine) == (201, "")
    assert asked(ada, mine, his) == (404, f"{his}: there is no such job")
    assert asked(ada, "/etc/passwd")[0] == 404
    assert asked(ada, running) == (422, f"search.warm_start: job {running} has not ended; wait until it has")


def test_an_owner_has_so_many_jobs_and_no_more(site):
    asker = site.person()
    site.services.people.limit(asker.user.name, max_queued=2)
    with asker.http:
        first, _ = asker.submit(), asker.submit()
        refused = asker.http.post("/v1/jobs", json=SPEC)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "limit_reached")
        asker.http.post(f"/v1/jobs/{first}/cancel")
        asker.submit()


def test_pages_show_every_job_once_newest_first(ada):
    ids = [ada.submit() for _ in range(7)]
    found, cursor = [], None
    while True:
        page = ada.http.get("/v1/jobs", params={"limit": 3, **({"before": cursor} if cursor else {})}).json()
        found += [job["id"] for job in page["jobs"]]
        cursor = page["next"]
        if cursor is None:
            break
        ada.submit()  # what is new is on no later page
    assert found == ids[::-1]


def test_lists_are_of_the_states_and_kinds_that_are_asked_for(ada):
    queued, cancelled = ada.submit(), ada.submit(kind="train")
    ada.http.post(f"/v1/jobs/{cancelled}/cancel")
    ask = lambda **query: [job["id"] for job in ada.http.get("/v1/jobs", params=query).json()["jobs"]]  # noqa: E731
    assert ask(state="QUEUED") == [queued]
    assert ask(state=["QUEUED", "CANCELLED"]) == [cancelled, queued]
    assert ask(kind="train") == [cancelled]
    assert ask(kind="search") == []
    assert ada.http.get("/v1/jobs", params={"state": "LOST"}).status_code == 422


@pytest.mark.parametrize("cursor", ["", "x", "ajAx", "....", "é", cursor_of("j' OR 1=1 --"), cursor_of("J" + "0" * 26)])
def test_a_cursor_is_one_of_ours(ada, cursor):
    answer = ada.http.get("/v1/jobs", params={"before": cursor})
    assert answer.status_code == 422
    assert "query.before" in answer.json()["error"]["message"]


@given(st.sampled_from("jut"))
def test_a_cursor_gives_back_its_id(prefix):
    row_id = new_id(prefix)
    assert row_id_of(cursor_of(row_id)) == row_id


@given(st.text(max_size=60))
def test_any_other_text_is_no_cursor(text):
    try:
        found = row_id_of(text)
    except Refusal:
        return
    assert found is not None
    assert cursor_of(found) == text


@given(DOCUMENTS, st.randoms())
def test_the_digest_of_a_document_does_not_depend_on_the_order_of_its_keys(document, chance):
    def shuffled(value):
        if isinstance(value, dict):
            keys = list(value)
            chance.shuffle(keys)
            return {key: shuffled(value[key]) for key in keys}
        return [shuffled(each) for each in value] if isinstance(value, list) else value

    assert digest_of(shuffled(document)) == digest_of(document)


def test_a_job_that_waits_is_cancelled_at_once_and_one_that_runs_soon(ada):
    waiting = ada.submit()
    assert ada.http.post(f"/v1/jobs/{waiting}/cancel").json()["state"] == "CANCELLED"
    assert ada.http.post(f"/v1/jobs/{waiting}/cancel").json()["state"] == "CANCELLED"
    running = ada.running().job_id
    assert ada.http.post(f"/v1/jobs/{running}/cancel").json()["state"] == "CANCELLING"


def test_events_come_by_pages(ada, site):
    lease = ada.running()
    site.services.events.append(lease, [("log", {"level": "info", "text": f"line {n}"}) for n in range(5)], 0)
    ask = lambda **query: ada.http.get(f"/v1/jobs/{lease.job_id}/events", params=query).json()  # noqa: E731
    whole = ask()
    assert [event["seq"] for event in whole["events"]] == [1, 2, 3, 4, 5, 6, 7]
    assert [event["kind"] for event in whole["events"]] == ["state"] * 2 + ["log"] * 5
    assert whole["events"][2]["data"] == {"level": "info", "text": "line 0"}
    first = ask(limit=4)
    assert first["next"] == 4
    assert first["events"] + ask(after=4)["events"] == whole["events"]
    assert ask(after=7) == {"events": [], "next": 7}
    assert ada.http.get(f"/v1/jobs/{lease.job_id}/events", params={"after": -1}).status_code == 422


@pytest.fixture(scope="module")
def content() -> bytes:
    return bytes(range(256)) * 5000


def test_files_are_listed_and_fetched(ada, content):
    job_id = ada.finished({"models/phone.onnx": content, "log.txt": b"", "a b.txt": b"blank"})
    listed = {each["path"]: each for each in ada.http.get(f"/v1/jobs/{job_id}/artefacts").json()["artefacts"]}
    assert list(listed) == ["a b.txt", "log.txt", "models/phone.onnx"]
    for path, bytes_ in (("models/phone.onnx", content), ("log.txt", b""), ("a b.txt", b"blank")):
        answer = ada.http.get(f"/v1/jobs/{job_id}/artefacts/{path}")
        assert answer.content == bytes_
        assert answer.headers["etag"] == f'"{hashlib.sha256(bytes_).hexdigest()}"' == f'"{listed[path]["sha256"]}"'
        assert answer.headers["content-length"] == str(len(bytes_)) == str(listed[path]["bytes"])
        assert answer.headers["content-disposition"].startswith("attachment")
        assert answer.headers["content-type"] == "application/octet-stream"
    assert ada.http.get(f"/v1/jobs/{job_id}/artefacts/none").status_code == 404


def test_text_files_of_an_export_say_what_they_are_and_come_as_downloads(ada):
    kinds = {
        "card.md": "text/markdown; charset=utf-8",
        "numbers.json": "application/json",
        "predict.py": "text/x-python; charset=utf-8",
        "model.onnx": "application/octet-stream",
    }
    job_id = ada.finished({f"models/one-knee/{name}": b"x" for name in kinds})
    for name, kind in kinds.items():
        answer = ada.http.get(f"/v1/jobs/{job_id}/artefacts/models/one-knee/{name}")
        assert answer.headers["content-type"] == kind
        assert answer.headers["content-disposition"] == f'attachment; filename="{name}"'
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["../job.json", "..%2Fjob.json", "%2Fetc%2Fpasswd", "a%00b", "log.txt/", ".%2E/x", "%ff"]
)
def test_a_path_that_is_none_of_the_jobs_is_not_found(ada, path):
    job_id = ada.finished({"log.txt": b"log"})
    assert ada.http.get(f"/v1/jobs/{job_id}/artefacts/{path}").status_code == 404


def test_a_file_that_one_has_is_not_sent_again(ada):
    job_id = ada.finished({"log.txt": b"log"})
    etag = ada.http.get(f"/v1/jobs/{job_id}/artefacts/log.txt").headers["etag"]
    answer = ada.http.get(f"/v1/jobs/{job_id}/artefacts/log.txt", headers={"If-None-Match": etag})
    assert (answer.status_code, answer.content) == (304, b"")


def test_parts_of_a_file_make_the_whole(ada, content):
    address = f"/v1/jobs/{ada.finished({'big': content})}/artefacts/big"
    half = len(content) // 2
    first = ada.http.get(address, headers={"Range": f"bytes=0-{half - 1}"})
    rest = ada.http.get(address, headers={"Range": f"bytes={half}-", "If-Range": first.headers["etag"]})
    assert (first.status_code, rest.status_code) == (206, 206)
    assert first.headers["content-range"] == f"bytes 0-{half - 1}/{len(content)}"
    assert first.content + rest.content == content
    changed = ada.http.get(address, headers={"Range": f"bytes={half}-", "If-Range": '"other"'})
    assert (changed.status_code, changed.content) == (200, content)
    beyond = ada.http.get(address, headers={"Range": f"bytes={len(content)}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(content)}")


@given(st.integers(1, 50), st.text("0123456789", max_size=3), st.text("0123456789", max_size=3))
def test_a_range_is_inside_the_file_or_refused(size, low, high):
    try:
        span = span_of(Headers({"range": f"bytes={low}-{high}"}), size, '"x"')
    except Refusal:
        assert int(low or 0) >= size or (not low and int(high) == 0)
        return
    assert 0 <= span.start < span.stop <= size
    if span.partial and low:
        assert span.start == int(low)
        assert not high or span.stop == min(size, int(high) + 1)
    elif span.partial:
        assert span.stop - span.start == min(size, int(high))


@pytest.mark.parametrize("value", ["", "bytes", "bytes=1-2,4-5", "bytes=-", "lines=1-2", "bytes=a-b", "bytes=٣-"])
def test_what_is_no_range_of_bytes_gets_the_whole(value):
    assert span_of(Headers(raw=[(b"range", value.encode("latin-1", "replace"))]), 10, '"x"').partial is False


def test_a_damaged_file_never_arrives_whole(ada, site, content):
    job_id = ada.finished({"big": content + b"damaged"})
    sha256 = ada.http.get(f"/v1/jobs/{job_id}/artefacts").json()["artefacts"][0]["sha256"]
    path = site.services.blobs.path(sha256)
    path.chmod(0o600)
    path.write_bytes(content + b"DAMAGED")
    with pytest.raises(Exception, match=r"peer closed|incomplete"):
        ada.http.get(f"/v1/jobs/{job_id}/artefacts/big")
    missing = ada.http.get(f"/v1/jobs/{job_id}/artefacts/big")
    assert (missing.status_code, missing.json()["error"]["code"]) == (500, "damaged")
