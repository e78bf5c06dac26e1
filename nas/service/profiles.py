"""What finished jobs know of enrolled machines: the devices they profiled there, and how good the predictors are."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import select

from nas.service.artefacts import Artefacts
from nas.service.database import Database
from nas.service.errors import ServiceError
from nas.service.schema import artefacts as files
from nas.service.schema import jobs, tasks

Json = Any

PROFILE = "profile.json"


def profiles_of(db: Database, artefacts: Artefacts, machine: str, owner: str | None, most: int = 20) -> list[Json]:
    """What was profiled on a machine in jobs of this owner (None: of all), of the newest so many jobs.

    Each has the job, the device and its predictor with its errors on held-out networks, as in the job's `profile.json`.
    """
    return [
        {"job": job_id, "job_name": name, "device": entry["name"], "id": entry["id"], "predictor": entry["predictor"]}
        for job_id, name in _profiled(db, machine, owner, most)
        for entry in _devices(artefacts, job_id)
        if entry["device"].get("agent") == machine
    ]


def _profiled(db: Database, machine: str, owner: str | None, most: int) -> list[tuple[str, str]]:
    """Jobs with a finished profile that had something measured on this machine."""
    measured = select(tasks.c.job_id).where(tasks.c.device == machine, tasks.c.state == "SUCCEEDED")
    query = (
        select(jobs.c.id, jobs.c.name)
        .join(files, (files.c.job_id == jobs.c.id) & (files.c.path == PROFILE))
        .where(jobs.c.id.in_(measured))
        .order_by(jobs.c.id.desc())
        .limit(most)
    )
    if owner is not None:
        query = query.where(jobs.c.owner == owner)
    return db.read(lambda connection: [(row.id, row.name) for row in connection.execute(query)])


def _devices(artefacts: Artefacts, job_id: str) -> list[Json]:
    """The devices of a job's profile; none where its file is damaged, which stands in the way of nothing here."""
    try:
        with artefacts.open(job_id, PROFILE) as content:
            found: list[Json] = json.loads(content.read())["devices"]
            return found
    except (ServiceError, OSError, ValueError, KeyError):
        return []
