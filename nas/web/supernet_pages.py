"""Trained supernets: /supernets. A supernet is a job whose training has finished."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from nas.service.people import Principal
from nas.tables import scientific, score_of
from nas.web.site import Person, Site

Json = Any

ON_A_PAGE = 24
TRAINING = ("run", "train")
"""Kinds of jobs that train; others begin with the supernet of one of these."""


@dataclass(frozen=True, slots=True)
class SupernetPages:
    site: Site

    def add_to(self, pages: APIRouter) -> None:
        pages.add_api_route("/supernets", self.all, methods=["GET"])

    def all(self, person: Person, before: str = "") -> Response:
        """The supernets of a person, newest first."""
        ids = self.site.records.jobs_with("train.json", person.owner, TRAINING, before, ON_A_PAGE + 1)
        names = self.site.services.people.names() if person.admin else {}
        shown = [view for job_id in ids[:ON_A_PAGE] if (view := self._view(person, job_id, names)) is not None]
        older = f"/supernets?before={ids[ON_A_PAGE - 1]}" if len(ids) > ON_A_PAGE else ""
        return self.site.page(
            "supernets.html", person, "Supernets", "/supernets", supernets=shown, older=older, before=before
        )

    def _view(self, person: Principal, job_id: str, names: Mapping[str, str]) -> dict[str, Json] | None:
        files = self.site.services.artefacts.of(job_id)
        trained = self.site.records.document(files, "train.json")
        if trained is None:
            return None
        job = self.site.services.jobs.get(job_id, person.owner)
        size = trained.get("space", {}).get("size")
        return {
            "job": job,
            "owner": names.get(job.owner, ""),
            "size": scientific(size) if isinstance(size, int) else "",
            "searched": "search.json" in files,
            "supernet": trained.get("supernet", {}),
            "space": trained.get("space", {}),
            "data": trained.get("data", {}),
            "score": score_of(trained.get("data", {})).capitalize(),
        }
