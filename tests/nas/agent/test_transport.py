"""What answers of a server mean: later, never, or not any more."""

from pathlib import Path

import httpx
import pytest

from nas.agent.errors import AgentError, Away, Refused, Stale, Unwelcome
from nas.agent.transport import Http

URL = "https://nas.example.org"


def answering(status: int, body: bytes | dict = b"", **headers) -> Http:
    """A server that always says this."""
    given = {"json": body} if isinstance(body, dict) else {"content": body}
    reply = lambda request: httpx.Response(status, headers=headers, **given)  # noqa: E731
    return Http(URL, "nas_secret", transport=httpx.MockTransport(reply))


def refusal(code: str, message: str = "no") -> dict:
    return {"error": {"code": code, "message": message}}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (500, b"", Away),
        (503, refusal("unavailable"), Away),
        (429, refusal("limit_reached"), Away),
        (404, b"<html>a proxy</html>", Away),
        (200, b"<html>a login page</html>", Away),
        (200, b"[]", Away),
        (302, b"", Away),
        (401, refusal("unauthorized"), Unwelcome),
        (403, refusal("forbidden"), Unwelcome),
        (426, refusal("version"), Unwelcome),
        (401, b"<html>a proxy</html>", Away),
        (409, refusal("stale"), Stale),
        (409, refusal("conflict"), Refused),
        (404, refusal("not_found"), Refused),
        (422, refusal("invalid"), Refused),
    ],
)
def test_an_answer_means(status, body, kind):
    with pytest.raises(kind) as caught:
        answering(status, body).post("/v1/agent/hello", {})
    assert type(caught.value) is kind


def test_an_answer_is_never_shown_raw():
    with pytest.raises(Refused) as caught:
        answering(422, refusal("invalid", "\x1b[31mred\n" + "x" * 9000)).post("/v1/agent/hello", {})
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 1000


def test_a_line_that_breaks_is_to_be_tried_again():
    def broken(request):
        raise httpx.ConnectError("refused")

    with pytest.raises(Away, match="refused"):
        Http(URL, transport=httpx.MockTransport(broken)).post("/v1/agent/hello", {})


def test_more_than_was_asked_for_is_not_read():
    with pytest.raises(Refused, match="more than 10 bytes"):
        answering(206, b"x" * 11).piece("0" * 64, 0, 10)


def test_the_token_and_the_range_are_sent():
    seen = []

    def reply(request):
        seen.append((request.url.path, request.headers["authorization"], request.headers["range"]))
        return httpx.Response(206, content=b"ab")

    assert Http(URL, "nas_secret", transport=httpx.MockTransport(reply)).piece("0" * 64, 5, 2) == b"ab"
    assert seen == [(f"/v1/agent/models/{'0' * 64}", "Bearer nas_secret", "bytes=5-6")]


@pytest.mark.parametrize("url", ["http://nas.example.org", "http://10.0.0.7:8023"])
def test_a_token_is_not_sent_unencrypted_unless_asked(url):
    with pytest.raises(AgentError, match="unencrypted"):
        Http(url)
    Http(url, plain=True)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "https://x.org"])
def test_the_machine_itself_needs_no_encryption(url):
    Http(url)


@pytest.mark.parametrize("url", ["nas.example.org", "ftp://x.org", ""])
def test_what_is_no_server_is_refused(url):
    with pytest.raises(AgentError, match="wanted the URL of a server"):
        Http(url)


def test_a_file_without_certificates_is_refused(tmp_path):
    Path(tmp_path / "ca.pem").write_text("nothing")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(AgentError, match="not a file of certificates"):
            Http(URL, ca=tmp_path / name)
