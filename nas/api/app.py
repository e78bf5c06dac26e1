"""The app: all routes, behind the gate, over one set of services."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import RedirectResponse, Response

from nas.api import agents, devices, health, jobs, people, uploads
from nas.api.access import LoginNeeded
from nas.api.auth import Doorkeeper
from nas.api.gate import BodyLimit, Hardened
from nas.api.journal import Journal
from nas.api.metrics import Metrics
from nas.api.refusals import handle
from nas.api.services import Front, Services, open_services
from nas.api.sse import Hub
from nas.service.specs import spec_schema
from nas.web.pages import router as pages

__all__ = ["Front", "Services", "make_app", "open_services"]

DESCRIPTION = """Hardware-aware neural architecture search as a service. Every refusal is
`{"error": {"code", "message"}}`. Times are epoch seconds by the clock of the service's database."""

ROUTERS = (health.router, jobs.router, uploads.router, people.router, devices.router, agents.router)


def make_app(services: Services) -> FastAPI:
    """The service over HTTP. Its documents are at /v1/openapi.json; there is no page that would load scripts from elsewhere."""
    app = FastAPI(title="nas", version="1", openapi_url=None, docs_url=None, redoc_url=None)
    app.state.services = services
    app.state.doorkeeper = Doorkeeper(services.people, services.front)
    app.state.hub = Hub(services.events, services.closing)
    app.state.metrics = Metrics(services.db)
    app.state.readiness = health.Readiness(services)
    for router in (*ROUTERS, pages(services)):
        app.router.routes.extend(router.routes)  # flat, so that every route can be looked at
    handle(app)
    app.add_exception_handler(LoginNeeded, _to_login)
    app.add_middleware(BodyLimit, routes=app.router.routes)
    app.add_middleware(Hardened, front=services.front)
    app.add_middleware(Journal, observe=app.state.metrics.observe)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _to_login(request: Request, error: Exception) -> Response:
    assert isinstance(error, LoginNeeded)
    return RedirectResponse(f"/login?next={quote(error.path)}", 303)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The description of the API, made once; what is asked for in it is described by the specs' own schema."""
    if app.openapi_schema is None:
        found = get_openapi(title=app.title, version=app.version, routes=app.routes, description=DESCRIPTION)
        spec = _moved(spec_schema())
        parts = found["components"]["schemas"]
        parts.update(spec.pop("$defs"))
        parts["Spec"] = spec
        body = found["paths"]["/v1/jobs"]["post"]["requestBody"]
        body["content"]["application/json"]["schema"] = {"$ref": "#/components/schemas/Spec"}
        found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"token": []}]
        app.openapi_schema = found
    return app.openapi_schema


def _moved(schema: Any) -> Any:
    """A JSON Schema whose parts stand among those of OpenAPI."""
    if isinstance(schema, dict):
        return {
            key: value.replace("#/$defs/", "#/components/schemas/") if key == "$ref" else _moved(value)
            for key, value in schema.items()
        }
    return [_moved(each) for each in schema] if isinstance(schema, list) else schema
