"""`nas serve`: started, asked, told to end, killed; by TLS, behind a proxy, with workers that die."""

import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from nas.api.app import make_app
from nas.api.logs import FORMATS
from nas.api.server import Address, _answer, _collect, _listening, first_start
from nas.client import Client
from nas.connection import ClientError
from nas.database import Database
from nas.service.crew import PARENT, Crew, environment_of
from nas.service.errors import ServiceError
from nas.service.people import SCOPES, People
from nas.service.settings import Settings
from tests.nas.api.hosted import free_port, opened
from tests.nas.conftest import commanded

pytest_plugins = ["tests.nas.api.alone"]

ROOT = Path(__file__).parents[3]
WAIT_S = 60.0
NAS = (sys.executable, "-c", "from nas.cli import main; main()")
STUBBORN = """
import pathlib, signal, time
signal.signal(signal.SIGTERM, lambda *_: None)
pathlib.Path("up").touch()
time.sleep(99)
"""


def waited(ready, what: str):
    """What `ready` gives, once it gives something."""
    until_s = time.monotonic() + WAIT_S
    while time.monotonic() < until_s:
        found = ready()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what} did not come")


@contextmanager
def serving(data: Path, *options: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """`nas serve`, once it answers; its address and the rest of what it said."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NAS_")} | {
        "OMP_NUM_THREADS": "1"
    }
    command = [*NAS, "serve", "--data", str(data), "--port", str(port), *options]
    with log_of(data).open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    with process:
        try:
            url = process.stdout.readline().removeprefix("nas is at ").strip()
            assert url == f"http://127.0.0.1:{port}", log_of(data).read_text()
            yield process, url
        finally:
            process.kill()


def log_of(data: Path) -> Path:
    """What the service in a folder says on standard error."""
    return data.with_suffix(".log")


def processes_of(data: Path) -> list[int]:
    """The processes that work for a service: their environment names its folder."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"NAS_DATA={data}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def test_a_service_is_started_used_and_ended(alone):
    data = alone / "data"
    with serving(data) as (server, url):
        link = server.stdout.readline()
        assert re.fullmatch(rf"log in .*: {url}/login\?code=nas_[\w-]{{43}}\n", link)
        token = (data / "token").read_text().strip()
        assert (data / "token").stat().st_mode & 0o777 == 0o600
        waited(lambda: httpx.get(f"{url}/readyz", trust_env=False).status_code == 200, "a worker")
        headers = {"Authorization": f"Bearer {token}"}
        assert httpx.get(f"{url}/v1/me", headers=headers, trust_env=False).json()["scopes"] == list(SCOPES)
        listing = Path(f"/proc/{processes_of(data)[0]}/cmdline").read_text()
        assert token not in listing

        command = [*NAS, "serve", "--data", str(data), "--port", str(free_port())]
        again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (again.returncode, again.stdout) == (2, "")
        assert again.stderr.startswith(f"nas: {data}: another `nas serve` has it")

        for _ in range(50):  # in the middle of what the one before does
            server.send_signal(signal.SIGTERM)
        assert server.wait(25) == 0
    assert processes_of(data) == []
    lines = [json.loads(line) for line in log_of(data).read_text().splitlines()]
    requests = [line for line in lines if line["logger"] == "nas.api"]
    assert {"method", "route", "path", "status", "ms", "client"} <= set(requests[0])
    assert token not in json.dumps(lines)


@pytest.mark.slow
def test_its_workers_are_started_again_when_they_die_and_do_not_outlive_it(alone):
    data = alone / "data"
    with serving(data, "--workers", "1") as (server, _):
        first = waited(lambda: workers_of(server.pid), "a worker")
        os.kill(first[0], signal.SIGKILL)
        second = waited(lambda: [pid for pid in workers_of(server.pid) if pid != first[0]], "another worker")
        assert second
        server.kill()
        waited(lambda: not processes_of(data), "the end of the workers")


def workers_of(server: int) -> list[int]:
    """The children of a server that have begun to work."""
    found = [
        int(pid) for task in Path(f"/proc/{server}/task").glob("*") for pid in (task / "children").read_text().split()
    ]
    return [pid for pid in found if b"worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_port_in_use_is_said_in_one_line(alone):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = commanded("serve", "--data", alone / "data", "--port", port)
    assert said.complaint == f"nas: 127.0.0.1:{port} is in use; stop what uses it, or give another --port"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "nas.example"])
def test_another_address_needs_tls_or_a_proxy(alone, host):
    said = commanded("serve", "--data", alone / "data", "--host", host)
    assert "give --tls-cert and --tls-key, or --behind-proxy" in said.complaint
    assert not (alone / "data").exists()
    assert Address(host, behind_proxy=True).front.tls


def test_a_certificate_comes_with_its_key(alone):
    assert "come together" in commanded("serve", "--tls-cert", "x.pem").complaint
    assert "cannot be read" in commanded("serve", "--tls-cert", "x.pem", "--tls-key", "x.key").complaint


def test_it_answers_to_its_own_names_and_those_it_is_given():
    front = Address("10.1.2.3", behind_proxy=True, allowed=("nas.example",)).front
    assert {"localhost", "127.0.0.1", "10.1.2.3", "nas.example"} <= set(front.hosts)
    everywhere = Address("0.0.0.0", behind_proxy=True)
    assert "0.0.0.0" not in everywhere.front.hosts
    assert everywhere.url == "http://localhost:8023"


def test_it_answers_by_tls_and_clients_see_to_it_that_it_does(alone):
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl, to make a certificate")
    cert, key = alone / "cert.pem", alone / "key.pem"
    kind = "-x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=nas -addext subjectAltName=IP:127.0.0.1"
    command = ["openssl", "req", *kind.split(), "-keyout", key, "-out", cert]
    subprocess.run(command, check=True, capture_output=True)
    address = Address(port=free_port(), tls_cert=cert, tls_key=key)
    services, signals = opened(alone / "data", address.front), []
    _, secret = services.people.issue(services.people.add("ada"), ("jobs",))
    with _listening(address) as listener:
        thread = threading.Thread(target=_answer, args=(make_app(services), address, listener, signals, ()))
        thread.start()
        try:
            assert address.url.startswith("https://")
            with Client(address.url, secret, ca=cert) as client:
                assert client.me()["name"] == "ada"
            stranger = Client(address.url, secret, patience_s=0)
            with stranger, pytest.raises(ClientError, match="cannot be reached"):
                stranger.me()
        finally:
            signals.append(signal.SIGTERM)
            thread.join()
    services.db.close()


def test_what_nothing_refers_to_is_collected_meanwhile(alone, monkeypatch):
    monkeypatch.setattr("nas.api.server.COLLECT_S", 0.01)
    services = opened(alone / "data")
    services = replace(services, settings=replace(services.settings, grace_s=0.0))
    blob = services.blobs.put(b"nobody's")
    thread = threading.Thread(target=_collect, args=(services,))
    thread.start()
    waited(lambda: not services.blobs.exists(blob.sha256), "the collector")
    services.closing.set()
    thread.join()
    services.db.close()


def test_behind_a_proxy_it_is_the_client_that_is_counted_and_logged(alone, caplog):
    address = Address(port=free_port(), behind_proxy=True)
    services, signals = opened(alone / "data", address.front), []
    with _listening(address) as listener, caplog.at_level("INFO", "nas.api"):
        thread = threading.Thread(target=_answer, args=(make_app(services), address, listener, signals, ()))
        thread.start()
        headers = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}
        assert httpx.get(f"{address.url}/healthz", headers=headers, trust_env=False).status_code == 200
        signals.append(signal.SIGTERM)
        thread.join()
    services.db.close()
    requests = [record.said for record in caplog.records if record.name == "nas.api"]
    assert [said["client"] for said in requests] == ["192.0.2.7"]


def test_the_first_start_makes_an_admin_and_a_token_once(alone):
    with Database(alone / "nas.sqlite") as db:
        db.upgrade()
        people = People(db)
        link = first_start(people, alone, "http://127.0.0.1:8023")
        assert link.startswith("http://127.0.0.1:8023/login?code=nas_")
        (user,) = people.all()
        assert user.admin
        assert people.holder((alone / "token").read_text().strip()).user_id == user.id
        assert first_start(people, alone, "http://127.0.0.1:8023") == ""
        assert len(people.tokens()) == 1


# Workers of a server


def test_the_settings_reach_a_worker_and_secrets_do_not_stand_in_its_command(alone):
    settings = Settings(
        data=alone, database="postgresql://nas:secret@db/nas", datasets={"photos": "/srv"}, lease_s=60.0
    )
    environment = environment_of(settings, {"PATH": "/bin", "NAS_TOKEN": "nas_x", "NAS_DATA": "old"})
    assert Settings.of(environment) == settings
    assert environment["PATH"] == "/bin"
    assert "NAS_TOKEN" not in environment


def test_a_crew_ends_when_it_is_told_and_kills_who_does_not(alone, monkeypatch):
    monkeypatch.setattr("nas.service.crew.STOP_S", 0.5)
    monkeypatch.setattr("nas.service.crew.LOOK_S", 0.02)
    crew = Crew([sys.executable, "-c", STUBBORN], dict(os.environ), 1)
    crew.start()
    waited(lambda: (alone / "up").exists(), "the worker")
    crew.stop()
    crew.join()


def test_a_worker_whose_server_is_gone_does_not_begin(alone, monkeypatch):
    monkeypatch.setenv(PARENT, "1")
    monkeypatch.setattr("nas.service.crew.sys.platform", "other")
    assert "is gone" in commanded("worker", "--data", alone).complaint


def test_logs_are_json_or_lines():
    record = logging.LogRecord("nas.api", logging.WARNING, "file", 1, "job %s: %s", ("j1", "gone\nnow"), None)
    record.job = "j1"
    said = json.loads(FORMATS["json"]().format(record))
    assert (said["level"], said["message"], said["job"]) == ("warning", "job j1: gone\nnow", "j1")
    assert FORMATS["text"]().format(record).endswith("WARNING job j1: gone\nnow")


def test_a_wrong_address_is_refused_where_it_is_made():
    with pytest.raises(ServiceError, match="come together"):
        Address(tls_key=Path("x"))
