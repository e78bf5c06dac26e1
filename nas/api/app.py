"""The app: all routes, behind the gate, over one set of services."""

from __future__ import annotations

from urllib.parse import quote

from anyio import CapacityLimiter
from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response

from nas.api import agents, devices, health, jobs, people, uploads
from nas.api.access import LoginNeeded
from nas.api.auth import Doorkeeper
from nas.api.description import describe
from nas.api.gate import BodyLimit, Hardened
from nas.api.journal import Journal
from nas.api.metrics import Metrics
from nas.api.refusals import handle
from nas.api.services import Front, Services, open_services
from nas.api.sse import Hub
from nas.web.error_pages import ErrorPages
from nas.web.pages import router as pages
from nas.web.pages import site_of

__all__ = ["Front", "Services", "make_app", "open_services"]

ROUTERS = (health.router, jobs.router, uploads.router, people.router, devices.router, agents.router)


def make_app(services: Services) -> FastAPI:
    """The service over HTTP. Its documents are at /v1/openapi.json; there is no page that would load scripts from elsewhere."""
    app = FastAPI(title="nas", version="1", openapi_url=None, docs_url=None, redoc_url=None)
    app.state.services = services
    app.state.doorkeeper = Doorkeeper(services.people, services.front)
    app.state.hub = Hub(services.events, services.closing)
    app.state.metrics = Metrics(services.db)
    app.state.readiness = health.Readiness(services)
    app.state.upload_threads = CapacityLimiter(uploads.SIDE_BY_SIDE)
    site = site_of(services)
    for router in (*ROUTERS, pages(site)):
        app.router.routes.extend(router.routes)  # flat, so that every route can be looked at
    handle(app)
    app.add_exception_handler(LoginNeeded, _to_login)
    app.add_middleware(BodyLimit, routes=app.router.routes)
    app.add_middleware(Hardened, front=services.front)
    app.add_middleware(Journal, observe=app.state.metrics.observe)
    app.add_middleware(ErrorPages, site=site)
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]
    return app


def _to_login(request: Request, error: Exception) -> Response:
    assert isinstance(error, LoginNeeded)
    return RedirectResponse(f"/login?next={quote(error.path)}", 303)
