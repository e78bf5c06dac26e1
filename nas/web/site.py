"""What all pages have: the services, the templates, the people who look at them, and what goes wrong on the way."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute
from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.responses import Response

from latency_tables.errors import LatencyError
from nas.api.access import Access, csrf_token, form_of
from nas.api.refusals import STATUSES
from nas.api.services import Services
from nas.errors import JobError
from nas.service.errors import ServiceError
from nas.service.people import Principal
from nas.web.assets import Assets
from nas.web.records import Records
from nas.web.rendering import Templates

FORM_BYTES = 64 * 1024

Person = Annotated[Principal, Depends(Access("page"))]
"""Somebody who has logged in."""
Owner = Annotated[Principal, Depends(Access("page", owner="job"))]
"""Somebody who may see the job of the path."""
Sender = Annotated[Principal, Depends(Access("page", body_limit_bytes=FORM_BYTES))]
"""Somebody who sends a form."""
Posted = Annotated[Mapping[str, str], Depends(form_of)]
"""The fields of the form that was sent."""


@dataclass(frozen=True, slots=True)
class Site:
    """What every page is made with."""

    services: Services
    assets: Assets
    templates: Templates
    records: Records

    def page(
        self, template: str, person: Principal | None, title: str, place: str = "", status: int = 200, **values: object
    ) -> HTMLResponse:
        """A page for a person, or for nobody in particular; `place` is the part of the site that it belongs to."""
        csrf = csrf_token(person) if person is not None else ""
        guard = Markup('<input type="hidden" name="csrf" value="{}">').format(csrf)
        text = self.templates.render(
            template, {"person": person, "title": title, "place": place, "guard": guard, **values}
        )
        return HTMLResponse(text, status, {"Cache-Control": "no-store"})

    def failure(self, error: Exception) -> HTMLResponse:
        """What went wrong, as a page."""
        if isinstance(error, HTTPException):
            status, message, headers = error.status_code, str(error.detail), error.headers or {}
        elif isinstance(error, RequestValidationError):
            status, message, headers = 422, "this address is none of a page; follow a link or start anew", {}
        else:
            status = next(answer[0] for kind, answer in STATUSES.items() if isinstance(error, kind))
            message, headers = str(error), {}
        title = "Not found" if status == 404 else "This cannot be done"
        page = self.page("message.html", None, title, status=status, text=message, bad=status != 404)
        page.headers.update(headers)
        return page


def route_class(site: Site) -> type[APIRoute]:
    """Routes of pages: what is refused is told on a page, not in JSON."""

    class PageRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            answer = super().get_route_handler()

            async def answer_or_explain(request: Request) -> Response:
                try:
                    return await answer(request)
                except (HTTPException, RequestValidationError, ServiceError, JobError, LatencyError) as error:
                    return site.failure(error)

            return answer_or_explain

    return PageRoute
