"""One measurement at a time on a machine: a file lock that dies with its process."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from latency_tables.errors import BusyError, LatencyError

POLL_S = 0.05
SAY_EVERY_S = 10.0


def lock_path() -> Path:
    """The file that this user's measurements lock. It is never removed: a removed file could be locked twice."""
    return Path(tempfile.gettempdir()) / f"nas-measure-{os.getuid()}.lock"


@contextmanager
def exclusive(
    timeout_s: float, path: Path | None = None, on_wait: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Hold the machine for measuring, against other processes and other threads of this one.

    Waits up to `timeout_s`, then `BusyError` says for whom. Meanwhile `on_wait` gets a line that says so, at once and
    every few seconds.
    """
    place = lock_path() if path is None else path
    # The name is easy to guess and the folder open to all: never write through somebody's link.
    try:
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise LatencyError(f"the measurement lock {place} cannot be opened: {error.strerror}; remove it") from error
    try:
        _acquire(descriptor, timeout_s, place, on_wait or (lambda line: None))
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, timeout_s: float, place: Path, on_wait: Callable[[str], None]) -> None:
    deadline = time.monotonic() + timeout_s
    said_at = -float("inf")
    while True:
        try:
            # Of the open file, not of the process: threads that open it for themselves exclude each other as well.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            now = time.monotonic()
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            if now >= deadline:
                raise BusyError(
                    f"process {holder} is measuring on this machine (lock {place}); waited {timeout_s:g} s: "
                    "wait for it to end or allow more time"
                ) from None
            if now - said_at >= SAY_EVERY_S:
                on_wait(f"waiting for process {holder}, which is measuring on this machine")
                said_at = now
            time.sleep(POLL_S)
