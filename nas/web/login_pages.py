"""Logging in and out: /login, /logout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response

from nas.api.access import PUBLIC, Access
from nas.api.refusals import Refusal
from nas.service.people import PeopleError, Principal
from nas.web.site import FORM_BYTES, Posted, Sender, Site

Anybody = Annotated[Principal, Depends(Access(PUBLIC))]
Knocking = Annotated[Principal, Depends(Access(PUBLIC, body_limit_bytes=FORM_BYTES))]


@dataclass(frozen=True, slots=True)
class LoginPages:
    site: Site

    def add_to(self, pages: APIRouter) -> None:
        pages.add_api_route("/login", self.ask, methods=["GET"])
        pages.add_api_route("/login", self.enter, methods=["POST"])
        pages.add_api_route("/logout", self.leave, methods=["POST"])

    def ask(self, request: Request, anybody: Anybody, code: str = "", next: str = "") -> Response:
        """The form, with the code of a one-time link filled in: whatever fetches links beforehand must not use it up."""
        over = bool(next) and request.app.state.doorkeeper.cookie in request.cookies
        return self._form(code, next, over=over)

    def enter(self, request: Request, form: Posted, anybody: Knocking) -> Response:
        """Open a session and go where the person wanted to."""
        answer = RedirectResponse(_within(form.get("next", "")), 303)
        try:
            request.app.state.doorkeeper.sign_in(request, form.get("token", ""), answer)
        except Refusal as error:
            return self._form("", form.get("next", ""), str(error.detail), error.status_code)
        except PeopleError as error:
            return self._form("", form.get("next", ""), str(error), 403)
        return answer

    def leave(self, request: Request, person: Sender) -> Response:
        answer = RedirectResponse("/login", 303)
        request.app.state.doorkeeper.sign_out(request, answer)
        return answer

    def _form(self, code: str, wanted: str, fault: str = "", status: int = 200, over: bool = False) -> Response:
        """`over`: the browser has the cookie of a session that is none any more."""
        return self.site.page(
            "login.html",
            None,
            "Log in",
            status=status,
            code=code,
            next=_within(wanted),
            fault=fault[:1].upper() + fault[1:],
            over=over,
        )


def _within(path: str) -> str:
    """A path of this site; of anything else, the start page. Browsers take // and /\\ for another host."""
    plain = path.startswith("/") and path[1:2] not in ("/", "\\") and path.isprintable()
    return path if plain else "/jobs"
