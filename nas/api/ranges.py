"""`Range` and `If-Range` of a download (RFC 9110, section 14): one range of bytes; others are answered with the whole."""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.datastructures import Headers

from nas.api.refusals import Refusal

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes from `start` to before `stop`; `partial` where they were asked for as a range."""

    start: int
    stop: int
    partial: bool


def span_of(headers: Headers, size_bytes: int, etag: str) -> Span:
    """What of a file is asked for; a `Refusal` for a range that begins behind its end."""
    whole = Span(0, size_bytes, False)
    found = _RANGE.fullmatch(headers.get("range", "").strip())
    if found is None or headers.get("if-range", etag) != etag or found[1] == found[2] == "":
        return whole
    if found[1] == "":
        start, stop = max(0, size_bytes - int(found[2])), size_bytes
    else:
        start, stop = int(found[1]), min(size_bytes, int(found[2] or size_bytes) + 1)
    if start >= size_bytes or (found[2] == "0" and found[1] == ""):
        raise Refusal(
            416, "range_not_satisfiable", f"the file has {size_bytes} bytes", {"Content-Range": f"bytes */{size_bytes}"}
        )
    return whole if stop <= start else Span(start, stop, True)
