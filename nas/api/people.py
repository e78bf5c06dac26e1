"""/v1/me and /v1/tokens: who one is, and the tokens of one's programs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from nas.api.access import Access
from nas.api.documents import Me, NewToken, TokenDocument, TokenList, TokenRequest
from nas.api.refusals import Refusal, documented
from nas.api.services import Services, services_of
from nas.service.people import Principal

router = APIRouter(prefix="/v1", tags=["people"])

Found = Annotated[Services, Depends(services_of)]
Caller = Annotated[Principal, Depends(Access("jobs", owner="caller"))]


@router.get("/me")
def me(caller: Caller) -> Me:
    """Whose token this is."""
    return Me.of(caller)


@router.get("/tokens")
def tokens(services: Found, caller: Caller) -> TokenList:
    """One's own tokens, without their secrets."""
    return TokenList(tokens=[TokenDocument.of(token) for token in services.people.tokens(caller.user_id)])


@router.post("/tokens", status_code=201, responses=documented(403, 422))
def issue(
    services: Found,
    caller: Annotated[Principal, Depends(Access("jobs", owner="caller", body_limit_bytes=4096))],
    wanted: TokenRequest,
) -> NewToken:
    """A new token of one's own, good for no more than the one that asks. Its secret is told in this answer alone."""
    more = [scope for scope in wanted.scopes if scope not in caller.scopes]
    if more:
        raise Refusal(403, "forbidden", f"this token has not the scope {more[0]!r} itself")
    token, secret = services.people.issue(
        services.people.named(caller.name), wanted.scopes, wanted.label, wanted.lifetime_s
    )
    return NewToken(**TokenDocument.of(token).model_dump(), secret=secret)


@router.delete("/tokens/{token_id}", status_code=204, responses=documented(404))
def revoke(
    services: Found, caller: Annotated[Principal, Depends(Access("jobs", owner="token"))], token_id: str
) -> None:
    """End a token: it is refused from a second later on, and the sessions of its user's page end with it."""
    services.people.revoke(token_id, caller.owner)
