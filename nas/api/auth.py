"""Who is asking: bearer tokens, the page's session in a cookie, logging in and out."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import Response

from nas.api.refusals import Refusal
from nas.api.services import Front
from nas.service.people import SESSION_S, People, Principal, hash_of

# A revoked token is refused after this long at the latest.
KEEP_S = 0.8
TOUCH_S = 60.0
FAILURES = 10
"""Wrong tokens from one address within a minute; more are not looked at."""
MOST_KNOWN = 10_000


class Doorkeeper:
    """Finds out who asks. What it has found out it remembers for less than a second."""

    def __init__(self, people: People, front: Front, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._people = people
        self._front = front
        self._clock_s = clock_s
        self._known: dict[str, tuple[Principal, float]] = {}
        self._touched: dict[str, float] = {}
        self._failures = Failures(clock_s)

    @property
    def cookie(self) -> str:
        """Under TLS a name that browsers take from this very host alone."""
        return "__Host-nas" if self._front.tls else "nas_session"

    async def principal(self, request: Request) -> Principal | None:
        """Whoever asks, by token or by cookie; None without either. A wrong token is a `Refusal`."""
        header = request.headers.get("authorization")
        if header is None:
            key = request.cookies.get(self.cookie)
            return None if key is None else await self._looked_up(key, self._people.in_session)
        kind, _, secret = header.partition(" ")
        principal = await self._looked_up(secret, self._holder) if kind.lower() == "bearer" else None
        if principal is None:
            self._failures.count(_address(request))
            raise Refusal(401, "unauthorized", "this token is unknown, expired or revoked")
        return principal

    async def still(self, request: Request) -> bool:
        """Whether who began a long answer may still have it."""
        try:
            return await self.principal(request) is not None
        except Refusal:
            return False

    def sign_in(self, request: Request, secret: str, response: Response) -> Principal:
        """Open a session for who shows a token or a login code, and set its cookie; `Refusal` for any other."""
        _check_origin(request)
        address = _address(request)
        self._failures.check(address)
        opened = self._people.open_session(secret.strip())
        if opened is None:
            self._failures.count(address)
            raise Refusal(401, "unauthorized", "this token or code is unknown, used up, expired or revoked")
        key, principal = opened
        response.set_cookie(
            self.cookie, key, max_age=int(SESSION_S), path="/", secure=self._front.tls, httponly=True, samesite="lax"
        )
        return principal

    def sign_out(self, request: Request, response: Response) -> None:
        """End the session of the cookie."""
        key = request.cookies.get(self.cookie)
        if key is not None:
            self._known.pop(hash_of(key), None)
            self._people.close_session(key)
        response.delete_cookie(self.cookie, path="/", secure=self._front.tls, httponly=True, samesite="lax")

    async def _looked_up(self, secret: str, find: Callable[[str], Principal | None]) -> Principal | None:
        digest, now_s = hash_of(secret), self._clock_s()
        principal, until_s = self._known.get(digest, (None, now_s))
        if now_s < until_s:
            return principal
        found = await run_in_threadpool(find, secret)
        if found is None:
            self._known.pop(digest, None)
        else:
            _make_room(self._known)
            self._known[digest] = (found, now_s + KEEP_S)
        return found

    def _holder(self, secret: str) -> Principal | None:
        found = self._people.holder(secret)
        if found is not None and self._clock_s() - self._touched.get(hash_of(secret), -TOUCH_S) >= TOUCH_S:
            _make_room(self._touched)
            self._touched[hash_of(secret)] = self._clock_s()
            self._people.touch(secret)
        return found


class Failures:
    """Wrong logins by address, within a minute."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self._since: dict[str, tuple[float, int]] = {}

    def check(self, address: str) -> None:
        """`Refusal` for an address that has failed too often."""
        begun_s, count = self._since.get(address, (0.0, 0))
        if count >= FAILURES and self._clock_s() - begun_s < 60.0:
            raise Refusal(429, "limit_reached", "too many wrong logins; try again in a minute", {"Retry-After": "60"})

    def count(self, address: str) -> None:
        """Count one; `Refusal` when it was one too many."""
        self.check(address)
        begun_s, count = self._since.get(address, (-60.0, 0))
        if self._clock_s() - begun_s >= 60.0:
            begun_s, count = self._clock_s(), 0
        _make_room(self._since)
        self._since[address] = (begun_s, count + 1)


def _make_room(known: dict[str, Any]) -> None:
    """Forget everything where there is too much of it: it is found out again."""
    if len(known) >= MOST_KNOWN:
        known.clear()


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else ""


def _check_origin(request: Request) -> None:
    """A login has no session yet whose token could tell our form from another site's; browsers say where it stood."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise Refusal(403, "forbidden", "log in from the page of the service itself")
