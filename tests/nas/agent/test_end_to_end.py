"""A real server, a real agent, ONNX Runtime: what is killed on the way is started again, and nothing is lost."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from latency_tables.device import Device
from latency_tables.errors import LatencyError
from latency_tables.measuring.measure import CANARY, Protocol
from latency_tables.measuring.needs import AT_ONCE
from latency_tables.measuring.sessions import Graph
from nas.database import Database
from nas.service.blobs import Blobs
from nas.service.farm import Farm
from nas.service.jobs import JobStore
from nas.service.remote import RemoteMachine
from nas.service.settings import Settings
from tests.nas.service.databases import add_user, submission

SERVER = """
import sys, uvicorn
from pathlib import Path
from nas.api.app import make_app, open_services
from nas.service.settings import Settings
app = make_app(open_services(Settings(Path(sys.argv[1]))))
uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
"""
AGENT = "import typer; from nas.agent_cli import agent; typer.run(agent)"
# 30 rounds whatever comes: about 5 s on an idle machine.
SLOWLY = Protocol(min_rounds=30, max_rounds=30, max_runs=10_000, target_precision=1e-9, visit_ms=60.0, budget_s=90.0)


class Site:
    """A service in a folder with one user and one job, its HTTP server and the agent of one machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.settings = Settings(root / "data")
        self.settings.data.mkdir()
        self.db = Database(self.settings.database_url)
        self.db.upgrade()
        add_user(self.db, "ann")
        jobs = JobStore(self.db)
        jobs.submit(submission())
        _, self.lease = jobs.claim("w", 3600.0)
        self.farm, self.blobs = Farm(self.db), Blobs(self.settings.blobs_url)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.server: subprocess.Popen | None = None
        self.agent: subprocess.Popen | None = None

    def start_server(self) -> None:
        self.server = subprocess.Popen([sys.executable, "-c", SERVER, self.settings.data, str(self.port)])
        deadline = time.monotonic() + 60
        while True:
            try:
                return httpx.get(f"{self.url}/healthz").raise_for_status()
            except httpx.TransportError:
                assert self.server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)

    def start_agent(self, code: str | None = None) -> None:
        given = [] if code is None else ["--enrol", code]
        command = [sys.executable, "-c", AGENT, "--server", self.url, "--dir", self.root / "agent", *given]
        self.agent = subprocess.Popen(command, env={**os.environ, "TMPDIR": str(self.root)})

    def machine(self, name: str = "board") -> RemoteMachine:
        return RemoteMachine(self.db, self.blobs, self.lease, name)

    def close(self) -> None:
        for process in (self.agent, self.server):
            if process is not None:
                process.kill()
                process.wait()
        self.db.close()


@pytest.fixture
def site(tmp_path):
    found = Site(tmp_path)
    try:
        yield found
    finally:
        found.close()


def wait_for(what) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def measuring_processes(root: Path) -> list[str]:
    """Of the agent in this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_text().split("\0")
        except OSError:
            continue
        found += [path.parent.name] if str(root / "agent" / "task") in words else []
    return found


@pytest.mark.slow
def test_measuring_elsewhere_outlives_a_killed_server_and_a_killed_agent(site):
    site.start_server()
    code, _ = site.farm.enrolment("board", "ann")
    site.start_agent(code)
    wait_for(lambda: site.farm.devices() and site.farm.devices()[0].online)
    machine, seen = site.machine(), {}

    def break_things(number, most, found):
        for key, each in found.items():
            assert each.rounds[: len(seen.get(key, ()))] == seen.get(key, ())
            seen[key] = each.rounds
        count = max(map(len, seen.values()))
        if count >= 3 and site.agent.returncode is None and not broken:
            broken.append("agent")
            site.agent.kill()
            site.agent.wait()
            wait_for(lambda: not measuring_processes(site.root))
            site.start_agent()
        elif count >= 8 and len(broken) == 1:
            broken.append("server")
            site.server.kill()
            site.server.wait()
            threading.Timer(2.0, site.start_server).start()

    broken = []
    graphs = [Graph("a", CANARY.read_bytes()), Graph("b", CANARY.with_name("canary_int8.onnx").read_bytes())]
    with machine.held(print):
        found = machine.measure(graphs, Device("here"), protocol=SLOWLY, on_round=break_things)
    assert broken == ["agent", "server"]
    assert list(found) == ["a", "b"]
    for key, each in found.items():
        assert len(each.kept) >= 30
        assert each.rounds[: len(seen[key])] == seen[key]
        assert each.median_us > 0

    again = machine.measure(graphs[:1], Device("here"), protocol=SLOWLY)
    assert again["a"] == found["a"]  # what was measured for the job is not measured twice
    assert machine.check(Device("here"), ["footprint"]) is None
    weighed = machine.measure(graphs[:1], Device("here"), protocol=AT_ONCE, needs=["footprint"])["a"]
    assert weighed.footprint.model_bytes == len(graphs[0].model)
    assert weighed.footprint.load_ms > 0
    with pytest.raises(LatencyError, match=r"machine board: graph 'c' does not load"):
        machine.measure([Graph("c", b"no model")], Device("here"), protocol=SLOWLY)

    site.agent.send_signal(signal.SIGTERM)
    assert site.agent.wait(10) == 0
    canaries = site.farm.device("board").canaries
    assert [each.settings for each in canaries] == ["cpu_t1_fp32_b1"] * 2


@pytest.mark.slow
def test_an_agent_that_is_removed_ends_with_one_line(site, capfd):
    site.start_server()
    code, _ = site.farm.enrolment("board", "ann")
    site.start_agent(code)
    wait_for(lambda: site.farm.devices() and site.farm.devices()[0].online)
    site.farm.revoke("board")
    site.agent.send_signal(signal.SIGTERM)  # it waits for a task, for 25 s at most
    site.agent.wait(20)
    site.start_agent()
    assert site.agent.wait(60) == 2
    assert "nas: this token is unknown, expired or revoked" in capfd.readouterr().err
