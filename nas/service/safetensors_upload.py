"""The header of a safetensors file, by the rules of the format; the weights themselves are not read.

The format: 8 bytes with the length of the header, little-endian; the header, a JSON object of names to {dtype, shape,
data_offsets}; then the tensors, which fill the rest of the file without holes.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any

from nas.service.refusal import UploadRefused, shown

Json = Any

MOST_HEADER_BYTES = 100_000_000
MOST_TENSORS = 100_000
MOST_RANK = 32
# Of one element. Elements of less than a byte are packed.
BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}


def inspect_safetensors(descriptor: int) -> dict[str, Json]:
    """{tensors, parameters, dtypes} of an open file. Raises `UploadRefused`."""
    size = os.fstat(descriptor).st_size
    length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
    if size < 8 or length > min(size - 8, MOST_HEADER_BYTES):
        raise UploadRefused(
            f"its header should have {length:,} bytes, and the file has {size:,}; it is cut off or damaged"
        )
    header = _parsed(os.pread(descriptor, length, 8))
    _check_metadata(header.pop("__metadata__", {}))
    if len(header) > MOST_TENSORS:
        raise UploadRefused(f"it has {len(header):,} tensors; {MOST_TENSORS:,} are taken")
    spans = []
    parameters = 0
    for name, entry in header.items():
        begin, end, elements = _checked(name, entry)
        spans.append((begin, end))
        parameters += elements
    _check_cover(spans, size - 8 - length)
    dtypes = sorted({entry["dtype"] for entry in header.values()})
    return {"tensors": len(header), "parameters": parameters, "dtypes": dtypes}


def _parsed(text: bytes) -> dict[str, Json]:
    try:
        found = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise UploadRefused("its header is not the JSON of a safetensors file") from error
    if not text.startswith(b"{") or not isinstance(found, dict):
        raise UploadRefused("its header is not a JSON object")
    return found


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise UploadRefused("its header names something twice")
    return found


def _no_constant(word: str) -> Json:
    raise ValueError(f"{word} is not JSON")


def _check_metadata(found: Json) -> None:
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise UploadRefused("its __metadata__ must be an object of texts")


def _checked(name: str, entry: Json) -> tuple[int, int, int]:
    """Where a tensor begins and ends, and its elements."""
    where = f"tensor {shown(name)!r}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise UploadRefused(f"{where}: wanted dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise UploadRefused(f"{where}: its dtype is none of {', '.join(BITS)}")
    if not _whole(shape) or len(shape) > MOST_RANK:
        raise UploadRefused(f"{where}: its shape must be at most {MOST_RANK} whole numbers from 0")
    if not _whole(offsets) or len(offsets) != 2:
        raise UploadRefused(f"{where}: its data_offsets must be two whole numbers")
    elements = math.prod(shape)
    if (offsets[1] - offsets[0]) * 8 != elements * BITS[dtype]:
        raise UploadRefused(f"{where}: its data does not have the length that its shape and dtype say")
    return offsets[0], offsets[1], elements


def _whole(found: Json) -> bool:
    return isinstance(found, list) and all(type(each) is int and 0 <= each < 2**63 for each in found)


def _check_cover(spans: list[tuple[int, int]], size: int) -> None:
    """The tensors follow each other from the first byte to the last."""
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            raise UploadRefused("its tensors overlap, or leave holes between them")
        at = end
    if at != size:
        raise UploadRefused(f"its tensors end at byte {at:,} of {size:,}; it is cut off, or something follows them")
