"""/v1/uploads: files that users send. A body is streamed to where it is inspected; nothing of it is believed before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Literal, TypeVar

from anyio import from_thread, to_thread
from fastapi import APIRouter, Depends, Query, Request
from starlette.requests import ClientDisconnect

from nas.api.access import Access
from nas.api.documents import UploadDocument, UploadPage, cursor_of, row_id_of
from nas.api.refusals import Refusal, documented
from nas.api.services import Services, services_of
from nas.service.blobs import TooLarge
from nas.service.people import Principal
from nas.service.settings import GIB_BYTES

T = TypeVar("T")

UPLOAD_LIMIT_BYTES = 2 * GIB_BYTES
"""What a route can take at most; the settings of the service may say less."""
SIDE_BY_SIDE = 8
"""Uploads at a time. Each holds a thread while its body comes; the others wait, and everybody else is answered meanwhile."""

router = APIRouter(prefix="/v1", tags=["uploads"])

Found = Annotated[Services, Depends(services_of)]
Owned = Annotated[Principal, Depends(Access("models", owner="upload"))]


@router.post(
    "/uploads",
    status_code=201,
    responses=documented(400, 413, 422),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def upload(
    services: Found,
    caller: Annotated[Principal, Depends(Access("models", owner="caller", body_limit_bytes=UPLOAD_LIMIT_BYTES))],
    request: Request,
    kind: Annotated[Literal["onnx", "safetensors", "parquet"], Query()],
    name: Annotated[str, Query(min_length=1, max_length=200)],
) -> UploadDocument:
    """Send a file: the body is its bytes. It is inspected, and refused in one line where it is not what `kind` says."""
    limit_bytes = services.settings.upload_limit_bytes
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit_bytes:
        raise TooLarge(f"an upload may have {limit_bytes:,} bytes")
    add = partial(services.uploads.add, caller.user_id or "", kind, name, _chunks(request), limit_bytes)
    try:
        found = await to_thread.run_sync(add, limiter=request.app.state.upload_threads)
    except ClientDisconnect as error:
        raise Refusal(400, "refused", "the upload broke off") from error
    return UploadDocument.of(found)


@router.get("/uploads", responses=documented(422))
def page(
    services: Found,
    caller: Annotated[Principal, Depends(Access("models", owner="caller"))],
    before: Annotated[str | None, Query(max_length=100)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> UploadPage:
    """One's own uploads, newest first."""
    found = services.uploads.page(caller.user_id or "", before=row_id_of(before), limit=limit + 1)
    shown = found[:limit]
    following = cursor_of(shown[-1].id) if len(found) > limit else None
    return UploadPage(uploads=[UploadDocument.of(each) for each in shown], next=following)


@router.get("/uploads/{upload_id}", responses=documented(404))
def show(caller: Owned, upload_id: str, request: Request) -> UploadDocument:
    """One upload."""
    return UploadDocument.of(request.state.owned)


@router.delete("/uploads/{upload_id}", status_code=204, responses=documented(404, 409))
def delete(services: Found, caller: Owned, upload_id: str) -> None:
    """Forget an upload."""
    services.uploads.delete(upload_id, caller.owner)


def _chunks(request: Request) -> Iterator[bytes]:
    """The body as it comes, for a thread that reads it."""
    stream = request.stream()
    following: Callable[[], bytes | None] = partial(from_thread.run, anext, stream, None)
    while chunk := following():
        yield chunk
