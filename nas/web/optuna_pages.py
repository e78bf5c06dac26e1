"""optuna-dashboard behind our login: /jobs/{id}/optuna/, the studies of one job, built in memory and only to be looked at.

Its pages are asked for under an address of the job; its script is changed to expect that (nas.web.assets). It can only read:
whatever would write is refused, and would change nothing but this copy.
"""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import cast

from a2wsgi import WSGIMiddleware
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from nas.api.refusals import Refusal
from nas.errors import JobError
from nas.folder import RunFolder
from nas.searching.store import TrialStore
from nas.service.artefacts import Artefact
from nas.service.jobs import Job
from nas.web.assets import Assets, dashboard_file
from nas.web.site import Owner, Site

KEPT = 4
"""Jobs whose studies are kept in memory; a study of 1,000 trials takes a few MB and a second to build."""
NEEDED = ("job.json", "space.json", "train.json", "tables/", "predictors/")
# Its parallel coordinates compile code for the graphics card, and its components bring styles of their own. Nothing is
# loaded from elsewhere.
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self'; worker-src blob:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)


@dataclass(slots=True)
class Dashboards:
    """The dashboards of the jobs that were looked at last, by job and the content of its search."""

    _apps: OrderedDict[tuple[str, str], ASGIApp] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    def of(self, site: Site, job: Job) -> ASGIApp:
        files = site.services.artefacts.of(job.id)
        found = files.get("search.json")
        if found is None or not has_studies(job):
            raise Refusal(404, "not_found", "this job has searched for nothing yet")
        key = (job.id, found.sha256)
        with self._lock:
            if key not in self._apps:
                self._apps[key] = _dashboard(site, job, files)
            self._apps.move_to_end(key)
            while len(self._apps) > KEPT:
                self._apps.popitem(last=False)
            return self._apps[key]


@dataclass(frozen=True, slots=True)
class OptunaPages:
    site: Site
    dashboards: Dashboards = field(default_factory=Dashboards)

    def add_to(self, pages: APIRouter) -> None:
        base = "/jobs/{job_id}/optuna"
        for path in (base, base + "/"):
            pages.add_api_route(path, self.start, methods=["GET"])
        for path in (base + "/dashboard", base + "/dashboard/{rest:path}"):
            pages.add_api_route(path, self.page, methods=["GET"])
        for path in (base + "/api/{rest:path}", base + "/csv/{rest:path}"):
            pages.add_api_route(path, self.data, methods=["GET"])
        writes = ["POST", "PUT", "PATCH", "DELETE"]
        pages.add_api_route(base + "/{rest:path}", self.refuse, methods=writes)

    def start(self, job_id: str, person: Owner) -> Response:
        return RedirectResponse(f"/jobs/{job_id}/optuna/dashboard", 303)

    def page(self, request: Request, person: Owner) -> Response:
        """The one page of the dashboard, whose script shows them all; made here, so that its errors are ours."""
        self.dashboards.of(self.site, request.state.owned)
        headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store"}
        return HTMLResponse(_start_page(self.site.assets), headers=headers)

    def data(self, job_id: str, request: Request, person: Owner) -> Response:
        """What the dashboard's own application answers."""
        app = self.dashboards.of(self.site, request.state.owned)
        return _Passed(app, request.url.path.removeprefix(f"/jobs/{job_id}/optuna"))

    def refuse(self, person: Owner) -> Response:
        reason = "This dashboard shows a finished search; it cannot be changed here."
        return JSONResponse({"reason": reason}, 403)


class _Passed(Response):
    """The answer of another app to this request, as if it had been asked under `path`."""

    def __init__(self, app: ASGIApp, path: str) -> None:
        super().__init__()
        self._app = app
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        inner = {**scope, "path": self._path, "raw_path": self._path.encode(), "root_path": ""}
        await self._app(inner, receive, send)


def has_studies(job: Job) -> bool:
    """Whether the job has searched itself; one that goes on from a search has its result, not its trials."""
    return any(stage["stage"] == "search" for stage in job.stages or ())


def _dashboard(site: Site, job: Job, files: Mapping[str, Artefact]) -> ASGIApp:
    """The dashboard of a job, over studies built from its files and its rows in the store of evaluations."""
    from optuna.storages import InMemoryStorage
    from optuna_dashboard import wsgi

    from nas.optuna_studies import write_studies

    storage = InMemoryStorage()
    services = site.services
    with tempfile.TemporaryDirectory(prefix="nas-optuna-") as scratch:
        for path, file in files.items():
            if path.startswith(NEEDED):
                place = Path(scratch) / path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(services.blobs.read(file.sha256))
        trials = partial(TrialStore, services.settings.database_url, scope=job.id)
        try:
            write_studies(RunFolder(Path(scratch)), storage, trials)
        except JobError as error:
            raise Refusal(404, "not_found", "the trials of this job are not there any more") from error
    return cast(ASGIApp, WSGIMiddleware(wsgi(storage), workers=2))


def _start_page(assets: Assets) -> str:
    """The dashboard's page with our address of its script, and an icon, since it would ask for one at the root."""
    icon = f'<link rel="icon" href="{assets.url("icon.svg")}">'
    page = dashboard_file("index.html").decode().replace("/static/bundle.js", assets.url("dashboard.js"))
    return page.replace("</head>", f"{icon}</head>")
