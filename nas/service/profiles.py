"""What finished profiles say of the machines that were measured: enrolled ones, and those that workers run on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import exists, select

from nas.database import Database
from nas.service.artefacts import Artefacts
from nas.service.errors import ServiceError
from nas.service.schema import artefacts as files
from nas.service.schema import jobs, tasks

Json = Any

PROFILE = "profile.json"


@dataclass(frozen=True, slots=True)
class Profile:
    """One device in the `profile.json` of a job: `found` has its name, its id, and its predictor with its errors."""

    job_id: str
    job_name: str
    found: Mapping[str, Json]

    def to_json(self) -> dict[str, Json]:
        kept = {"device": self.found["name"], "id": self.found["id"], "predictor": self.found["predictor"]}
        return {"job": self.job_id, "job_name": self.job_name, **kept}


def profiles_of(
    db: Database, document: Callable[[str], Json], machine: str | None, owner: str | None, most: int = 20
) -> list[Profile]:
    """What was profiled on a machine (None: on those of the workers) in jobs of an owner (None: of all), of the newest so many
    jobs. `document` gives the profile.json of a job, or None where it cannot be read, which stands in the way of nothing here.
    """
    return [
        Profile(job_id, name, entry)
        for job_id, name in _profiled(db, machine, owner, most)
        for entry in (document(job_id) or {}).get("devices", ())
        if (entry["device"].get("agent") or None) == machine
    ]


def read_profile(artefacts: Artefacts, job_id: str) -> dict[str, Json] | None:
    """The profile.json of a job; None where there is none, or it is damaged."""
    try:
        with artefacts.open(job_id, PROFILE) as content:
            found = json.loads(content.read())
    except (ServiceError, OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _profiled(db: Database, machine: str | None, owner: str | None, most: int) -> list[tuple[str, str]]:
    """Jobs with a profile of their own, not that of the job which they go on from; newest first."""
    before = files.alias()
    same = (before.c.job_id == jobs.c.parent, before.c.path == PROFILE, before.c.sha256 == files.c.sha256)
    query = (
        select(jobs.c.id, jobs.c.name)
        .join(files, (files.c.job_id == jobs.c.id) & (files.c.path == PROFILE))
        .where(~exists().where(*same))
        .order_by(jobs.c.id.desc())
        .limit(most)
    )
    if machine is not None:
        measured = select(tasks.c.job_id).where(tasks.c.device == machine, tasks.c.state == "SUCCEEDED")
        query = query.where(jobs.c.id.in_(measured))
    if owner is not None:
        query = query.where(jobs.c.owner == owner)
    return db.read(lambda connection: [(row.id, row.name) for row in connection.execute(query)])
