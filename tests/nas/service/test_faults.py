"""Whose fault an error is."""

import errno

import pytest

from latency_tables.errors import BusyError, LatencyError, TableError
from nas.errors import FaultError, JobError
from nas.service.errors import NotFound, Unavailable
from nas.service.faults import failed, fault_of
from search_spaces import SpaceError
from supernets.errors import DataError


def from_(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (JobError("x"), "user"),
        (SpaceError("x"), "user"),
        (DataError("x"), "user"),
        (TableError("x"), "user"),
        (NotFound("no such upload"), "user"),
        (FaultError("Ray ended"), "infrastructure"),
        (BusyError("somebody measures"), "infrastructure"),
        (Unavailable("the database is away"), "infrastructure"),
        (ConnectionResetError(), "infrastructure"),
        (OSError(errno.ENOSPC, "full"), "infrastructure"),
        (from_(LatencyError("cannot be written"), OSError(errno.ENOSPC, "full")), "infrastructure"),
        (from_(DataError("cannot be read"), OSError(errno.ENOENT, "gone")), "user"),
        (MemoryError(), "memory"),
        (OSError(errno.ENOMEM, "cannot allocate memory"), "memory"),
        (from_(JobError("x"), MemoryError()), "memory"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"), "memory"),
        (RuntimeError("CUDA out of memory"), "memory"),
        (RuntimeError("shapes do not fit"), "bug"),
        (KeyError("x"), "bug"),
        (ZeroDivisionError(), "bug"),
    ],
)
def test_the_fault_of_an_error_is_the_one_that_trying_again_depends_on(error, fault):
    assert fault_of(error) == fault
    assert failed(error).fault == fault


def test_only_a_bug_comes_with_its_trace_and_all_come_in_one_line():
    outcome = failed(JobError("one\n  two"))
    assert (outcome.message, outcome.trace) == ("one two", "")
    assert outcome.error == {"kind": "user", "message": "one two"}
    outcome = failed(KeyError("x"))
    assert outcome.message == "KeyError: 'x'"
    assert "KeyError" in outcome.error["traceback"]


def test_an_error_that_causes_itself_ends():
    error, other = JobError("a"), JobError("b")
    error.__cause__, other.__cause__ = other, error
    assert fault_of(error) == "user"


def test_an_error_without_words_has_a_name():
    assert failed(MemoryError()).message == "MemoryError"
