"""/v1/uploads: bodies are streamed, limited, and nobody else's."""

import hashlib
import socket
import threading
from dataclasses import replace

import pytest

from nas.api.uploads import SIDE_BY_SIDE
from nas.service.refusal import UploadRefused
from nas.service.settings import Settings
from nas.service.uploads import Uploads
from tests.nas.api.hosted import uninspected

BIG = b"0123456789abcdef" * 100_000


def test_a_file_is_sent_looked_at_and_forgotten(ada):
    sent = ada.http.post("/v1/uploads", params={"kind": "onnx", "name": "phone.onnx"}, content=BIG)
    upload = sent.json()
    assert sent.status_code == 201
    assert (upload["sha256"], upload["bytes"]) == (hashlib.sha256(BIG).hexdigest(), len(BIG))
    assert ada.http.get(f"/v1/uploads/{upload['id']}").json() == upload
    assert ada.http.get("/v1/uploads").json() == {"uploads": [upload], "next": None}
    assert ada.http.delete(f"/v1/uploads/{upload['id']}").status_code == 204
    assert ada.http.get(f"/v1/uploads/{upload['id']}").status_code == 404


def test_a_body_of_unknown_length_is_taken(ada):
    sent = ada.http.post("/v1/uploads", params={"kind": "onnx", "name": "x"}, content=iter([BIG[:7], b"", BIG[7:]]))
    assert sent.json()["sha256"] == hashlib.sha256(BIG).hexdigest()


def test_uploads_come_by_pages(ada):
    ids = [
        ada.http.post("/v1/uploads", params={"kind": "onnx", "name": str(n)}, content=b"x").json()["id"]
        for n in range(3)
    ]
    first = ada.http.get("/v1/uploads", params={"limit": 2}).json()
    rest = ada.http.get("/v1/uploads", params={"limit": 2, "before": first["next"]}).json()
    assert [each["id"] for each in first["uploads"] + rest["uploads"]] == ids[::-1]
    assert rest["next"] is None


@pytest.mark.parametrize(
    "query", [{}, {"kind": "onnx"}, {"kind": "pickle", "name": "x"}, {"kind": "onnx", "name": "x" * 201}]
)
def test_a_file_has_a_kind_and_a_name(ada, query):
    assert ada.http.post("/v1/uploads", params=query, content=b"x").status_code == 422


def test_what_the_inspection_refuses_is_refused_in_its_words(ada, site, monkeypatch):
    def refuse(kind, path):
        raise UploadRefused("this is a pickle; send safetensors instead")

    monkeypatch.setitem(
        site.app.state._state,
        "services",
        replace(site.services, uploads=Uploads(site.services.db, site.services.blobs, refuse)),
    )
    answer = ada.http.post("/v1/uploads", params={"kind": "onnx", "name": "x"}, content=b"x")
    assert (answer.status_code, answer.json()["error"]["message"]) == (
        422,
        "this is a pickle; send safetensors instead",
    )


@pytest.mark.parametrize("content", [b"x" * 1001, [b"x" * 600] * 2], ids=["said", "unsaid"])
def test_more_than_the_service_takes_is_refused(ada, site, monkeypatch, content):
    small = replace(site.services, settings=Settings(data=site.services.settings.data, upload_limit_bytes=1000))
    monkeypatch.setitem(site.app.state._state, "services", small)
    body = content if isinstance(content, bytes) else iter(content)
    answer = ada.http.post("/v1/uploads", params={"kind": "onnx", "name": "x"}, content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    assert ada.http.get("/v1/uploads").json()["uploads"] == []


def half_sent(site, secret: str) -> socket.socket:
    """An upload of which only a part comes."""
    host, _, port = site.url.removeprefix("http://").partition(":")
    found = socket.create_connection((host, int(port)))
    lines = (
        "POST /v1/uploads?kind=onnx&name=x HTTP/1.1",
        f"Host: {host}",
        f"Authorization: Bearer {secret}",
        "Content-Length: 1000",
    )
    head = "\r\n".join([*lines, "", ""])
    found.sendall(head.encode() + b"x" * 10)
    return found


def test_an_upload_that_breaks_off_leaves_nothing(ada, site):
    half_sent(site, ada.secret).close()
    assert ada.http.post("/v1/uploads", params={"kind": "onnx", "name": "whole"}, content=b"whole").status_code == 201
    assert [each["name"] for each in ada.http.get("/v1/uploads").json()["uploads"]] == ["whole"]


def test_uploads_that_stand_still_keep_nobody_else_waiting(ada, site):
    """More of them than there are threads for uploads."""
    waiting = [half_sent(site, ada.secret) for _ in range(SIDE_BY_SIDE + 40)]
    try:
        for _ in range(50):
            assert ada.http.get("/v1/jobs").status_code == 200
    finally:
        for each in waiting:
            each.close()


def test_a_slow_body_is_given_up(site, ada, monkeypatch):
    monkeypatch.setattr("nas.api.gate.BODY_PAUSE_S", 0.2)
    with half_sent(site, ada.secret) as slow:
        slow.settimeout(20)
        answer = slow.recv(4096)
    assert answer.startswith(b"HTTP/1.1 408")


def test_an_upload_does_not_wait_in_the_threads_of_other_answers(ada, site, monkeypatch):
    """An inspection that takes long."""
    going, go_on = threading.Event(), threading.Event()

    def slow(kind, path):
        going.set()
        assert go_on.wait(20)
        return uninspected(kind, path)

    monkeypatch.setitem(
        site.app.state._state,
        "services",
        replace(site.services, uploads=Uploads(site.services.db, site.services.blobs, slow)),
    )
    other = site.asker(ada.user, ("models",))
    found = []
    send = lambda: found.append(other.http.post("/v1/uploads", params={"kind": "onnx", "name": "x"}, content=b"x"))  # noqa: E731
    thread = threading.Thread(target=send)
    thread.start()
    assert going.wait(20)
    assert ada.http.get("/v1/jobs").status_code == 200
    go_on.set()
    thread.join()
    other.http.close()
    assert found[0].status_code == 201
