"""Tokens: /tokens, what a person's programs show in place of a login; made, looked at and revoked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import RedirectResponse, Response

from nas.api.access import Access
from nas.service.people import PeopleError, Principal, Token
from nas.web.site import FORM_BYTES, Person, Posted, Site

Json = Any

DAY_S = 86_400.0
LIFETIMES: Mapping[str, tuple[str, float | None]] = {
    "30": ("30 days", 30 * DAY_S),
    "365": ("a year", 365 * DAY_S),
    "": ("no end", None),
}
"""What a form says -> in words, and in seconds."""
ALLOWS = {
    "jobs": "to submit, follow and cancel jobs",
    "models": "to upload, and to download files of jobs",
    "devices-admin": "to enrol and remove machines",
    "metrics": "to read /metrics",
}
Issuer = Annotated[Principal, Depends(Access("page", owner="caller", body_limit_bytes=FORM_BYTES))]
Revoker = Annotated[Principal, Depends(Access("page", owner="token", body_limit_bytes=FORM_BYTES))]


@dataclass(frozen=True, slots=True)
class TokenPages:
    site: Site

    def add_to(self, pages: APIRouter) -> None:
        pages.add_api_route("/tokens", self.all, methods=["GET"])
        pages.add_api_route("/tokens", self.issue, methods=["POST"])
        pages.add_api_route("/tokens/{token_id}/revoke", self.revoke, methods=["POST"])

    def all(self, person: Person) -> Response:
        """One's own tokens, or everybody's for an admin, newest first."""
        return self._page(person)

    def issue(self, person: Issuer, form: Posted) -> Response:
        """A new token of one's own, shown this once. A session may all that its user may, so the token may be good for it."""
        people = self.site.services.people
        scopes = [scope for scope in person.scopes if f"scope.{scope}" in form]
        label = form.get("label", "").strip()
        try:
            lifetime_s = LIFETIMES.get(form.get("lifetime", ""), LIFETIMES["30"])[1]
            _, secret = people.issue(people.named(person.name), scopes, label, lifetime_s)
        except PeopleError as error:
            return self._page(person, status=400, label=label, scopes=scopes, fault=str(error))
        return self._page(person, secret=secret)

    def revoke(self, token_id: str, person: Revoker) -> Response:
        """Ends all logins of the token's user too, so that one may have to log in again."""
        self.site.services.people.revoke(token_id, person.owner)
        return RedirectResponse("/tokens", 303)

    def _page(self, person: Principal, status: int = 200, **asked: Json) -> Response:
        """The tokens; `asked` is what the form for a new one says, and the secret that came of it."""
        services = self.site.services
        now_s, names = services.db.now(), services.people.names() if person.admin else {}
        tokens = [_view(each, now_s, names) for each in reversed(services.people.tokens(person.owner))]
        return self.site.page(
            "tokens.html",
            person,
            "Tokens",
            "/tokens",
            status,
            good=[each for each in tokens if each["state"] == "good"],
            ended=[each for each in tokens if each["state"] != "good"],
            everybody=person.admin,
            allows={scope: ALLOWS[scope] for scope in person.scopes},
            lifetimes={value: words for value, (words, _) in LIFETIMES.items()},
            asked={"label": "", "scopes": ("jobs", "models"), "fault": "", "secret": "", **asked},
        )


def _view(token: Token, now_s: float, names: Mapping[str, str]) -> dict[str, Json]:
    expired = token.expires_s is not None and token.expires_s <= now_s
    return {
        "id": token.id,
        "label": token.label or token.id,
        "owner": names.get(token.user_id or "", ""),  # a machine's token has none
        "scopes": token.scopes,
        "created_s": token.created_s,
        "expires_s": token.expires_s,
        "used_s": token.used_s,
        "state": "revoked" if token.revoked_s is not None else "expired" if expired else "good",
    }
