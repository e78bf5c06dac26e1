"""A real service under test: `nas serve`, started again whenever it dies, as systemd would, and small jobs for it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import NullPool, create_engine, text

from nas.client import Client
from nas.service.orphans import descendants, processes

Json = Any

MAIN = "from nas.cli import main; main()"

LITTLE = {
    "name": "base",
    "data": {"kind": "digits", "channels": 1, "validation_fraction": 0.5},
    "space": {
        "family": "tiny",
        "resolutions": [4, 8],
        "stem": 8,
        "channels": [32],
        "strides": [2],
        "widths": [0.5, 1.0],
        "depths": [1, 2],
        "expands": [0.5, 1.0],
        "kernels": [1, 3],
    },
    "train": {"epochs": 2, "batch": 64, "layout": "fp32", "augment": {"mirror": False}, "threads": 1},
    "devices": [{"name": "one"}, {"name": "four", "batch": 4, "agent": "board"}],
    "profile": {"networks": 14, "budget_s": 1.0, "precision": 0.1},
    "search": {"evaluations": 8},
}

# What searches of one supernet may ask for; each has a front of its own.
VARIANTS: tuple[Mapping[str, Json], ...] = (
    {"search.evaluations": 12},
    {"search.evaluations": 16, "search.sampler": "nsga2", "search.population": 4},
    {"search.evaluations": 10, "search.seeds": 2, "search.controls": False},
    {"search.evaluations": 14, "search.constraints": ["macs <= 40K"]},
    {"search.evaluations": 12, "search.objectives": ["accuracy", "macs"]},
    {"search.evaluations": 12, "search.first_images": 100},
    {"search.evaluations": 20, "search.sampler": "random"},
    {"search.evaluations": 12, "search.measure_front": True},
)


class Rig:
    """`start` it; `processes` tells what runs below it, by kind; `halt` and `resume` stop and go on with restarting it.

    `apart`: its workers are none of the server's, but `nas worker` with folders of their own, as on other machines.
    """

    def __init__(
        self,
        folder: Path,
        *,
        workers: int = 2,
        apart: bool = False,
        database: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.data = folder / "data"
        self.database = database or f"sqlite:///{self.data / 'nas.sqlite'}"
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "serve.log"
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.workers = workers
        self.apart = apart
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", "NAS_EVALUATORS": "1", **(environment or {})}
        if database:
            self.environment["NAS_DATABASE"] = database
        self.starts = 0
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._running = threading.Event()
        self._ended = threading.Event()

    def start(self) -> None:
        self._running.set()
        command = [sys.executable, "-c", MAIN, "serve", "--data", str(self.data), "--port", str(self.port)]
        self._keep("serve", [*command, "--workers", "0" if self.apart else str(self.workers)])
        for name in [f"worker-{n}" for n in range(self.workers)] if self.apart else ():
            self._keep(name, [sys.executable, "-c", MAIN, "worker", "--data", str(self.data.parent / name)])
        self.wait_ready()

    def start_agent(self) -> None:
        """This machine, enrolled as `board`."""
        client = self.client()
        code = client.enrol("board")["code"]
        command = [sys.executable, "-c", MAIN, "agent", "--server", self.url, "--dir", str(self.data.parent / "agent")]
        self._keep("agent", [*command, "--enrol", code])
        while not any(device["online"] for device in client.devices()):
            time.sleep(0.1)

    def wait_ready(self, within_s: float = 60.0) -> None:
        """Until a worker is there."""
        end = time.monotonic() + within_s
        while True:
            try:
                if httpx.get(f"{self.url}/readyz", timeout=5.0).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            if time.monotonic() > end:
                raise SystemExit(f"the service is not ready after {within_s:g} s; see {self.log}")
            time.sleep(0.1)

    def client(self, patience_s: float = 300.0) -> Client:
        return Client(self.url, (self.data / "token").read_text().strip(), patience_s=patience_s)

    def halt(self) -> None:
        """SIGTERM, and no restart."""
        self._running.clear()
        for process in self._processes.values():
            if process.poll() is None:
                process.terminate()
                process.wait(60)

    def resume(self) -> None:
        self._running.set()
        self.wait_ready()

    def stop(self) -> None:
        self._ended.set()
        self.halt()

    def processes(self) -> dict[str, list[int]]:
        """What runs below this process, by kind."""
        there, found = processes(), dict[str, list[int]]()
        mine = descendants(os.getpid()) & there.keys()
        keepers = {pid for pid in mine if b"nas.service.keeper" in _command(pid)}
        for pid in sorted(mine):
            command = _command(pid)
            if b"raylet" in command or b"gcs_server" in command or command.startswith(b"ray::"):
                kind = "ray"
            elif b"nas.service.keeper" in command:
                kind = "step" if there[pid].parent in keepers else "keeper"
            elif b" serve " in command:
                kind = "server"
            elif b" worker " in command:
                kind = "worker"
            elif b" agent " in command:
                kind = "agent"
            else:
                continue
            found.setdefault(kind, []).append(pid)
        return found

    def rows(self, query: str) -> list[Any]:
        """Of the service's database."""
        engine = create_engine(self.database, poolclass=NullPool)
        with engine.connect() as connection:
            return list(connection.execute(text(query)))

    def forget_evaluations(self) -> None:
        """So that jobs evaluate again what the ones before them evaluated."""
        engine = create_engine(self.database, poolclass=NullPool)
        with engine.begin() as connection:
            connection.execute(text("DELETE FROM evaluations"))

    def _keep(self, name: str, command: list[str]) -> None:
        threading.Thread(target=self._run, args=(name, command), daemon=True).start()

    def _run(self, name: str, command: list[str]) -> None:
        """Again and again."""
        while not self._ended.is_set():
            if self._running.is_set():
                with self.log.open("ab") as log:
                    self._processes[name] = subprocess.Popen(command, stdout=log, stderr=log, env=self.environment)
                self.starts += name == "serve"
                self._processes[name].wait()
            time.sleep(0.2)


def kill(pid: int) -> bool:
    """-9; whether it was there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def fronts_of(job: Mapping[str, Json]) -> str:
    """What a search found, as text to compare: everything but what was measured."""
    return json.dumps(
        {
            device["name"]: [
                [row["arch_id"], row["val_accuracy"], row["latency_ms_predicted"]] for row in device["front"]
            ]
            for device in job["result"]["devices"]
        }
    )


def wait_all(client: Client, ids: Sequence[str], within_s: float) -> dict[str, Json]:
    """Every job when it has ended; what had not is missing."""
    end, found = time.monotonic() + within_s, dict[str, Json]()
    while len(found) < len(ids) and time.monotonic() < end:
        for job_id in ids:
            if job_id not in found:
                job = client.job(job_id)
                if job["state"] in ("SUCCEEDED", "FAILED", "CANCELLED"):
                    found[job_id] = job
        time.sleep(0.5)
    return found


def leftovers(pids: Sequence[int]) -> Iterator[int]:
    """Those that still run."""
    return (pid for pid in pids if _command(pid))


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return b""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
