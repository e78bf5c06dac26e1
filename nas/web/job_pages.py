"""Jobs: /jobs, /jobs/{id}, and what can be done with one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response

from nas.api.access import Access
from nas.api.jobs import file_response
from nas.api.refusals import Refusal
from nas.service.artefacts import Artefact
from nas.service.jobs import KINDS, STATES, Job
from nas.service.people import Principal
from nas.tables import score_of
from nas.web.job_view import WAITING, job_view, stage_views
from nas.web.optuna_pages import has_studies
from nas.web.picture import DRAWN, front_rows, picture_of
from nas.web.rendering import STATES as STATE_WORDS
from nas.web.site import FORM_BYTES, Owner, Person, Posted, Site

Json = Any

ON_A_PAGE = 50
LOG_LINES = 500
LEVELS = ("info", "warning", "error")
# The report is ours, but comes from a job: it runs as a page of nowhere, that loads nothing and reaches nothing of the service.
REPORT_HEADERS = {
    "Content-Security-Policy": (
        "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Content-Disposition": "inline",
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "private, no-cache",
}
Canceller = Annotated[Principal, Depends(Access("page", owner="job", body_limit_bytes=FORM_BYTES))]


@dataclass(frozen=True, slots=True)
class JobPages:
    site: Site

    def add_to(self, pages: APIRouter) -> None:
        pages.add_api_route("/jobs", self.all, methods=["GET"])
        pages.add_api_route("/jobs/{job_id}", self.one, methods=["GET"])
        pages.add_api_route("/jobs/{job_id}/cancel", self.cancel, methods=["POST"])
        pages.add_api_route("/jobs/{job_id}/report", self.report, methods=["GET"])

    def all(self, person: Person, state: str = "", kind: str = "", before: str = "") -> Response:
        """The jobs of a person, or of everybody for an admin, newest first."""
        services = self.site.services
        chosen = {"state": state if state in STATES else "", "kind": kind if kind in KINDS else "", "before": before}
        found = services.jobs.page(
            person.owner,
            states=[chosen["state"]] if chosen["state"] else (),
            kinds=[chosen["kind"]] if chosen["kind"] else (),
            before=before or None,
            limit=ON_A_PAGE + 1,
        )
        shown = found[:ON_A_PAGE]
        return self.site.page(
            "jobs.html",
            person,
            "Jobs",
            "/jobs",
            jobs=self._views(person, shown),
            everybody=person.admin,
            states=STATES,
            kinds=KINDS,
            chosen=chosen,
            newest=_address({**chosen, "before": ""}),
            older=_address({**chosen, "before": shown[-1].id}) if len(found) > ON_A_PAGE else "",
        )

    def one(self, request: Request, person: Owner, level: str = "info") -> Response:
        """All of a job, as it is now; the page's script goes on from there."""
        services, job = self.site.services, _owned(request)
        files = services.artefacts.of(job.id)
        trained, searched, exported = (
            self.site.records.document(files, f"{stage}.json") for stage in ("train", "search", "export")
        )
        score = score_of((trained or job.spec.get("job", {})).get("data", {})).capitalize()
        events = self.site.records.events(job.id, DRAWN, job.last_seq)
        view = self._views(person, [job])[0]
        picture = picture_of(events, searched, exported, score)
        picture |= {"job": job.id, "seq": job.last_seq, "ended": job.ended, "progress": view["doing"]}
        return self.site.page(
            "job.html",
            person,
            f"{STATE_WORDS[job.state]}: {job.name}",
            "/jobs",
            job=view,
            everybody=person.admin,
            stages=stage_views(job),
            can=_can(job, files),
            searches=job.kind in ("run", "search", "export"),
            picture=picture,
            front_rows=front_rows(picture),
            score=score,
            level=level if level in LEVELS else "info",
            log=self._log(job),
            files=_files(job.id, files),
        )

    def cancel(self, request: Request, person: Canceller, form: Posted) -> Response:
        job = self.site.services.jobs.cancel(_owned(request).id, person.owner)
        return RedirectResponse("/jobs" if form.get("back") == "list" else f"/jobs/{job.id}", 303)

    def report(self, request: Request, person: Owner) -> Response:
        """The report of a run, in a sandbox."""
        found = self.site.services.artefacts.of(_owned(request).id).get("report.html")
        if found is None:
            raise Refusal(404, "not_found", "this job has no report; a run has one once it is finished")
        return file_response(self.site.services, found, request, **REPORT_HEADERS)

    def _views(self, person: Principal, jobs: Sequence[Job]) -> list[dict[str, Json]]:
        services = self.site.services
        positions = services.jobs.positions([job.id for job in jobs if job.state in WAITING])
        names = services.people.names() if person.admin else {}
        now_s = services.db.now()
        return [job_view(job, now_s, positions.get(job.id), names.get(job.owner, person.name)) for job in jobs]

    def _log(self, job: Job) -> list[dict[str, Json]]:
        """The last lines, with what the page needs of them."""
        lines = self.site.records.events(job.id, ("log",), job.last_seq, LOG_LINES)
        return [
            {
                "at_s": line.at_s,
                "level": level if (level := line.data.get("level")) in LEVELS else "info",
                "stage": line.data.get("stage", ""),
                "text": line.data.get("text", ""),
            }
            for line in lines
        ]


def _owned(request: Request) -> Job:
    """The job of the path, which `Access` has found to be the caller's."""
    job: Job = request.state.owned
    return job


def _can(job: Job, files: Mapping[str, Artefact]) -> dict[str, bool]:
    """What there is to look at of a job, and what can go on from it."""
    return {
        "search": job.ended and "train.json" in files,
        "export": job.ended and "search.json" in files,
        "report": "report.html" in files,
        "optuna": has_studies(job),
    }


def _files(job_id: str, files: Mapping[str, Artefact]) -> list[dict[str, Json]]:
    return [
        {
            "path": path,
            "name": path.rpartition("/")[2],
            "url": f"/v1/jobs/{job_id}/artefacts/{quote(path)}",
            "bytes": file.bytes,
            "sha256": file.sha256,
        }
        for path, file in sorted(files.items())
    ]


def _address(chosen: Mapping[str, str]) -> str:
    query = urlencode({key: value for key, value in chosen.items() if value})
    return f"/jobs?{query}" if query else "/jobs"
