"""A service that answers on a port of this machine, and the people who ask it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import httpx
import uvicorn
from fastapi import FastAPI

from nas.api.app import Front, Services, make_app, open_services
from nas.service.leases import Lease
from nas.service.people import OF_EVERYBODY, SCOPES, User
from nas.service.settings import Settings
from nas.service.uploads import Uploads

SPEC = {
    "kind": "run",
    "job": {"name": "digits", "data": {"kind": "digits"}, "space": {"family": "tiny"}, "devices": [{"name": "cpu_t1"}]},
}
LEASE_S = 600.0


@dataclass
class Hosted:
    """One service, its app and its address."""

    services: Services
    app: FastAPI
    url: str
    numbers: Iterator[int] = field(default_factory=count)

    def person(self, *, admin: bool = False, scopes: tuple[str, ...] | None = None) -> Asker:
        """Somebody new, with a token."""
        user = self.services.people.add(f"person-{next(self.numbers)}", admin=admin)
        return self.asker(user, scopes or (SCOPES if admin else OF_EVERYBODY))

    def asker(self, user: User, scopes: tuple[str, ...]) -> Asker:
        token, secret = self.services.people.issue(user, scopes)
        return Asker(self, user, token.id, secret, http(self.url, {"Authorization": f"Bearer {secret}"}))

    def stranger(self) -> httpx.Client:
        """Somebody without a token."""
        return http(self.url, {})


@dataclass
class Asker:
    """A user who asks with a token."""

    hosted: Hosted
    user: User
    token_id: str
    secret: str
    http: httpx.Client

    def submit(self, **changes: object) -> str:
        """The id of a new job."""
        answer = self.http.post("/v1/jobs", json={**SPEC, **changes})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def running(self) -> Lease:
        """A new job of his, claimed before all others."""
        job_id = self.submit(priority=100)
        claimed = self.hosted.services.jobs.claim("worker", LEASE_S)
        assert claimed is not None
        assert claimed[0].id == job_id
        return claimed[1]

    def finished(self, files: Mapping[str, bytes]) -> str:
        """A job of his that has ended and has left these files."""
        lease = self.running()
        self.hosted.services.artefacts.add(lease, dict(files))
        self.hosted.services.jobs.finish(lease, "SUCCEEDED", result={"stages": []})
        return lease.job_id


def http(url: str, headers: Mapping[str, str]) -> httpx.Client:
    return httpx.Client(base_url=url, headers=dict(headers), timeout=30.0, trust_env=False)


def uninspected(kind: str, path: Path) -> dict[str, object]:
    """Takes every file: what the inspection finds is no concern of the API."""
    return {"kind": kind, "bytes": path.stat().st_size}


def opened(data: Path, front: Front | None = None) -> Services:
    data.mkdir(parents=True, exist_ok=True)
    services = open_services(Settings(data=data), front)
    services.db.upgrade()
    return replace(services, uploads=Uploads(services.db, services.blobs, uninspected))


@contextmanager
def hosted(data: Path, front: Front | None = None) -> Iterator[Hosted]:
    """A service in a folder, while it answers; its streams end with it."""
    services = opened(data, front)
    app = make_app(services)
    with answering(app, services.closing) as url:
        yield Hosted(services, app, url)
    services.db.close()


@contextmanager
def answering(app: FastAPI, closing: threading.Event, port: int = 0) -> Iterator[str]:
    # The protocol is named, so that asyncio sends answers at once: without, each takes 44 ms.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        server = uvicorn.Server(
            uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=10)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            closing.set()
            server.should_exit = True
            thread.join()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
