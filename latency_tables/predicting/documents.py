"""Files of predictors: JSON documents that say whether they were changed, and reading numbers out of them."""

from __future__ import annotations

import json
import math
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_tables.errors import LatencyError
from latency_tables.files import write_atomically
from search_spaces import Space, SpaceError, canonical_json, slots

PREDICTOR_FORMAT = "nas.latency_predictor/2"

F64 = NDArray[np.float64]
Json = Any


def write_document(path: str | os.PathLike[str], document: dict[str, Json]) -> None:
    """Write canonical JSON with the SHA-256 of itself in front, whole or not at all."""
    body = canonical_json(document)
    write_atomically(path, f'{{"digest":"{sha256(body.encode()).hexdigest()}",{body[1:]}\n')


def read_document(path: str | os.PathLike[str], wanted: str) -> dict[str, Json]:
    """The JSON object that `write_document` wrote, of this format and unchanged; `LatencyError` says what is wrong."""
    try:
        document = json.loads(Path(path).read_bytes(), object_pairs_hook=_finite_object)
    except OSError as error:
        raise LatencyError(f"cannot be read: {error.strerror}") from error
    except LatencyError:
        raise
    except (ValueError, RecursionError) as error:
        raise LatencyError(f"not a whole JSON document: {error}") from error
    if not isinstance(document, dict):
        raise LatencyError(f"wanted a JSON object, found {type(document).__name__}")
    if (found := document.get("format")) != wanted:
        raise LatencyError(f"format: wanted {wanted!r}, found {found!r}; make the file anew")
    stated = document.pop("digest", None)
    if stated != sha256(canonical_json(document).encode()).hexdigest():
        raise LatencyError("digest: the content was changed after it was written; make the file anew")
    return document


def _finite_object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    """Python reads NaN and infinities, which are not JSON, and 1e999, which is none."""
    for name, value in pairs:
        if (wrong := _not_finite(value)) is not None:
            raise LatencyError(f"{name}: wanted finite numbers, found {wrong}")
    return dict(pairs)


def _not_finite(value: Json) -> float | None:
    if isinstance(value, list):
        return next((wrong for each in value if (wrong := _not_finite(each)) is not None), None)
    return value if isinstance(value, float) and not math.isfinite(value) else None


def field(document: dict[str, Json], name: str) -> Json:
    """A field that has to be there."""
    if name not in document:
        raise LatencyError(f"{name}: missing")
    return document[name]


def number(document: dict[str, Json], name: str, low: float = -math.inf) -> float:
    """One finite number, at least `low`."""
    return float(array(document, name, (), low))


def array(document: dict[str, Json], name: str, shape: tuple[int | None, ...], low: float = -math.inf) -> F64:
    """Nested lists of finite numbers, at least `low`; None in `shape` is any extent."""
    return as_array(field(document, name), name, shape, low)


def as_array(value: Json, name: str, shape: tuple[int | None, ...], low: float = -math.inf) -> F64:
    """The same of a value that is not a field of its own; `name` is what the error says."""
    try:
        found = np.array(value)
    except ValueError as error:
        raise LatencyError(f"{name}: wanted {_extents(shape)}, found lists of unequal lengths") from error
    if found.size == 0:
        found = found.astype(np.float64)
    if found.dtype.kind not in "fi":
        raise LatencyError(f"{name}: wanted numbers, found {_first(found)}")
    fits = found.ndim == len(shape) and all(w in (None, n) for w, n in zip(shape, found.shape, strict=True))
    if not fits:
        raise LatencyError(f"{name}: wanted {_extents(shape)}, found {_extents(found.shape)}")
    if not np.isfinite(found).all() or (found < low).any():
        bound = "" if low == -math.inf else f" of {low:g} or more"
        raise LatencyError(f"{name}: wanted finite numbers{bound}, found {_bad(found, low)}")
    return found.astype(np.float64)


def space_of(document: dict[str, Json]) -> Space:
    """The `space` of a document."""
    try:
        space = Space.from_json(field(document, "space"))
        slots(space)  # a space of an unknown family, or without choices that its family needs, has none
    except SpaceError as error:
        raise LatencyError(f"space: {error}") from error
    return space


def _extents(shape: tuple[int | None, ...]) -> str:
    if not shape:
        return "one number"
    return " x ".join("any" if extent is None else str(extent) for extent in shape) + " numbers"


def _first(found: NDArray[Any]) -> str:
    return repr(found.ravel()[0].item() if found.dtype.kind != "O" else found.ravel()[0])[:60]


def _bad(found: NDArray[Any], low: float) -> str:
    return str(found[~np.isfinite(found) | (found < low)].ravel()[0])
