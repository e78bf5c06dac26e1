"""A keeper as its worker sees it: a process that takes orders and says how they ended."""

from __future__ import annotations

import json
import os
import secrets
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from nas.service.orders import Order, Outcome
from nas.service.orphans import MARK, end_marked, remove_ray_folders

Json = Any

COMMAND = (sys.executable, "-m", "nas.service.keeper")
BUFFER_BYTES = 65536
CLOSE_S = 5.0
KILL_S = 3.0
"""A keeper that was told to kill and does not answer is killed itself."""


class Hired:
    """One keeper. All its methods are called by one thread."""

    def __init__(self, process: subprocess.Popen[bytes], mark: str) -> None:
        self._process = process
        self._mark = mark
        self._buffer = b""
        self._ready = False
        self._killed_s: float | None = None

    @staticmethod
    def start(worker: str, command: Sequence[str] = COMMAND) -> Hired:
        """A keeper for this worker; it takes orders at once, and begins them when it has imported what it needs."""
        # In a session of its own: Ctrl-C in a terminal is for the worker, which gives its jobs back.
        mark = f"{worker}/{secrets.token_hex(4)}"
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, MARK: mark},
            start_new_session=True,
        )
        return Hired(process, mark)

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def is_ready(self, timeout_s: float) -> bool:
        """Whether it has imported what it needs; it may take so long yet."""
        if not self._ready:
            message = self._message(timeout_s)
            self._ready = message is not None and "ready" in message
        return self._ready

    def carry_out(self, order: Order) -> None:
        self._killed_s = None
        self._tell({"do": order.to_json()})

    def stop(self, seconds: float) -> None:
        """Have the step that is under way end by itself, and kill it after so many seconds."""
        self._tell({"stop": seconds})

    def kill(self) -> None:
        """End it at once."""
        if self._killed_s is None:
            self._killed_s = time.monotonic()
            self._tell({"kill": True})
        elif time.monotonic() - self._killed_s > KILL_S:
            self._process.kill()

    def outcome(self, timeout_s: float) -> Outcome | None:
        """How the order ended; None if it is under way. A keeper that died is one way, and what it left is ended, too."""
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            message = self._message(left_s)
            if message is not None and "end" in message:
                return Outcome(**message["end"])
            if message is None and not self.is_alive():
                self.close()
                code = self._process.returncode
                return Outcome("failed", "infrastructure", f"the keeper of its processes ended with code {code}")
        return None

    def close(self) -> None:
        """End the keeper and all that it started; where it was killed, that is still to be done."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()
        try:
            self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        end_marked(self._mark.__eq__)
        remove_ray_folders()

    def _tell(self, message: Mapping[str, Json]) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # that it is gone is found out by `outcome`
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def _message(self, timeout_s: float) -> Mapping[str, Json] | None:
        """The next one within this time; None where none comes, or the pipe has ended."""
        assert self._process.stdout is not None
        pipe, deadline = self._process.stdout.fileno(), time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return None
            got = os.read(pipe, BUFFER_BYTES)
            if not got:
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(CLOSE_S)
                return None
            self._buffer += got
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: Mapping[str, Json] = json.loads(line)
        return message
