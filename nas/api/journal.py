"""One line in the log for each request. Query strings are left out, since some hold secrets."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nas.api.refusals import refused

LOG = logging.getLogger("nas.api")
# How a request that was answered is told to the metrics: method, route, status, seconds to the first byte of the answer.
Observe = Callable[[str, str, int, float], None]


class Journal:
    """Notes every request with its seconds, and answers those in which a bug was met."""

    def __init__(self, app: ASGIApp, observe: Observe) -> None:
        self._app = app
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun_s, answered_s, status = time.perf_counter(), 0.0, 0

        async def sent(message: Message) -> None:
            nonlocal answered_s, status
            if message["type"] == "http.response.start":
                answered_s, status = time.perf_counter() - begun_s, message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except Exception:
            LOG.exception("a bug in %s %s", scope["method"], scope["path"])
            if status:  # the answer was under way: break it off, so that nobody takes it for whole
                raise
            await refused(500, "internal", "a bug of the service; its log has more")(scope, receive, sent)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._observe(scope["method"], route, status, answered_s)
            _note(scope, route, status, time.perf_counter() - begun_s)


def _note(scope: Scope, route: str, status: int, seconds: float) -> None:
    job_id = scope.get("path_params", {}).get("job_id")
    said: dict[str, Any] = {
        "method": scope["method"],
        "route": route,
        "path": scope["path"],
        "status": status,
        "ms": round(1e3 * seconds, 2),
        "client": scope["client"][0] if scope.get("client") else None,
        **({} if job_id is None else {"job": job_id}),
    }
    LOG.info("%s %s %d", scope["method"], scope["path"], status, extra={"said": said})
