"""Who may call a route. Each route has one `Access`, which is both what it declares and what checks it:

@router.get("/jobs/{job_id}")
def show(job_id: str, caller: Annotated[Principal, Depends(Access("jobs", owner="job"))]) -> ...
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import URL
from starlette.routing import BaseRoute

from nas.api.refusals import Refusal
from nas.api.services import Services
from nas.service.errors import NotFound
from nas.service.people import SCOPES, Principal

PUBLIC = "public"
"""Anybody, without a token."""
PAGE = "page"
"""A person who has logged in; others are sent to the login."""
AGENT = "agent"
"""An enrolled machine."""
NOBODY = Principal(None, "", False, ())

MOST_FIELDS = 1000
SAFE = ("GET", "HEAD", "OPTIONS")


def _own_token(services: Services, token_id: str, owner: str | None) -> Any:
    token = services.people.token(token_id)
    if owner is not None and token.user_id != owner:
        raise NotFound(f"there is no token {token_id[:80]!r}")
    return token


OWNED: dict[str, Callable[[Services, str, str | None], Any]] = {
    "job": lambda services, job_id, owner: services.jobs.get(job_id, owner),
    "upload": lambda services, upload_id, owner: services.uploads.get(upload_id, owner),
    "token": _own_token,
}
"""What a path parameter `job_id`, `upload_id`, `token_id` names, if it is the caller's; `NotFound` if not."""
CALLER = ("nothing", "caller", "agent")
"""Ownership without a look-up: nothing is owned; only rows of the caller are touched; only tasks of the machine that asks."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a route asks of its caller: a scope, whose things it may name, and how long the body may be.

    As a dependency it gives the `Principal`, and leaves what the path names in `request.state.owned`.
    """

    scope: str
    owner: str = "nothing"
    body_limit_bytes: int = 0

    def __post_init__(self) -> None:
        if self.scope not in (PUBLIC, PAGE, AGENT, *SCOPES):
            raise ValueError(f"unknown scope {self.scope!r}; known are {', '.join((PUBLIC, PAGE, AGENT, *SCOPES))}")
        if self.owner not in (*CALLER, *OWNED):
            raise ValueError(f"unknown owner {self.owner!r}; known are {', '.join((*CALLER, *OWNED))}")

    async def __call__(self, request: Request) -> Principal:
        if self.scope == PUBLIC:
            return NOBODY
        principal: Principal | None = await request.app.state.doorkeeper.principal(request)
        if principal is None:
            if self.scope == PAGE:
                raise LoginNeeded(_page_of(request))
            raise Refusal(401, "unauthorized", "this needs a token: send the header `Authorization: Bearer nas_...`")
        self._check_scope(principal)
        if principal.csrf is not None and request.method not in SAFE:
            await _check_forgery(request, principal.csrf)
        if self.owner in OWNED:
            services: Services = request.app.state.services
            named = str(request.path_params[f"{self.owner}_id"])
            request.state.owned = await run_in_threadpool(OWNED[self.owner], services, named, principal.owner)
        return principal

    def _check_scope(self, principal: Principal) -> None:
        if self.scope == PAGE:
            allowed = principal.csrf is not None
        elif self.scope == AGENT:
            allowed = principal.device is not None and f"agent:{principal.device}" in principal.scopes
        else:
            allowed = principal.user_id is not None and self.scope in principal.scopes
        if not allowed:
            raise Refusal(403, "forbidden", f"this token has not the scope {self.scope!r}")


class LoginNeeded(Exception):
    """A page was asked for by nobody; `path` is where to go after the login, with its query."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


def _page_of(request: Request) -> str:
    """The page that was asked for, or the one whose form was sent."""
    url = request.url if request.method in SAFE else URL(request.headers.get("referer", ""))
    return f"{url.path or '/'}?{url.query}".removesuffix("?")


def access_of(route: BaseRoute) -> Access | None:
    """The access that a route declares; None where it declares none."""
    dependant = getattr(route, "dependant", None)
    calls = [each.call for each in dependant.dependencies] if dependant is not None else []
    return next((call for call in calls if isinstance(call, Access)), None)


def undeclared(routes: Sequence[BaseRoute]) -> list[str]:
    """The paths of routes that declare no access, and of all that is mounted, since nothing there could."""
    return [getattr(route, "path", repr(route)) for route in routes if access_of(route) is None]


async def form_of(request: Request) -> Mapping[str, str]:
    """The fields of an HTML form, `application/x-www-form-urlencoded`; the last of each name."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        return {}
    try:
        text = (await request.body()).decode()
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=MOST_FIELDS))
    except ValueError as error:
        raise Refusal(400, "invalid", "the form cannot be read") from error


def csrf_token(principal: Principal) -> str:
    """What a form of the page says in its field `csrf`, and a script in the header `X-CSRF-Token`."""
    return principal.csrf or ""


async def _check_forgery(request: Request, wanted: str) -> None:
    """A browser sends the cookie with forms of any site; only ours knows the token."""
    given = request.headers.get("x-csrf-token") or (await form_of(request)).get("csrf", "")
    if not secrets.compare_digest(given.encode(), wanted.encode()):
        raise Refusal(403, "forbidden", "the page is out of date: load it again and repeat what you did")
