"""Looking into uploads, each in a process of its own that is allowed nearly nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import weakref
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from queue import Empty, LifoQueue
from typing import Any

from nas.service.confinement import Limits
from nas.service.errors import LimitReached, Unavailable
from nas.service.refusal import UploadRefused
from nas.service.signatures import HEAD_BYTES, check_signature

Json = Any

MIB_BYTES = 1 << 20
PATIENCE_S = 60.0
"""For the processes to be done with other uploads."""
_START_S = 60.0
_SLACK_S = 5.0
_MOST_ANSWER_BYTES = 200_000
# The network is shut off before anything is imported: later there are threads, and the kernel would refuse.
_PROGRAM = (
    "import socket, sys; from nas.service.confinement import shut_off; shut_off(); "
    "from nas.service.inspector import serve; serve(socket.socket(fileno=int(sys.argv[1])))"
)


def limits_of(kind: str, size_bytes: int) -> Limits:
    """What looking into a file of so many bytes may take.

    An ONNX file is in memory as bytes, as a message, and two to three times in the runtime; of the others only pieces are.
    """
    memory_bytes = {"onnx": 768 * MIB_BYTES + 5 * size_bytes}.get(kind, 512 * MIB_BYTES)
    cpu_s = 20 + size_bytes // (25 * MIB_BYTES)
    return Limits(memory_bytes, cpu_s, 3.0 * cpu_s)


class Inspectors:
    """Looks into files, so many at a time, for any number of threads.

    The processes are started when they are first needed, and replaced when something is wrong with them. They end with this
    object, or with this process.
    """

    def __init__(self, count: int = 2) -> None:
        self._idle: LifoQueue[_Inspector | None] = LifoQueue()
        for _ in range(count):
            self._idle.put(None)

    def __call__(self, kind: str, path: Path) -> dict[str, Json]:
        """The facts of a file. Raises `UploadRefused`, and `LimitReached` where too many wait."""
        with path.open("rb") as file:
            check_signature(kind, file.read(HEAD_BYTES))
            try:
                inspector = self._idle.get(timeout=PATIENCE_S)
            except Empty as error:
                raise LimitReached("too many uploads are being looked into; try again in a minute") from error
            kept: _Inspector | None = None
            try:
                if inspector is None or not inspector.alive:
                    inspector = _Inspector()
                answer = inspector.ask(kind, file.fileno(), limits_of(kind, path.stat().st_size))
                kept = inspector
            finally:
                if kept is None and inspector is not None:
                    inspector.stop()
                self._idle.put(kept)
        return _facts(answer)

    def close(self) -> None:
        """End the processes that have nothing to do; another file starts them again."""
        idle = []
        with suppress(Empty):
            while True:
                idle.append(self._idle.get_nowait())
        for inspector in idle:
            if inspector is not None:
                inspector.stop()
            self._idle.put(None)


class _Inspector:
    """One such process."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {"PATH": os.defpath, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        if "PYTHONPATH" in os.environ:
            places = os.environ["PYTHONPATH"].split(os.pathsep)
            environment["PYTHONPATH"] = os.pathsep.join(str(Path(place).absolute()) for place in places)
        with theirs, tempfile.TemporaryDirectory() as folder:
            self._process = subprocess.Popen(
                # -P: what lies in the working folder is not imported.
                [sys.executable, "-P", "-c", _PROGRAM, str(theirs.fileno())],
                cwd=folder,
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.stop = weakref.finalize(self, _stop, self._process, self._channel)
        self._first = True

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, kind: str, descriptor: int, limits: Limits) -> dict[str, Json]:
        """What the process says of an open file. Raises `UploadRefused` and `Unavailable`; then it is to be stopped."""
        self._channel.settimeout(limits.wall_s + _SLACK_S + (_START_S if self._first else 0.0))
        try:
            request = json.dumps({"kind": kind, "limits": asdict(limits)}).encode()
            socket.send_fds(self._channel, [request], [descriptor])
            answer = self._channel.recv(_MOST_ANSWER_BYTES)
        except TimeoutError as error:
            raise UploadRefused(f"it could not be read within {limits.wall_s:g} s") from error
        except OSError as error:
            raise Unavailable(f"uploads cannot be looked into: {error.strerror}") from error
        if not answer:
            raise Unavailable("uploads cannot be looked into: the process for it does not start, or was killed")
        self._first = False
        found: dict[str, Json] = json.loads(answer)
        return found | {"limits": limits}


def _facts(answer: dict[str, Json]) -> dict[str, Json]:
    """What was found. Raises `UploadRefused`."""
    if "facts" in answer:
        facts: dict[str, Json] = answer["facts"]
        return facts
    if "refused" in answer:
        raise UploadRefused(answer["refused"])
    limits: Limits = answer["limits"]
    if answer["signal"] in (signal.SIGXCPU, signal.SIGALRM):
        raise UploadRefused(f"it could not be read within {limits.cpu_s} s")
    raise UploadRefused(
        f"it could not be read: the reader broke off (it is damaged, or takes more than "
        f"{limits.memory_bytes // MIB_BYTES:,} MiB of memory)"
    )


def _stop(process: subprocess.Popen[bytes], channel: socket.socket) -> None:
    channel.close()
    # It has nothing to finish, and whatever it has forked goes with it.
    process.kill()
    process.wait()
