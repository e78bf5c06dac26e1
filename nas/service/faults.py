"""Whose fault an error is: that decides whether the job is tried again."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator

from latency_tables.errors import BusyError, LatencyError
from nas.errors import FaultError, JobError
from nas.service.errors import NotFound, ServiceError
from nas.service.orders import Outcome
from search_spaces import SpaceError
from supernets.errors import SupernetError

LONGEST = 2000

# The first that fits: what is special comes before what is general.
_KINDS: tuple[tuple[str, tuple[type[BaseException], ...]], ...] = (
    ("infrastructure", (FaultError, BusyError)),
    ("user", (JobError, SpaceError, SupernetError, LatencyError, NotFound)),
    ("infrastructure", (ServiceError, OSError)),
)
# Disks and descriptors that ran out or broke, whatever our own error says was not possible because of it.
_BROKEN = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ESTALE)
# torch, ONNX Runtime and C++ have no class of error for it.
_NO_MEMORY = ("not enough memory", "out of memory", "can't allocate memory", "failed to allocate memory", "bad_alloc")


def failed(error: BaseException) -> Outcome:
    """The outcome of a step that raised this; a bug comes with its trace."""
    fault = fault_of(error)
    said = " ".join(str(error).split())[:LONGEST]
    if fault == "bug":
        trace = "".join(traceback.format_exception(error))
        return Outcome("failed", fault, f"{type(error).__name__}: {said}", trace[-10 * LONGEST :])
    return Outcome("failed", fault, said or type(error).__name__)


def fault_of(error: BaseException) -> str:
    """`user`, `infrastructure`, `memory`, or `bug` where nothing else is known of it."""
    for each in _chain(error):
        if isinstance(each, MemoryError) or getattr(each, "errno", None) == errno.ENOMEM:
            return "memory"
        if isinstance(each, RuntimeError) and any(words in str(each).lower() for words in _NO_MEMORY):
            return "memory"
        if isinstance(each, OSError) and each.errno in _BROKEN:
            return "infrastructure"
    for fault, kinds in _KINDS:
        if isinstance(error, kinds):
            return fault
    return "infrastructure" if type(error).__module__.partition(".")[0] == "ray" else "bug"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__
