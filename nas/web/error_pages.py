"""What is refused, told on a page where a browser goes to an address; programs and scripts get it as JSON."""

from __future__ import annotations

import json
from http import HTTPStatus

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nas.api.gate import HEADERS
from nas.service.people import Principal
from nas.web.site import Site

TITLES = {
    403: "Not allowed",
    404: "Not found",
    413: "Too large",
    421: "Another host",
    429: "Too many at once",
    500: "A fault of the service",
    503: "Not at the moment",
}
OTHER = "This cannot be done"
REPLACED = ("content-length", "content-type")


class ErrorPages:
    """Stands before all else, so that it hears of refusals wherever they are made: by a route, by the gate, or by a bug."""

    def __init__(self, app: ASGIApp, site: Site) -> None:
        self._app = app
        self._site = site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or "text/html" not in Headers(scope=scope).get("accept", ""):
            await self._app(scope, receive, send)
            return
        refused: Message | None = None
        body = bytearray()

        async def sent(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start" and _is_refusal(message):
                refused = message
            elif refused is None:
                await send(message)
            else:
                body.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    await self._explain(refused, bytes(body), scope, receive, send)

        await self._app(scope, receive, sent)

    async def _explain(self, refused: Message, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """The same answer, as a page of whoever asks; that of another application, which says it in its own way, as it is."""
        status: int = refused["status"]
        message = json.loads(body).get("error", {}).get("message")
        if message is None:
            await send(refused)
            await send({"type": "http.response.body", "body": body})
            return
        if message == HTTPStatus(status).phrase:
            message = "There is no such page." if status == 404 else f"This page takes no {scope['method']}."
        person = await _who_asks(Request(scope))
        title = TITLES.get(status, OTHER)
        page = self._site.page("message.html", person, title, status=status, text=message, bad=status != 404)
        given = {name: value for name, value in Headers(raw=refused["headers"]).items() if name not in REPLACED}
        page.headers.update({**HEADERS, **given})
        await page(scope, receive, send)


def _is_refusal(message: Message) -> bool:
    kind = Headers(raw=message["headers"]).get("content-type", "")
    return message["status"] >= 400 and kind == "application/json"


async def _who_asks(request: Request) -> Principal | None:
    """Who has logged in; None also where that cannot be found out now, for whatever reason: it must not hide what went wrong
    before, which may have been the same."""
    try:
        found: Principal | None = await request.app.state.doorkeeper.principal(request)
    except Exception:
        return None
    return found if found is not None and found.csrf is not None else None
