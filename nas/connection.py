"""How a client reaches a service: which token it shows, what it makes of refusals, and how long it tries."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import httpx

Json = Any

DEFAULT_URL = "http://127.0.0.1:8023"
DEFAULT_DATA = "nas-data"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
AGAIN = (502, 503, 504)
"""Answers after which the same may be asked again."""


class ClientError(RuntimeError):
    """The service refused, or could not be reached; `status` is that of HTTP, 0 without an answer."""

    def __init__(self, message: str, status: int = 0, code: str = "unreachable") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def token_for(url: str, environment: Mapping[str, str] = os.environ) -> str:
    """The token to show to a service: NAS_TOKEN, the file NAS_TOKEN_FILE, or, on this machine, the one of `nas serve`."""
    if environment.get("NAS_TOKEN"):
        return environment["NAS_TOKEN"].strip()
    named = environment.get("NAS_TOKEN_FILE")
    local = Path(environment.get("NAS_DATA") or DEFAULT_DATA) / "token"
    file = Path(named) if named else local
    # The local service's own token is nobody else's business.
    if named is None and urlsplit(url).hostname not in LOOPBACK:
        raise ClientError(
            f"{url} needs a token: set NAS_TOKEN, or NAS_TOKEN_FILE to a file that holds one", 401, "no_token"
        )
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ClientError(
            f"no token: {file} cannot be read ({error.strerror}); set NAS_TOKEN or NAS_TOKEN_FILE, or NAS_DATA to the folder "
            "of `nas serve`",
            401,
            "no_token",
        ) from error


class Patience:
    """Pauses between attempts that grow, with a chance so that clients do not come back all at once."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.renew()

    def renew(self) -> None:
        """What troubled before is over."""
        self._until_s = time.monotonic() + self._seconds
        self._pause_s = 0.1

    def wait(self, trouble: Exception) -> None:
        """Pause; raises `trouble` once it has lasted too long."""
        if time.monotonic() + self._pause_s > self._until_s:
            raise trouble
        time.sleep(self._pause_s * random.uniform(0.5, 1.0))
        self._pause_s = min(5.0, 2 * self._pause_s)


def check(answer: httpx.Response) -> None:
    """`ClientError` for a refusal, with the service's own words."""
    if answer.status_code < 400:
        return
    answer.read()
    try:
        said = answer.json()["error"]
        message, code = str(said["message"]), str(said["code"])
    except (ValueError, KeyError, TypeError):
        message, code = f"{answer.url} answered {answer.status_code} and is perhaps no nas service", "unknown"
    raise ClientError(message, answer.status_code, code)


def document_of(answer: httpx.Response) -> dict[str, Json]:
    try:
        found = answer.json()
    except ValueError as error:
        raise ClientError(f"{answer.url} did not answer in JSON; is it a nas service?") from error
    if not isinstance(found, dict):
        raise ClientError(f"{answer.url} answered something else than a nas service does")
    return found
