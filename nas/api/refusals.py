"""Every answer that is not what was asked for: `{"error": {"code", "message"}}` and a status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from latency_tables.errors import LatencyError
from nas.errors import JobError
from nas.service.blobs import BlobDamaged, BlobMissing, TooLarge
from nas.service.errors import Conflict, LeaseLost, LimitReached, NotFound, ServiceError, Unavailable
from nas.service.refusal import UploadRefused
from search_spaces import SpaceError
from supernets.errors import SupernetError

# What clients that see it should wait before they ask again.
RETRY_AFTER_S = 2

# The first class that fits, from special to general.
STATUSES: Mapping[type[Exception], tuple[int, str]] = {
    NotFound: (404, "not_found"),
    Conflict: (409, "conflict"),
    LeaseLost: (409, "lease_lost"),
    LimitReached: (429, "limit_reached"),
    Unavailable: (503, "unavailable"),
    TooLarge: (413, "too_large"),
    BlobMissing: (500, "damaged"),
    BlobDamaged: (500, "damaged"),
    UploadRefused: (422, "invalid"),
    ServiceError: (400, "refused"),
    JobError: (422, "invalid"),
    SpaceError: (422, "invalid"),
    SupernetError: (422, "invalid"),
    LatencyError: (422, "invalid"),
}
CODES = {
    400: "refused",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    409: "conflict",
    413: "too_large",
    416: "range_not_satisfiable",
    422: "invalid",
    429: "limit_reached",
    500: "internal",
    503: "unavailable",
}


class ErrorBody(BaseModel):
    """What was wrong, in a word for programs and a line for people."""

    code: str
    message: str


class ErrorDocument(BaseModel):
    """The body of every answer from 400 on."""

    error: ErrorBody


class Refusal(HTTPException):
    """An answer that is not what was asked for, with its code."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.code = code


def refused(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer to what cannot be done."""
    given = dict(headers or {})
    if status == 401:
        given.setdefault("WWW-Authenticate", "Bearer")
    if status in (429, 503):
        given.setdefault("Retry-After", str(RETRY_AFTER_S))
    # A name with a lone surrogate would otherwise make the refusal itself fail.
    line = " ".join(message.split()).encode(errors="replace").decode()
    return JSONResponse({"error": {"code": code, "message": line}}, status, given)


def handle(app: FastAPI) -> None:
    """Give an app these answers for all that its routes raise but bugs."""
    for kind in STATUSES:
        app.add_exception_handler(kind, _of_known)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(RequestValidationError, _of_validation)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For OpenAPI: the refusals that a route can give, beside those that all give."""
    return {status: {"model": ErrorDocument, "description": CODES[status]} for status in statuses}


def _of_known(request: Request, error: Exception) -> Response:
    status, code = next(answer for kind, answer in STATUSES.items() if isinstance(error, kind))
    return refused(status, code, str(error))


def _of_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = error.code if isinstance(error, Refusal) else CODES.get(error.status_code, "refused")
    return refused(error.status_code, code, str(error.detail), error.headers)


def _of_validation(request: Request, error: Exception) -> Response:
    """The first thing that is wrong with a query, a header or a body."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return refused(422, "invalid", f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}"[:500])
