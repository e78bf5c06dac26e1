"""`nas serve`: the API, its workers and what has to be done now and then, in one process tree that ends together."""

from __future__ import annotations

import errno
import fcntl
import gc
import getpass
import ipaddress
import logging
import os
import re
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from nas.api.app import Front, Services, make_app, open_services
from nas.api.services import LOOPBACK
from nas.service.crew import Crew, environment_of
from nas.service.errors import ServiceError
from nas.service.garbage import collect
from nas.service.people import SCOPES, People, User
from nas.service.settings import Settings

GRACE_S = 18
"""Requests under way have so long to end."""
KEEP_ALIVE_S = 30
COLLECT_S = 3600.0
LOOK_S = 0.1
BACKLOG = 1024
EVERYWHERE = ("0.0.0.0", "::")
WORKER = (sys.executable, "-c", "from nas.cli import main; main()", "worker")

LOG = logging.getLogger("nas.serve")


@dataclass(frozen=True, slots=True)
class Address:
    """Where the service listens, and who may come by which name. `behind_proxy`: a proxy on the way ends TLS and says for whom
    it asks, so that the port must be reachable for it alone."""

    host: str = "127.0.0.1"
    port: int = 8023
    tls_cert: Path | None = None
    tls_key: Path | None = None
    behind_proxy: bool = False
    allowed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ServiceError("--tls-cert and --tls-key come together")
        for file in (self.tls_cert, self.tls_key):
            if file is not None and not os.access(file, os.R_OK):
                raise ServiceError(f"{file}: cannot be read; give the PEM file of the certificate and of its key")
        if not (self.is_loopback or self.tls_cert or self.behind_proxy):
            raise ServiceError(
                f"{self.host} can be reached from elsewhere, where tokens must not go in the clear: give --tls-cert and "
                "--tls-key, or --behind-proxy where a proxy ends TLS"
            )

    @property
    def is_loopback(self) -> bool:
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def url(self) -> str:
        """What one types to get there."""
        name = "localhost" if self.host in EVERYWHERE else self.host
        host = f"[{name}]" if ":" in name else name
        return f"{'https' if self.tls_cert else 'http'}://{host}:{self.port}"

    @property
    def front(self) -> Front:
        """A name that is not given is refused, or a page of another site could come in by its own."""
        own = () if self.host in EVERYWHERE else (self.host,)
        return Front((*LOOPBACK, *own, *self.allowed), tls=self.tls_cert is not None or self.behind_proxy)


def serve(settings: Settings, address: Address, workers: int, log_format: str, tell: Callable[[str], None]) -> None:
    """Until SIGTERM or SIGINT. `tell` is told what a person should know. Raises `ServiceError`."""
    for folder in (settings.data, settings.work_folder):
        _made(folder)
    with _alone(settings.data), _listening(address) as listener, _told_to_end() as signals:
        services = open_services(settings, address.front)
        services.blobs.check()
        services.db.upgrade()
        link = first_start(services.people, settings.data, address.url)
        crew = Crew([*WORKER, "--log-format", log_format], environment_of(settings, os.environ), workers)
        threading.Thread(target=_collect, args=(services,), name="collect", daemon=True).start()
        crew.start()
        tell(f"nas is at {address.url}")
        if link:
            tell(f"log in with this link, once and within ten minutes: {link}")
        try:
            _answer(make_app(services), address, listener, signals, at_end=(services.closing.set, crew.stop))
        finally:
            crew.stop()
            crew.join()
            services.db.close()


def first_start(people: People, data: Path, url: str) -> str:
    """Where nobody has a token yet: make the user who runs this an admin, leave a token of his in `data`, and return a link
    that lets a browser in, once."""
    if people.tokens():
        return ""
    users = people.all()
    user = users[0] if users else people.add(_own_name(), admin=True)
    _, secret = people.issue(user, SCOPES, "made by nas serve for the commands on this machine")
    descriptor = os.open(data / "token", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        os.fchmod(descriptor, 0o600)
        file.write(secret + "\n")
    return login_link(people, user, url)


def login_link(people: People, user: User, url: str) -> str:
    """An address at which a browser is logged in as the user, once and within ten minutes."""
    return f"{url}/login?code={people.login_code(user)}"


def _answer(
    app: FastAPI,
    address: Address,
    listener: socket.socket,
    signals: Sequence[int],
    at_end: Sequence[Callable[[], None]],
) -> None:
    """Answer requests until a signal has come; then call `at_end`, and let the requests that are under way end."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=address.behind_proxy,
        forwarded_allow_ips="*",
        ssl_certfile=address.tls_cert,
        ssl_keyfile=address.tls_key,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        backlog=BACKLOG,
    )
    server = uvicorn.Server(config)
    # In a thread of its own, so that signals come to this one, and streams and workers hear of the end at once.
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="answer")
    _raise_limit()
    gc.collect()
    gc.freeze()
    thread.start()
    while thread.is_alive() and not signals:
        thread.join(LOOK_S)
    LOG.info("ending, as %s", signal.Signals(signals[0]).name if signals else "it has stopped to answer")
    for call in at_end:
        call()
    server.should_exit = True
    thread.join()


@contextmanager
def _told_to_end() -> Iterator[list[int]]:
    """Gets every SIGTERM and SIGINT. Not an `Event`: a signal can come while its lock is held, also by the signal before."""
    signals: list[int] = []

    def told(number: int, frame: Any) -> None:
        signals.append(number)

    before = {number: signal.signal(number, told) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _alone(data: Path) -> Iterator[None]:
    """Hold the folder: two servers in it would make two sets of workers and collect each other's files."""
    with (data / "serve.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ServiceError(f"{data}: another `nas serve` has it; stop that one, or give another --data") from error
        yield


@contextmanager
def _listening(address: Address) -> Iterator[socket.socket]:
    """The socket that requests come to; those that come before they can be answered wait in it."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ServiceError(f"{address.host}: is no address of this machine ({error.strerror})") from error
    family, kind, protocol, _, place = found[0]
    # With its protocol named: asyncio then sends answers at once, which otherwise take 44 ms.
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(place)
            listener.listen(BACKLOG)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            why = (
                "is in use; stop what uses it, or give another --port"
                if taken
                else f"cannot be used ({error.strerror})"
            )
            raise ServiceError(f"{address.host}:{address.port} {why}") from error
        yield listener


def _collect(services: Services) -> None:
    """Remove what nothing refers to, once an hour."""
    while not services.closing.wait(COLLECT_S):
        try:
            found = collect(services.db, services.blobs, services.settings.grace_s)
            LOG.info("collected %d files, %d bytes", found.files, found.bytes)
        except ServiceError as error:
            LOG.warning("nothing was collected: %s", error)


def _made(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ServiceError(f"{folder}: cannot be made ({error.strerror}); give another --data") from error


def _own_name() -> str:
    """Of whoever runs this, as a user of the service can be called."""
    try:
        found = getpass.getuser()
    except (KeyError, OSError):  # no name here, as in a container
        found = ""
    return re.sub(r"[^A-Za-z0-9._-]", "", found).lstrip("._-")[:64] or "admin"


def _raise_limit() -> None:
    """Each connection is an open file, and some systems allow 1,024 at first."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
