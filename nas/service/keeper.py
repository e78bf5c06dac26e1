"""The keeper of a job's processes: has everything imported, forks a process a step, and leaves nothing behind.

A worker starts it and writes lines of JSON to it: `{"do": ORDER}`, `{"stop": SECONDS}` and `{"kill": true}`; the keeper answers
`{"ready": SECONDS}` once and `{"end": OUTCOME}` after each order. Where the worker is gone, its end of the pipe closes.

Whatever a step starts belongs to the keeper: processes whose parents end come to it, as Ray's daemons do, and all are killed
when the step is over. The step itself dies with the keeper. A step is a process of its own, so that each has its niceness
and its memory, and none is disturbed by threads that another one has left. A fork costs milliseconds, importing 2-4 s.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

from nas.service.orders import NICENESS, Act, Order, Outcome, Stopped
from nas.service.orphans import adopt_orphans, descendants, die_with, end, ray_folder

Json = Any
LINGER_S = 0.2
"""How long what a finished step left may take to end by itself."""
LOOK_S, SHORT_S = 1.0, 0.05
"""Between two looks at a step, and at one that is being killed."""
BUFFER_BYTES = 65536


class WorkerGone(Exception):
    """Nobody is there any more to work for."""


def keep(load: Callable[[], Act]) -> None:
    """Do what the worker at standard input orders, until it is gone. `load` imports what the steps need."""
    started = time.perf_counter()
    # What is imported may print; only answers go to the worker.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    adopt_orphans()
    for number in (signal.SIGTERM, signal.SIGINT):  # whoever stops a service may signal all of its processes at once
        signal.signal(number, signal.SIG_IGN)
    os.environ["RAY_TMPDIR"] = str(ray_folder())
    keeper = _Keeper(load())
    with suppress(WorkerGone, BrokenPipeError):
        _say(answers, {"ready": time.perf_counter() - started})
        while True:
            message = keeper.inbox.next()
            if "do" in message:
                _say(answers, {"end": asdict(keeper.carry_out(Order.from_json(message["do"])))})


def main() -> None:
    """`python -m nas.service.keeper`."""

    def load() -> Act:
        from nas.service.execution import perform, warm_up

        warm_up()
        return perform

    keep(load)


class _Inbox:
    """Lines of JSON from a pipe."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._buffer = b""

    def next(self) -> Mapping[str, Json]:
        """The next message, waited for."""
        while (found := self.at_hand()) is None:
            self.read()
        return found

    def at_hand(self) -> Mapping[str, Json] | None:
        """A message that was read already."""
        line, end_of_line, rest = self._buffer.partition(b"\n")
        if not end_of_line:
            return None
        self._buffer = rest
        found: Mapping[str, Json] = json.loads(line)
        return found

    def read(self) -> None:
        got = os.read(self.descriptor, BUFFER_BYTES)
        if not got:
            raise WorkerGone
        self._buffer += got


class _Keeper:
    def __init__(self, act: Act) -> None:
        self.inbox = _Inbox(0)
        self._act = act
        self._stop_by: float | None = None

    def carry_out(self, order: Order) -> Outcome:
        """All steps in order, up to the first that is not done. Its outcome; nothing that they started is left."""
        self._stop_by = None
        outcome = Outcome("stopped")
        for number, step in enumerate(order.steps):
            try:
                outcome = self._step(order, step, number)
            finally:
                end(lambda: descendants(os.getpid()), grace_s=LINGER_S)
                _reap()
                shutil.rmtree(os.environ["RAY_TMPDIR"], ignore_errors=True)
            if outcome.state != "done":
                break
            if self._stop_by is not None:  # asked to stop as it ended by itself
                outcome = Outcome("stopped") if step != order.steps[-1] else outcome
                break
        return outcome

    def _step(self, order: Order, step: str, number: int) -> Outcome:
        kills = oom_kills()
        heard, said = os.pipe()
        keeper = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become(keeper, order, step, number, said)
        os.close(said)
        with _open(heard), _open(os.pidfd_open(pid)) as exited:
            status, text = self._watch(pid, heard, exited)
        with suppress(ValueError):  # it was killed before it had said all, or anything
            return Outcome(**json.loads(text))
        return _unsaid(step, status, oom_kills() - kills, asked=self._stop_by is not None)

    def _watch(self, pid: int, heard: int, exited: int) -> tuple[int, bytes]:
        """Until the step's process has ended: its status and what it said. It is stopped where the worker says so."""
        text = b""
        sources = [self.inbox.descriptor, heard, exited]
        while True:
            left_s = LOOK_S if self._stop_by is None else self._stop_by - time.monotonic()
            ready, _, _ = select.select(sources, [], [], min(LOOK_S, max(SHORT_S, left_s)))
            if heard in ready:
                part = os.read(heard, BUFFER_BYTES)
                text += part
                if not part:  # what it started may keep the pipe open; so its end alone decides
                    sources.remove(heard)
            if self.inbox.descriptor in ready:
                self.inbox.read()
                while (message := self.inbox.at_hand()) is not None:
                    self._heed(message, pid)
            if self._stop_by is not None and time.monotonic() >= self._stop_by:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            statuses = _reap()
            if pid in statuses:
                return statuses[pid], text + _rest(heard)

    def _heed(self, message: Mapping[str, Json], pid: int) -> None:
        if self._stop_by is None and "stop" in message:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        if "stop" in message or "kill" in message:
            self._stop_by = time.monotonic() + message.get("stop", 0.0)

    def _become(self, keeper: int, order: Order, step: str, number: int, said: int) -> NoReturn:
        """The step's process."""
        once = threading.Lock()

        def report(outcome: Outcome) -> NoReturn:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is said is said to its end
            once.acquire()
            with suppress(BrokenPipeError), os.fdopen(said, "w") as pipe:
                json.dump(asdict(outcome), pipe)
            # Without Python's end: threads of libraries, and what they registered, do not concern the step any more.
            os._exit(0)

        try:
            die_with(keeper)
            signal.signal(signal.SIGTERM, _stop)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.nice(NICENESS.get(step, 0))
            report(self._act(order, step, number, report))
        except Stopped:
            report(Outcome("stopped"))
        except BaseException as error:
            report(Outcome("failed", "bug", f"{type(error).__name__}: {error}", traceback.format_exc()))


def oom_kills() -> int:
    """How many processes the kernel has killed for want of memory: in this control group, else on the machine."""
    for file in (*_control_group(), Path("/proc/vmstat")):
        with suppress(OSError):
            for line in file.read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
    return 0


def _control_group() -> Iterator[Path]:
    """Where the kernel counts them: versions 2 and 1 of control groups."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                yield Path(f"/sys/fs/cgroup{path}/memory.events")
            elif "memory" in controllers.split(","):
                yield Path(f"/sys/fs/cgroup/memory{path}/memory.oom_control")


def _unsaid(step: str, status: int, oom: int, asked: bool) -> Outcome:
    """The outcome of a process that has ended without a word."""
    if asked:
        return Outcome("stopped")
    if not os.WIFSIGNALED(status):
        return Outcome(
            "failed", "infrastructure", f"{step}: its process ended with code {os.waitstatus_to_exitcode(status)}"
        )
    if os.WTERMSIG(status) == signal.SIGKILL and oom > 0:
        return Outcome("failed", "memory", f"{step}: the system killed its process for want of memory")
    return Outcome(
        "failed", "infrastructure", f"{step}: its process was killed by {signal.Signals(os.WTERMSIG(status)).name}"
    )


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise Stopped


def _reap() -> dict[int, int]:
    """The statuses of children that have ended since the last call, also of those that were handed to this process."""
    found: dict[int, int] = {}
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0] != 0:
            found[ended[0]] = ended[1]
    return found


def _rest(pipe: int) -> bytes:
    """What is in a pipe whose other end others may hold open."""
    os.set_blocking(pipe, False)
    text = b""
    with suppress(BlockingIOError):
        while part := os.read(pipe, BUFFER_BYTES):
            text += part
    return text


@contextmanager
def _open(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _say(answers: TextIO, message: Mapping[str, Json]) -> None:
    answers.write(json.dumps(message) + "\n")


if __name__ == "__main__":
    main()
