"""What all pages have: the services, the templates, and the people who look at them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from fastapi.responses import HTMLResponse
from markupsafe import Markup

from nas.api.access import Access, csrf_token, form_of
from nas.api.services import Services
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
