"""What every request passes before it reaches a route: which host it names, how long its body is, and how slowly it comes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nas.api.access import access_of
from nas.api.refusals import Refusal, refused
from nas.api.services import Front

# A body of which nothing comes for so long is given up: nobody may hold a connection by sending a byte an hour.
BODY_PAUSE_S = 20.0
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# `same-origin`, and not `no-referrer`: under that a browser hides where a form stood even from ourselves.
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
TLS_HEADERS = {"Strict-Transport-Security": "max-age=31536000"}


class Hardened:
    """Answers to the hosts of the front alone, which a page of another site under another name is not, and sets the headers
    that keep browsers careful. A route that sets one of them itself is left its own."""

    def __init__(self, app: ASGIApp, front: Front) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in front.hosts)
        self._headers = {**HEADERS, **(TLS_HEADERS if front.tls else {})}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif "*" in self._hosts or _host_of(scope) in self._hosts:
            await self._app(scope, receive, sent)
        else:
            message = "the service does not answer to this host name; add it with `nas serve --allow-host`"
            await refused(421, "wrong_host", message)(scope, receive, sent)


class BodyLimit:
    """Lets no more of a body through than the route's `Access` says, whether its length is announced or not."""

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        limit_bytes = self._limit_bytes(scope)
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdigit() and int(announced) > limit_bytes:
            refusal = _too_large(limit_bytes)
            await refused(refusal.status_code, refusal.code, refusal.detail)(scope, receive, send)
        else:
            await self._app(scope, _limited(receive, limit_bytes), send)

    def _limit_bytes(self, scope: Scope) -> int:
        for route in self._routes:
            if route.matches(scope)[0] is Match.FULL:
                access = access_of(route)
                return 0 if access is None else access.body_limit_bytes
        return 0


def _limited(receive: Receive, limit_bytes: int) -> Receive:
    """`receive` until the body is complete; then it only waits for the client to go, for as long as that takes."""
    seen_bytes, complete = 0, False

    async def received() -> Message:
        nonlocal seen_bytes, complete
        if complete:
            return await receive()
        try:
            async with asyncio.timeout(BODY_PAUSE_S):
                message = await receive()
        except TimeoutError as error:
            raise Refusal(408, "timeout", f"nothing of the body came for {BODY_PAUSE_S:g} s") from error
        if message["type"] == "http.request":
            seen_bytes += len(message.get("body", b""))
            complete = not message.get("more_body", False)
        if seen_bytes > limit_bytes:
            raise _too_large(limit_bytes)
        return message

    return received


def _too_large(limit_bytes: int) -> Refusal:
    return Refusal(413, "too_large", f"the body may have {limit_bytes} bytes here")


def _host_of(scope: Scope) -> str:
    """The host name that was asked for, without its port."""
    host = ""
    with contextlib.suppress(KeyError):
        host = Headers(scope=scope)["host"].strip().lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]
