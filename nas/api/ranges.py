"""Downloads: `Range` and `If-Range` (RFC 9110, section 14), one range of bytes, and the bytes themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO

from starlette.datastructures import Headers
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from nas.api.refusals import Refusal

CHUNK_BYTES = 256 * 1024

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes from `start` to before `stop`; `partial` where they were asked for as a range."""

    start: int
    stop: int
    partial: bool


def span_of(headers: Headers, size_bytes: int, etag: str) -> Span:
    """What of a file is asked for, all of it where that is more than one range; a `Refusal` where it begins behind the end."""
    whole = Span(0, size_bytes, False)
    found = _RANGE.fullmatch(headers.get("range", "").strip())
    if found is None or headers.get("if-range", etag) != etag or found[1] == found[2] == "":
        return whole
    if found[1] == "":
        start, stop = max(0, size_bytes - int(found[2])), size_bytes
    else:
        start, stop = int(found[1]), min(size_bytes, int(found[2] or size_bytes) + 1)
    if start >= size_bytes:
        raise Refusal(
            416, "range_not_satisfiable", f"the file has {size_bytes} bytes", {"Content-Range": f"bytes */{size_bytes}"}
        )
    return whole if stop <= start else Span(start, stop, True)


class Download(StreamingResponse):
    """A span of an open file, which is closed in the end, however that comes. What is wrong with the beginning of a file, and
    so with all of a small one, is raised when this is made and not while it is sent."""

    def __init__(self, file: BinaryIO, span: Span, headers: Mapping[str, str], media_type: str) -> None:
        self._file = file
        try:
            found = _parts(file, span)
            content = chain([next(found)], found)
        except BaseException:
            file.close()
            raise
        super().__init__(content, 206 if span.partial else 200, headers, media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._file.close()


def _parts(file: BinaryIO, span: Span) -> Iterator[bytes]:
    """The last part is held back until the whole has been compared with its digest, so that a damaged file never arrives
    whole: the answer is broken off."""
    if span.start:
        file.seek(span.start)
    left, held = span.stop - span.start, b""
    while left and (chunk := file.read(min(CHUNK_BYTES, left))):
        left -= len(chunk)
        if held:
            yield held
        held = chunk
    if not span.partial:
        file.read(1)
    yield held
