"""How long the service takes to answer, as somebody feels who does not wait for others' answers before asking.

A process of its own asks `nas serve` at times drawn beforehand (a Poisson process), whether or not earlier answers have come,
and counts from the time that was drawn; one request in ten writes. In turn: on a machine that is otherwise idle; while as
many processes as there are cores compute at the niceness of jobs; and while a worker searches.

    python benchmarks/api_latency.py --seconds 60 [--postgres]

All of it stays on this machine. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nas.client import Client
from nas.service.orders import NICENESS

CONNECTIONS = 32
FRESH_S = 10.0
"""A connection that was idle for longer is not used again: the server may be closing it."""
WRITES = 0.1
JOBS = 200
"""There before the measurement begins."""
TIMEOUT_S = 30.0
SPEC = {
    "kind": "run",
    "job": {"name": "load", "data": {"kind": "digits"}, "space": {"family": "tiny"}, "devices": [{"name": "cpu_t1"}]},
}
NAS = "from nas.cli import main; main()"


@dataclass
class Seen:
    """Milliseconds by kind of request, and how the requests ended."""

    latencies_ms: dict[str, list[float]] = field(default_factory=lambda: {"read": [], "write": []})
    errors: Counter[str] = field(default_factory=Counter)

    def summary(self) -> dict[str, object]:
        every = [each for kind in self.latencies_ms.values() for each in kind]
        return {
            "requests": len(every),
            "errors": dict(self.errors),
            **{kind: _percentiles(values) for kind, values in (("all", every), *self.latencies_ms.items())},
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each measurement")
    parser.add_argument(
        "--rate", type=float, default=200.0, help="requests a second on the idle machine; half under load"
    )
    parser.add_argument("--port", type=int, default=8923)
    parser.add_argument("--no-search", action="store_true", help="leave the search out")
    parser.add_argument("--postgres", action="store_true", help="on a PostgreSQL of its own in place of SQLite")
    asked = parser.parse_args()
    found: dict[str, object] = {"cores": len(os.sched_getaffinity(0)), "seconds": asked.seconds}
    with tempfile.TemporaryDirectory(prefix="nas-load-") as folder:
        with database(asked.postgres) as rows, served(Path(folder) / "idle", asked.port, 0, rows) as (url, token):
            ids = prepared(url, token)
            measured(url, token, ids, asked.rate, 3.0)  # caches, first connections
            found["idle"] = told("idle", measured(url, token, ids, asked.rate, asked.seconds))
            with busy():
                found["busy"] = told("busy", measured(url, token, ids, asked.rate / 2, asked.seconds))
        if not asked.no_search:
            with database(asked.postgres) as rows, served(Path(folder) / "search", asked.port, 1, rows) as (url, token):
                ids = prepared(url, token, 20, cancel=True)
                with searching(url, token):
                    found["search"] = told("search", measured(url, token, ids, asked.rate / 2, asked.seconds))
    print(json.dumps(found))


def measured(url: str, token: str, ids: list[str], rate: float, seconds: float) -> dict[str, object]:
    """Ask from another process, and what it saw."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_generate, args=(sender, url, token, ids, rate, seconds))
    process.start()
    found = receiver.recv()
    process.join()
    return {"rate": rate, **found}


def _generate(sender, url: str, token: str, ids: list[str], rate: float, seconds: float) -> None:
    sender.send(asyncio.run(Load(url, token, ids).run(rate, seconds)).summary())


class Load:
    """Asks at drawn times over a few connections."""

    def __init__(self, url: str, token: str, ids: list[str]) -> None:
        self._host, _, port = url.removeprefix("http://").partition(":")
        self._port = int(port)
        self._token = token
        self._ids = ids
        self._chance = random.Random(1)
        self._idle: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._submitted: list[str] = []
        self._limit = asyncio.Semaphore(CONNECTIONS)
        self.seen = Seen()

    async def run(self, rate: float, seconds: float) -> Seen:
        loop = asyncio.get_running_loop()
        begun_s, due_s, tasks = loop.time(), 0.0, []
        while due_s < seconds:
            await asyncio.sleep(max(0.0, begun_s + due_s - loop.time()))
            tasks.append(asyncio.create_task(self._one(begun_s + due_s)))
            due_s += self._chance.expovariate(rate)
        await asyncio.gather(*tasks)
        return self.seen

    async def _one(self, due_s: float) -> None:
        kind = "write" if self._chance.random() < WRITES else "read"
        method, path, body = self._write() if kind == "write" else ("GET", self._read(), b"")
        try:
            async with asyncio.timeout(TIMEOUT_S), self._limit:
                status, answer = await self._ask(method, path, body)
        except (OSError, EOFError, TimeoutError, asyncio.IncompleteReadError) as error:
            self.seen.errors[type(error).__name__] += 1
            return
        self.seen.latencies_ms[kind].append(1e3 * (asyncio.get_running_loop().time() - due_s))
        if status >= 400:
            self.seen.errors[str(status)] += 1
        elif method == "POST" and path == "/v1/jobs":
            self._submitted.append(json.loads(answer)["id"])

    def _read(self) -> str:
        job_id = self._chance.choice(self._ids)
        paths = (
            f"/v1/jobs/{job_id}",
            "/v1/jobs?limit=20",
            f"/v1/jobs/{job_id}/events",
            "/v1/me",
            f"/v1/jobs/{job_id}/artefacts",
        )
        return self._chance.choices(paths, (4, 3, 1, 1, 1))[0]

    def _write(self) -> tuple[str, str, bytes]:
        """A submission or the end of one, in turn: nothing piles up."""
        if self._submitted:
            return "POST", f"/v1/jobs/{self._submitted.pop()}/cancel", b""
        return "POST", "/v1/jobs", json.dumps(SPEC).encode()

    async def _ask(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        reader, writer = await self._connection()
        head = [
            f"{method} {path} HTTP/1.1",
            f"Host: {self._host}",
            f"Authorization: Bearer {self._token}",
            "Accept: application/json",
            f"Content-Length: {len(body)}",
            "Content-Type: application/json",
            f"Idempotency-Key: {self._chance.getrandbits(64):x}",
        ]
        writer.write("\r\n".join([*head, "", ""]).encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        lengths = [line.partition(":")[2] for line in answer.split("\r\n") if line.startswith("content-length:")]
        text = await reader.readexactly(int(lengths[0]))
        self._idle.append((asyncio.get_running_loop().time(), reader, writer))
        return int(answer.split(" ", 2)[1]), text

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The one that was used last, or a new one."""
        if self._idle:
            used_s, reader, writer = self._idle.pop()
            if asyncio.get_running_loop().time() - used_s < FRESH_S:
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self._host, self._port)


@contextmanager
def database(is_postgres: bool) -> Iterator[str]:
    """The URL of an empty one; empty where it is the service's own file."""
    if not is_postgres:
        yield ""
        return
    from service_stores import postgres, url_of

    with postgres() as server:
        yield url_of(server)


@contextmanager
def served(data: Path, port: int, workers: int, database: str) -> Iterator[tuple[str, str]]:
    """A service, its address and its token."""
    environment = {**os.environ, "NAS_DATABASE": database, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", NAS, "serve", "--data", str(data), "--port", str(port), "--workers", str(workers)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        if "nas is at" not in process.stdout.readline():
            raise SystemExit("nas serve did not start")
        yield f"http://127.0.0.1:{port}", (data / "token").read_text().strip()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def prepared(url: str, token: str, count: int = JOBS, cancel: bool = False) -> list[str]:
    """Jobs to look at."""
    with Client(url, token) as client:
        ids = [client.submit(SPEC)["id"] for _ in range(count)]
        for job_id in ids if cancel else ():
            client.cancel(job_id)
    return ids


@contextmanager
def busy() -> Iterator[None]:
    """All cores compute, as they do for a search."""
    processes = [multiprocessing.Process(target=_spin, daemon=True) for _ in range(len(os.sched_getaffinity(0)))]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _spin() -> None:
    os.nice(NICENESS["search"])
    while True:
        sum(range(10_000))


@contextmanager
def searching(url: str, token: str) -> Iterator[None]:
    """A job that searches until it is cancelled."""
    search = {"evaluations": 100_000, "controls": False, "population": 32}
    profile = {"networks": 12, "budget_s": 5}
    train = {"epochs": 1}
    job = {**SPEC["job"], "search": search, "profile": profile, "train": train}  # type: ignore[dict-item]
    with Client(url, token) as client:
        job_id = client.submit({"kind": "run", "job": job, "priority": 100})["id"]
        for event in client.watch(job_id):
            if event.last:
                raise SystemExit(f"the search ended: {client.job(job_id)['error']}")
            if event.kind == "volume":
                break
        yield
        client.cancel(job_id)
        client.wait(job_id)


def told(name: str, found: dict[str, object]) -> dict[str, object]:
    print(f"{name}: {json.dumps(found)}", file=sys.stderr)
    return found


def _percentiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    return {"p50_ms": round(p50, 2), "p95_ms": round(p95, 2), "p99_ms": round(p99, 2), "max_ms": round(max(values), 2)}


if __name__ == "__main__":
    main()
