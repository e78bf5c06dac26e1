"""A service in parts, as on several machines: a server without workers, and two workers with folders of their own.

They share a database and a bucket. A worker dies in the middle of a search, and nobody can tell from what comes out.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_digits
from sqlalchemy import select, text

from nas.client import Client
from nas.database import Database
from nas.service.backup import backup, restore
from nas.service.blobs import Blobs
from nas.service.garbage import collect
from nas.service.jobs import JobStore
from nas.service.schema import artefacts
from nas.service.settings import Settings
from tests.nas.api.hosted import free_port
from tests.nas.conftest import commanded
from tests.nas.fakes import LITTLE

pytest_plugins = ["tests.nas.searching.postgres", "tests.nas.service.buckets", "tests.nas.api.alone"]

SOON_S = 120.0
MAIN = "from nas.cli import main; main()"
JOB = {
    **LITTLE,
    "data": {"kind": "folder", "path": "images", "channels": 1, "validation_fraction": 0.5},
    "space": {**LITTLE["space"], "resolutions": [8, 16], "channels": [64]},
    "devices": [{"name": "one"}],
    "search": {"evaluations": 48, "controls": False},
}


class Parts:
    """Each part has a folder of its own, as its own machine would."""

    def __init__(self, root: Path, database: str, bucket: str) -> None:
        self.root = root
        self.settings = Settings(root / "here", database=database, blobs=bucket)
        self.port = free_port()
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: str) -> None:
        """A process of `nas`, and its log beside its folder."""
        home = self.root / name
        (home / "tmp").mkdir(parents=True, exist_ok=True)
        own = {
            "NAS_DATA": str(home / "data"),
            "TMPDIR": str(home / "tmp"),
            "NAS_EVALUATORS": "1",
            "OMP_NUM_THREADS": "1",
        }
        shared = {"NAS_DATABASE": self.settings.database, "NAS_BLOBS": self.settings.blobs}
        short = {"NAS_LEASE_S": "4", "NAS_RENEW_S": "0.5"}
        with (self.root / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-c", MAIN, *command],
                env={**os.environ, **own, **shared, **short},
                stdout=log,
                stderr=log,
            )

    def stop(self) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            process.wait(SOON_S)

    def ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def client(self) -> Client:
        return Client(f"http://127.0.0.1:{self.port}", (self.root / "server/data/token").read_text().strip())

    def left(self, name: str) -> list[Path]:
        """What a worker has of jobs and of what is on its way; not the images, which later jobs may want."""
        home = self.root / name
        return [*(home / "data/work").glob("j*"), *(home / "tmp").glob("nas-incoming-*/*")]


@pytest.fixture
def parts(tmp_path, postgres, bucket) -> Iterator[Parts]:
    found = Parts(tmp_path, postgres, bucket)
    found.start("server", "serve", "--workers", "0", "--port", str(found.port))
    for name in ("worker-1", "worker-2"):
        found.start(name, "worker")
    try:
        wait_until(found.ready)
        yield found
    finally:
        found.stop()


def wait_until(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + SOON_S
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def write_job(folder: Path, job: Mapping[str, Any]) -> Path:
    """A job whose images are files beside it."""
    digits = load_digits()
    for i in range(500):
        place = folder / "images" / str(digits.target[i])
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[i] * 15).astype("uint8")).save(place / f"{i}.png")
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump(dict(job)))
    return file


def fronts(job: Mapping[str, Any]) -> list[Any]:
    rows = [row for device in job["result"]["devices"] for row in device["front"]]
    return [(row["arch_id"], row["val_accuracy"], row["latency_ms_predicted"]) for row in rows]


@contextmanager
def opened(settings: Settings) -> Iterator[tuple[Database, Blobs]]:
    with Database(settings.database_url) as db:
        yield db, Blobs(settings.blobs_url)


def named(db: Database) -> set[str]:
    """The content of the files of all jobs."""
    return set(db.read(lambda connection: connection.execute(select(artefacts.c.sha256)).scalars().all()))


def evaluated(db: Database) -> int:
    """How many networks."""
    return db.read(lambda connection: connection.execute(text("SELECT count(*) FROM evaluations")).scalar_one())


def killed_in_its_search(parts: Parts, db: Database, job_id: str) -> str:
    """-9 to the worker that has the job, once some networks are evaluated and others are not; which worker that was."""
    wait_until(lambda: evaluated(db) >= 8)
    pid = int(JobStore(db).get(job_id).worker.split(":")[-2])
    os.kill(pid, signal.SIGKILL)
    assert evaluated(db) < JOB["search"]["evaluations"]
    return next(name for name, process in parts.running.items() if process.pid == pid)


@pytest.mark.postgres
def test_a_worker_elsewhere_goes_on_and_ends_with_the_same_front(parts, tmp_path):
    with parts.client() as client, opened(parts.settings) as (db, blobs):
        base = client.wait(client.submit(write_job(tmp_path, JOB))["id"])
        assert base["state"] == "SUCCEEDED", base["error"]
        db.write(lambda connection: connection.execute(text("DELETE FROM evaluations")))
        again = client.submit({"kind": "search", "from": base["id"]})["id"]
        victim = killed_in_its_search(parts, db, again)
        found = client.wait(again)
        assert found["state"] == "SUCCEEDED", found["error"]
        assert found["attempts"] > 1
        assert fronts(found) == fronts(base)
        parts.running[victim].wait()
        parts.start(victim, "worker")
        wait_until(lambda: parts.left("worker-1") == parts.left("worker-2") == [])
        garbage = blobs.put(b"nobody names this")
        collect(db, blobs, grace_s=0.0)
        assert not blobs.exists(garbage.sha256)
        wanted = named(db) | {next(client.uploads())["sha256"]}
        assert {blob.sha256 for blob in blobs.walk()} == wanted
        files = client.fetch(base["id"], tmp_path / "fetched")  # each is compared with its digest
        assert tmp_path / "fetched/models/one-knee/model.onnx" in files
    elsewhere = Settings(tmp_path / "elsewhere")
    elsewhere.data.mkdir()
    backup(parts.settings, tmp_path / "nas.tar")
    assert restore(tmp_path / "nas.tar", elsewhere).jobs == 2
    assert {blob.sha256 for blob in Blobs(elsewhere.blobs_url).walk()} == wanted


@pytest.mark.parametrize("command", [("serve", "--port", free_port()), ("worker",)])
def test_without_its_bucket_nothing_starts_and_one_line_says_why(alone, bucket, command):
    said = commanded(*command, "--data", alone / "data", "--blobs", "s3://none")
    line = "nas: s3://none: the store of files cannot be used (The specified bucket does not exist)"
    assert (said.code, said.out, said.err.splitlines()[-1]) == (1, "", line)
