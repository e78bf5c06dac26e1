"""A farm of agents over HTTP: how many tasks a second one server hands out and takes back, and how soon.

    python benchmarks/farm.py [--machines 50] [--tasks 300]

The server, its routes and the agents with their spools are the real ones, on this machine; only the measurements are made up: a
few rounds of a few graphs at once. So what is timed is all but the measuring. The server runs in its own process, the agents
are threads of this one. Prints JSON last: tasks a second, and seconds from a task's submission to its start and to its end
(by the database's clock; all are submitted at once, so most of it is waiting for the machine).
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from ratio import print_result

from latency_tables.device import Device, Fingerprint
from latency_tables.measuring.measure import Protocol
from latency_tables.measuring.measurement import Measurement, Round
from latency_tables.offers import Offers
from nas.agent.agent import Agent, enrol
from nas.agent.bench import measure_work
from nas.agent.models import Models
from nas.agent.spool import Spool, Work
from nas.agent.transport import Http
from nas.agent.wire import About, GraphRef
from nas.database import Database
from nas.service.blobs import Blobs
from nas.service.farm import Farm
from nas.service.jobs import JobStore, Submission
from nas.service.leases import Lease
from nas.service.people import People
from nas.service.schema import new_id
from nas.service.schema import tasks as rows
from nas.service.settings import Settings
from nas.service.wanted import Wanted

HERE = Fingerprint("made up", "none", 4, 4, "none", "1.0")
ABOUT = About(HERE, Offers((Device("cpu_t1"),), ()), {"measuring": "2"})
GRAPHS, ROUNDS, SAMPLES = 5, 8, 20
MODEL_BYTES = 200_000
SERVER = """
import sys, uvicorn
from pathlib import Path
from nas.api.app import make_app, open_services
from nas.service.settings import Settings
uvicorn.run(make_app(open_services(Settings(Path(sys.argv[1])))), port=int(sys.argv[2]), log_level="error", access_log=False)
"""


class MadeUp:
    """A machine on which measuring takes no time."""

    def fingerprint(self) -> Fingerprint:
        return HERE

    def held(self, on_wait: Any = None) -> Any:
        return nullcontext()

    def measure(self, graphs: Sequence[Any], device: Device, *, on_round: Any, **_: Any) -> dict[str, Measurement]:
        found: dict[str, Measurement] = {}
        for number in range(1, ROUNDS + 1):
            rounds = [Round((random.uniform(1, 9),) * SAMPLES, 100.0, 1.0)] * number
            marks: Any = [(value,) * number for value in ("", True)]
            found = {
                each.key: Measurement(each.key, tuple(rounds), *marks, 100.0, "precision", False) for each in graphs
            }
            on_round(number, ROUNDS, found)
        return found


class Done:
    def ended(self) -> str:
        return "ended with status 0"

    def stop(self) -> None:
        pass


class AtOnce:
    """Measures in the thread of the agent."""

    def start(self, work: Work, models: Models) -> Done:
        measure_work(work, models, MadeUp())  # type: ignore[arg-type]
        return Done()


@contextmanager
def serving(data: Path) -> Iterator[str]:
    """The URL of a server of this folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(data), str(port)])
    try:
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/healthz").raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()  # it would wait for the machines that wait for tasks
        server.wait()


def begin(folder: Path, code: str, url: str, stop: threading.Event) -> threading.Thread:
    """A thread with the agent of a new machine."""
    spool = Spool(folder)
    enrol(spool, Http(url), code, ABOUT)
    link = Http(url, spool.token)
    agent = Agent(spool, Models(spool.folder / "models"), link, AtOnce(), ABOUT, lambda line: None)

    def work() -> None:
        while not stop.is_set():
            stop.wait(agent.step())

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def submit(farm: Farm, blobs: Blobs, lease: Lease, names: Sequence[str], count: int) -> None:
    """The tasks, in turn to all machines; every graph has a model of its own."""
    for number in range(count):
        graphs = []
        for key in range(GRAPHS):
            model = f"{number} {key} ".encode().ljust(MODEL_BYTES, b"x")
            graphs.append(GraphRef(str(key), blobs.put(model).sha256, len(model)))
            assert graphs[-1].sha256 == sha256(model).hexdigest()
        wanted = Wanted(names[number % len(names)], Device("made-up"), Protocol(seed=number), HERE.id, tuple(graphs))
        farm.tasks.submit(lease, wanted, lambda connection: None)


def ended(db: Database) -> Mapping[str, list[float]]:
    """Seconds from submission to start and to end, of the tasks that have ended well."""
    query = rows.select().with_only_columns(rows.c.created_s, rows.c.started_s, rows.c.finished_s)
    found = db.read(lambda connection: connection.execute(query.where(rows.c.state == "SUCCEEDED")).all())
    return {"start": [row[1] - row[0] for row in found], "end": [row[2] - row[0] for row in found]}


def run(root: Path, machines: int, count: int) -> dict[str, Any]:
    settings = Settings(root / "data")
    settings.data.mkdir()
    stop = threading.Event()
    with Database(settings.database_url) as db:
        db.upgrade()
        user = People(db).add("bench")
        jobs, farm = JobStore(db), Farm(db)
        jobs.submit(Submission(new_id("j"), user.id, "bench", "profile", {}))
        claimed = jobs.claim("bench", 1e6)
        assert claimed is not None
        names = [f"machine{number}" for number in range(machines)]
        with serving(settings.data) as url:
            threads = [begin(root / name, farm.enrolment(name, user.id)[0], url, stop) for name in names]
            start = time.perf_counter()
            submit(farm, Blobs(settings.blobs_url), claimed[1], names, count)
            submitted_s = time.perf_counter() - start
            while len(ended(db)["end"]) < count:
                time.sleep(0.25)
            seconds = time.perf_counter() - start
            found = ended(db)
            stop.set()
        for thread in threads:
            thread.join()
    spread = {f"{what}_s": np.percentile(values, [50, 95]).round(2).tolist() for what, values in found.items()}
    return {
        "seconds": round(seconds, 1),
        "submitting_s": round(submitted_s, 1),
        "tasks_per_s": round(count / seconds, 1),
        **spread,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", type=int, default=50)
    parser.add_argument("--tasks", type=int, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), options.machines, options.tasks)
    print_result("farm", {**vars(options), "cores": os.cpu_count(), **found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
