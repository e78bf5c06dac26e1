"""/healthz, /readyz, /metrics, and what the API says of itself."""

from __future__ import annotations

import threading
import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel

from nas.api.access import PUBLIC, Access
from nas.api.services import Services
from nas.service.errors import ServiceError
from nas.service.people import Principal
from nas.service.specs import spec_schema

# A worker says every few seconds that it is there.
WORKER_SEEN_S = 60.0
KEEP_S = 2.0
# A bucket that says nothing is waited for by one who asks, and by the others for so long.
PATIENCE_S = 5.0

router = APIRouter()

Anybody = Annotated[Principal, Depends(Access(PUBLIC))]


class Health(BaseModel):
    """`checks` has one line of trouble for each part that is not well."""

    ok: bool
    checks: dict[str, str]


@router.get("/healthz", tags=["health"])
async def healthy(caller: Anybody) -> Health:
    """Whether the process answers."""
    return Health(ok=True, checks={})


@router.get("/readyz", tags=["health"], responses={503: {"model": Health, "description": "something is not well"}})
def ready(caller: Anybody, request: Request, response: Response) -> Health:
    """Whether jobs can be taken and done: the database, the store of files, a worker."""
    checks = request.app.state.readiness.checks()
    response.status_code = 503 if checks else 200
    return Health(ok=not checks, checks=checks)


@router.get("/metrics", tags=["health"], response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(caller: Annotated[Principal, Depends(Access("metrics"))], request: Request) -> Response:
    """Numbers for Prometheus."""
    text, media_type = request.app.state.metrics.text()
    return Response(text, media_type=media_type)


@router.get("/v1/schema", tags=["jobs"])
def schema(caller: Anybody) -> dict[str, Any]:
    """JSON Schema of what can be asked for."""
    return spec_schema()


@router.get("/v1/openapi.json", include_in_schema=False)
async def openapi(caller: Anybody, request: Request) -> dict[str, Any]:
    found: dict[str, Any] = request.app.openapi()
    return found


class Readiness:
    """What is not well. Anybody may ask, so it is looked at once in two seconds however often they do."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._turn = threading.Lock()
        self._looked_s = float("-inf")
        self._checks: dict[str, str] = {}

    def checks(self) -> dict[str, str]:
        """Part -> what is wrong with it; nothing for one that is well."""
        if not self._turn.acquire(timeout=PATIENCE_S):
            return {"answers": f"the database or the store of files has been silent for more than {PATIENCE_S:g} s"}
        try:
            if time.monotonic() - self._looked_s > KEEP_S:
                found = {"database": self._database(), "blobs": self._blobs()}
                found["workers"] = "" if found["database"] else self._workers()
                self._checks = {name: trouble for name, trouble in found.items() if trouble}
                self._looked_s = time.monotonic()
            return self._checks
        finally:
            self._turn.release()

    def _database(self) -> str:
        try:
            self._services.db.now()
        except ServiceError:
            return "the database does not answer"
        return ""

    def _blobs(self) -> str:
        try:
            self._services.blobs.check()
        except ServiceError:
            return "the store of files cannot be written"
        return ""

    def _workers(self) -> str:
        return "" if self._services.jobs.alive(WORKER_SEEN_S) else "no worker is there; start one with `nas worker`"
