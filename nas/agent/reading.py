"""Reading what came over the wire: plain JSON in, checked values out, and `AgentError` names what is wrong."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from latency_tables.errors import LatencyError
from nas.agent.errors import AgentError

Json = Any
T = TypeVar("T")

MAX_NAME = 200
MAX_MESSAGE = 1000

_ID = re.compile(r"[0-9a-z_-]{1,64}")


def read_json(body: bytes) -> Json:
    """What the bytes say, which may be no NaN or infinity and nothing that is nested without end."""
    try:
        return json.loads(body, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise AgentError(f"not JSON: {error}"[:MAX_MESSAGE]) from error


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text[:40]} is not a number that can be used")


def _finite(text: str) -> float:
    found = float(text)
    return found if math.isfinite(found) else _refuse(text)


def read_id(value: Json) -> str:
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise AgentError(f"an id is of small letters, digits, '_' and '-', not {value!r:.80}")
    return value


def checked(what: str, read: Callable[[Json], T], document: Json) -> T:
    """What `read` makes of it, its complaints as ours."""
    try:
        return read(document)
    except (LatencyError, KeyError, TypeError, OverflowError) as error:
        raise AgentError(f"{what}: {error}"[:MAX_MESSAGE]) from error


def read_object(what: str, document: Json, names: Sequence[str]) -> dict[str, Json]:
    if not isinstance(document, dict) or sorted(document) != sorted(names):
        raise AgentError(f"{what}: wanted an object with {', '.join(names)}")
    return dict(document)


def read_list(what: str, value: Json, most: int) -> list[Json]:
    if not isinstance(value, list | tuple) or len(value) > most:
        raise AgentError(f"{what}: wanted a list of at most {most}")
    return list(value)


def read_pairs(what: str, value: Json) -> list[tuple[str, Json]]:
    pairs = read_list(what, value, 64)
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise AgentError(f"{what}: wanted pairs of a name and a value")
    return [(read_name(what, name), extent) for name, extent in pairs]


def read_text(what: str, value: Json) -> str:
    if not isinstance(value, str) or len(value) > MAX_MESSAGE:
        raise AgentError(f"{what}: wanted a text of at most {MAX_MESSAGE} characters")
    return value


def read_name(what: str, value: Json) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME or not value.isprintable():
        raise AgentError(f"{what}: wanted 1 to {MAX_NAME} printable characters, not {value!r:.80}")
    return value


def read_whole(what: str, value: Json, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise AgentError(f"{what}: wanted a whole number from {low} to {high}, not {value!r:.80}")
    return value


def read_number(what: str, value: Json) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise AgentError(f"{what}: wanted a number, not {value!r:.80}")
    return float(value)
