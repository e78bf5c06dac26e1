"""One measurement at a time on a machine: a file lock that dies with its process."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from latency_tables.errors import BusyError, LatencyError

POLL_S = 0.05


def lock_path() -> Path:
    """The file that this user's measurements lock. It is never removed: a removed file could be locked twice."""
    return Path(tempfile.gettempdir()) / f"nas-measure-{os.getuid()}.lock"


@contextmanager
def exclusive(timeout_s: float, path: Path | None = None) -> Iterator[None]:
    """Hold the machine for measuring; wait up to `timeout_s` for another process, then `BusyError` says which."""
    place = lock_path() if path is None else path
    # The name is easy to guess and the folder open to all: never write through somebody's link.
    try:
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise LatencyError(f"the measurement lock {place} cannot be opened: {error.strerror}; remove it") from error
    try:
        _acquire(descriptor, timeout_s, place)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, timeout_s: float, place: Path) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
                raise BusyError(
                    f"process {holder} is measuring on this machine (lock {place}); waited {timeout_s:g} s: "
                    "wait for it to end or allow more time"
                ) from None
            time.sleep(POLL_S)
