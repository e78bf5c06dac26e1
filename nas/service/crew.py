"""The workers that `nas serve` starts: child processes that are started again when they die, and end when it ends."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence

from nas.service.errors import ServiceError
from nas.service.settings import Settings

LOOK_S = 0.5
PAUSES_S = (1.0, 30.0)
"""Before a worker that died is started again: at first, and at most."""
WELL_S = 60.0
"""One that has lived so long was well."""
STOP_S = 20.0
PARENT = "NAS_PARENT"
PR_SET_PDEATHSIG = 1

LOG = logging.getLogger("nas.serve")


class Crew:
    """So many processes of one command. Its thread must live as long as they shall: they die with whoever started them."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], count: int) -> None:
        self._command = list(command)
        self._environment = {**environment, PARENT: str(os.getpid())}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(count,), name="crew")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Tell all to end."""
        self._stopping.set()

    def join(self) -> None:
        """Until all have ended; those that take too long are killed."""
        self._thread.join()

    def _run(self, count: int) -> None:
        posts = [_Post(self._command, self._environment) for _ in range(count)]
        while not self._stopping.wait(LOOK_S):
            for post in posts:
                post.look()
        for post in posts:
            post.tell()
        until_s = time.monotonic() + STOP_S
        for post in posts:
            post.end(until_s - time.monotonic())


class _Post:
    """The place of one worker."""

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        self._command = command
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = 0.0
        self._due_s = 0.0
        self._pause_s = PAUSES_S[0]

    def look(self) -> None:
        """Start a worker where there is none and it is time."""
        now_s = time.monotonic()
        if self._process is not None and self._process.poll() is not None:
            if now_s - self._started_s > WELL_S:
                self._pause_s = PAUSES_S[0]
            LOG.warning("a worker ended with %d; the next one starts in %g s", self._process.returncode, self._pause_s)
            self._process = None
            self._due_s = now_s + self._pause_s
            self._pause_s = min(2 * self._pause_s, PAUSES_S[1])
        if self._process is None and now_s >= self._due_s:
            # A session of its own: Ctrl-C reaches the server alone, which then tells its workers.
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.DEVNULL, start_new_session=True
            )
            self._started_s = now_s

    def tell(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def end(self, within_s: float) -> None:
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, within_s))
        except subprocess.TimeoutExpired:
            LOG.warning("a worker did not end within %g s and is killed", STOP_S)
            self._process.kill()
            self._process.wait()


def die_with_parent() -> None:
    """In a worker: end when the server that started it is gone, however it went; nothing in one that was started alone."""
    parent = os.environ.pop(PARENT, "")
    if not parent:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(parent):  # it went while this process started
        raise ServiceError("the server that started this worker is gone")


def environment_of(settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment in which `Settings.of` finds these settings: a password in a URL is not seen among the processes."""
    found = {name: value for name, value in environment.items() if not name.startswith("NAS_")}
    for name, value in settings.to_json().items():
        if value not in (None, "", {}):
            found[f"NAS_{name.upper()}"] = json.dumps(value) if isinstance(value, dict) else str(value)
    return found
