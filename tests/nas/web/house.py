"""A service with people in it, and a worker's hands: jobs that are claimed, tell events, leave files and end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI

from latency_tables.device import fingerprint, local_devices
from latency_tables.offers import Offers
from nas.agent.wire import About
from nas.api.app import make_app
from nas.api.services import Front, Services, open_services
from nas.database import Database
from nas.service.jobs import Job, Submission
from nas.service.leases import Lease
from nas.service.people import User
from nas.service.schema import new_id, tasks
from nas.service.settings import Settings
from nas.service.uploads import Upload, Uploads
from nas.web.drafts import example

Json = Any

WORKER = "made-up-worker"
LEASE_S = 600.0


@dataclass
class House:
    """The services of a folder, and an app over them."""

    services: Services
    app: FastAPI
    told: dict[str, int] = field(default_factory=dict)

    @staticmethod
    def at(folder, hosts=("testserver", "127.0.0.1")) -> House:
        folder.mkdir(exist_ok=True)
        settings = Settings(data=folder)
        with Database(settings.database_url) as db:
            db.upgrade()
        services = open_services(settings, Front(hosts=hosts))
        return House(services, make_app(services))

    def person(self, name: str, *, admin: bool = False) -> User:
        return self.services.people.add(name, admin=admin)

    def code(self, user: User) -> str:
        """A login code of a user."""
        return self.services.people.login_code(user)

    def submit(self, user: User, name: str = "digits", kind: str = "run", spec: Json = None, parent=None) -> Job:
        if spec is None:
            spec = {"kind": "run", "job": {**example()["job"], "name": "digits"}}
        job, _ = self.services.jobs.submit(Submission(new_id("j"), user.id, name, kind, spec, parent=parent))
        return job

    def upload(self, user: User, kind: str, name: str, facts: Json) -> Upload:
        """A file of six bytes in which the inspection has found these facts."""
        uploads = Uploads(self.services.db, self.services.blobs, lambda kind, path: facts)
        return uploads.add(user.id, kind, name, [b"a file"])

    def enrol(self, user: User, name: str, refused: tuple[str, ...] = (), **versions: str) -> None:
        """A machine that is like this one."""
        about = About(fingerprint(), Offers(local_devices(), refused), versions)
        self.services.farm.enrol(self.services.farm.enrolment(name, user.id)[0], "0" * 32, about)

    def measured(self, job: Job, agent: str) -> None:
        """Of a job: a machine has measured something for it; without an agent nothing is noted."""
        row = {"id": new_id("t"), "device": agent, "job_id": job.id, "owner": job.owner, "key": new_id("k")}
        ended = {"state": "SUCCEEDED", "payload": {}, "epoch": 1, "attempts": 1, "created_s": 0.0, "finished_s": 1.0}
        if agent:
            self.services.db.write(lambda connection: connection.execute(tasks.insert(), {**row, **ended}))

    def claim(self, job: Job) -> Lease:
        """Take the job, which must be the next in the queue."""
        found = self.services.jobs.claim(WORKER, LEASE_S)
        assert found is not None
        assert found[0].id == job.id
        return found[1]

    def tell(self, lease: Lease, *news: tuple[str, Mapping[str, Json]]) -> None:
        """Append events."""
        n = self.told.get(lease.job_id, 0)
        self.services.events.append(lease, news, n)
        self.told[lease.job_id] = n + len(news)

    def leave(self, lease: Lease, files: Mapping[str, Json]) -> None:
        """Give the job files: bytes as they are, all else as JSON."""
        self.services.artefacts.add(
            lease,
            {path: body if isinstance(body, bytes) else json.dumps(body).encode() for path, body in files.items()},
        )

    def finish(self, lease: Lease, state: str = "SUCCEEDED", **how: Json) -> None:
        self.services.jobs.finish(lease, state, **how)


def point(device: str, nth: int, accuracy: float, latency_ms: float) -> tuple[str, dict[str, Json]]:
    """An architecture that joins a front."""
    found = {"device": device, "evaluations": nth, "arch_id": f"arch{nth:04d}", "accuracy": accuracy}
    return "point", {**found, "latency_ms": latency_ms}


def trained() -> dict[str, Json]:
    """What a made-up train stage leaves."""
    return {
        "supernet": {"largest_test_accuracy": 0.981, "smallest_test_accuracy": 0.953, "params": 287_000,
                     "train_seconds": 41.0, "recipe": "sandwich"},
        "space": {"family": "tiny", "id": "0123456789ab", "size": 46_656, "choices": 14},
        "data": {"name": "digits", "classes": list("0123456789"), "train": 1000, "validation": 300, "test": 360},
        "seconds": 42.0,
    }  # fmt: skip


def profiled(*devices: tuple[str, str]) -> dict[str, Json]:
    """What a made-up profile stage leaves of (device, agent) pairs."""
    held_out = [
        {
            "arch_id": f"held{i:03d}",
            "predicted_ms": 1.02 * ms,
            "measured_ms": ms,
            "low_ms": 0.9 * ms,
            "high_ms": 1.1 * ms,
        }
        for i, ms in enumerate((0.4, 0.7, 1.1, 1.9))
    ]
    predictor = {
        "kind": "ridge", "mape": 0.031, "within_5": 0.8, "within_10": 1.0, "spearman": 0.97, "n_train": 64, "n_test": 16,
        "coverage": 0.9, "noise_floor": 0.011, "errors": {"additive": 0.052, "ridge": 0.031}, "held_out": held_out,
    }  # fmt: skip
    return {
        "devices": [
            {"name": name, "id": "cpu_t1_fp32_b1", "device": {"name": name, "agent": agent}, "predictor": predictor}
            for name, agent in devices
        ],
        "seconds": 12.0,
    }


def searched(*devices: str) -> dict[str, Json]:
    """What a made-up search leaves: a front of three networks a device, and what it is compared with."""

    def history(worth: float) -> list[Json]:
        counts = (10, 20, 40)
        return [
            {"evaluations": n, "hypervolume": worth, "by_device": dict.fromkeys(devices, worth * n / 40)}
            for n in counts
        ]

    front = [
        {
            "arch_id": f"best{i}",
            "val_accuracy": 0.95 + i / 100,
            "latency_ms_predicted": 0.5 + i,
            "latency_ms_measured": 0.6 + i,
        }
        for i in range(3)
    ]
    return {
        "search": {"searches": [{"seed": 7, "history": history(0.8)}], "random": [{"history": history(0.7)}]},
        "devices": [{"name": name, "front": front, "uniform_hypervolume": 0.6} for name in devices],
        "seconds": 9.0,
    }
