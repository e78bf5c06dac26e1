"""Live events: in order, each once, from where a listener was, until the end; to many, and to one who does not read."""

import asyncio
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from anyio import to_thread

from nas.api.auth import Doorkeeper
from nas.api.sse import KEPT, Hub, frame_of
from nas.service.events import Event
from tests.nas.api.hosted import hosted

STREAM = {"Accept": "text/event-stream"}
WAIT_S = 20.0


def listened(
    http: httpx.Client, job_id: str, after: int | None = None, until: int | None = None
) -> list[tuple[int, str, dict]]:
    """The events of a stream, to its end or to a number."""
    found, fields = [], {}
    headers = STREAM if after is None else {**STREAM, "Last-Event-ID": str(after)}
    with http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers, timeout=WAIT_S) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "data" in fields:
                found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
                fields = {}
                if found[-1][0] == until:
                    break
    return found


def say(site, lease, texts, n=0):
    site.services.events.append(lease, [("log", {"level": "info", "text": text}) for text in texts], n)


def test_a_stream_has_what_was_what_comes_and_ends_with_the_job(ada, site):
    lease = ada.running()
    say(site, lease, ["before"])
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(listened, ada.http, lease.job_id)
        say(site, lease, ["line\nbreak", "é\u2028"], 1)
        site.services.jobs.finish(lease, "SUCCEEDED", result={})
        found = stream.result(WAIT_S)
    assert [seq for seq, _, _ in found] == [1, 2, 3, 4, 5, 6]
    assert [data["text"] for _, kind, data in found if kind == "log"] == ["before", "line\nbreak", "é\u2028"]
    assert found[-1][1:2] == ("state",)
    assert found[-1][2]["state"] == "SUCCEEDED"
    assert all(data["at_s"] > 1e9 for _, _, data in found)


def test_a_listener_that_comes_back_goes_on_where_it_was(ada, site):
    lease = ada.running()
    say(site, lease, map(str, range(10)))
    first = listened(ada.http, lease.job_id, until=7)
    site.services.jobs.finish(lease, "FAILED", error={"kind": "user", "message": "no"})
    rest = listened(ada.http, lease.job_id, after=7)
    assert [seq for seq, _, _ in first + rest] == list(range(1, 14))


def test_after_the_last_event_a_browser_is_told_not_to_come_back(ada):
    job_id = ada.finished({})
    last = listened(ada.http, job_id)[-1][0]
    answer = ada.http.get(f"/v1/jobs/{job_id}/events", headers={**STREAM, "Last-Event-ID": str(last)})
    assert answer.status_code == 204
    assert ada.http.get(f"/v1/jobs/{job_id}/events", params={"after": last}, headers=STREAM).status_code == 204


@pytest.mark.parametrize("last", ["-1", "x", "1e3", "9" * 10, "٣"])
def test_the_number_of_an_event_is_a_number(ada, last):
    headers = {**STREAM, "Last-Event-ID": last.encode()}
    assert ada.http.get(f"/v1/jobs/{ada.finished({})}/events", headers=headers).status_code == 422


def test_many_listeners_to_many_jobs_all_hear_everything(site):
    asker = site.person()
    leases = [asker.running() for _ in range(4)]
    with (
        httpx.Client(
            base_url=site.url, headers=asker.http.headers, trust_env=False, limits=httpx.Limits(max_connections=200)
        ) as http,
        ThreadPoolExecutor(80) as pool,
    ):
        streams = [pool.submit(listened, http, leases[n % 4].job_id) for n in range(80)]
        for n in range(10):
            for lease in leases:
                say(site, lease, [str(n)], n)
        for lease in leases:
            site.services.jobs.finish(lease, "SUCCEEDED", result={})
        for stream in streams:
            assert [seq for seq, _, _ in stream.result(WAIT_S)] == list(range(1, 14))
    asker.http.close()


def test_a_silent_stream_shows_that_it_lives(site, ada, monkeypatch):
    monkeypatch.setitem(
        site.app.state._state, "hub", Hub(site.services.events, site.services.closing, keep_alive_s=0.05)
    )
    lease = ada.running()
    with ada.http.stream("GET", f"/v1/jobs/{lease.job_id}/events", headers=STREAM) as answer:
        lines = answer.iter_lines()
        assert next(line for line in lines if line.startswith(":"))


def test_a_stream_ends_with_its_token(site, monkeypatch):
    monkeypatch.setattr("nas.api.sse.CHECK_S", 0.05)
    monkeypatch.setitem(
        site.app.state._state,
        "doorkeeper",
        Doorkeeper(site.services.people, site.services.front, iter(range(10**6)).__next__),
    )
    asker = site.person()
    lease = asker.running()
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(listened, asker.http, lease.job_id)
        time.sleep(0.1)
        site.services.people.revoke(asker.token_id)
        assert [seq for seq, _, _ in stream.result(WAIT_S)] == [1, 2]
    asker.http.close()


def test_a_server_that_ends_ends_its_streams(tmp_path):
    with ThreadPoolExecutor(1) as pool:
        with hosted(tmp_path) as site:
            asker = site.person()
            lease = asker.running()
            stream = pool.submit(listened, asker.http, lease.job_id)
            time.sleep(0.1)
        assert [seq for seq, _, _ in stream.result(WAIT_S)] == [1, 2]
        asker.http.close()


def test_a_listener_that_does_not_read_holds_no_memory_and_nobody_up(site, ada):
    """20 MB of events; the server keeps the last ones of the job, whoever has not read how many."""
    lease = ada.running()
    host, _, port = site.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lines = (
            f"GET /v1/jobs/{lease.job_id}/events HTTP/1.1",
            f"Host: {host}",
            f"Authorization: Bearer {ada.secret}",
            "Accept: text/event-stream",
        )
        deaf.sendall("\r\n".join([*lines, "", ""]).encode())
        for n in range(20):
            say(site, lease, ["x" * 10_000] * 100, 100 * n)
        site.services.jobs.finish(lease, "SUCCEEDED", result={})
        assert len(listened(ada.http, lease.job_id)) == 2003
        topic = site.app.state.hub._topics.get(lease.job_id)
        assert topic is None or len(topic.frames) <= KEPT


def test_when_nobody_listens_nothing_is_looked_up(site, ada):
    hub = site.app.state.hub
    lease = ada.running()
    listened(ada.http, lease.job_id, until=2)
    until_s = time.monotonic() + WAIT_S
    while hub._topics and time.monotonic() < until_s:
        say(site, lease, ["to notice that it has gone"], int(1e6 * time.monotonic()) % 10**9)
        time.sleep(0.05)
    assert hub._topics == {}


class FewEvents:
    """A log of so many events, which counts what is read of it."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.reads: list[int] = []

    def since(self, job_id: str, seq: int, limit: int = 500) -> list[Event]:
        self.reads.append(seq)
        return [self._event(job_id, n) for n in range(seq + 1, min(self.count, seq + limit) + 1)]

    def latest(self, job_ids) -> dict[str, int]:
        return dict.fromkeys(job_ids, self.count)

    def _event(self, job_id: str, n: int) -> Event:
        return Event(job_id, n, 0.0, "log", {"n": n})


def test_what_is_new_is_read_once_for_all_listeners():
    log = FewEvents(3)

    async def allowed() -> bool:
        return True

    async def listen(hub: Hub, count: int) -> int:
        seen = 0
        async for chunk in hub.follow("j", 3, allowed):
            seen += chunk.count(b"data:")
            if seen == count:
                return seen
        return seen

    async def run() -> list[int]:
        hub = Hub(log, threading.Event(), poll_s=0.01)
        listeners = [asyncio.create_task(listen(hub, 5)) for _ in range(50)]
        busy = to_thread.current_default_thread_limiter()
        while busy.borrowed_tokens or len(hub._topics) == 0 or hub._topics["j"].seq is None:
            await asyncio.sleep(0.005)
        log.reads.clear()
        log.count = 8
        return await asyncio.gather(*listeners)

    assert asyncio.run(run()) == [5] * 50
    assert log.reads == [3]


def test_an_event_is_three_lines_whatever_is_in_it():
    frame = frame_of(Event("j", 7, 1.5, "log", {"text": "a\nb\r\n\nid: 9", "level": "info"}))
    assert frame.text.decode().split("\n") == ["id: 7", "event: log", frame.text.decode().split("\n")[2], "", ""]
    assert not frame.last
    assert frame_of(Event("j", 8, 1.5, "state", {"state": "CANCELLED"})).last
