"""Processes and folders that a job leaves behind: found by descent, or by a mark in their environment, and ended.

A worker's id says where and when it ran, so that anybody on the same machine can see that it no longer does.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

MARK = "NAS_WORKER"
"""Variable in the environment of all that a worker starts: its id, and after a slash something that may differ."""

KILL_S = 5.0
PAUSE_S = 0.02

_PROC = Path("/proc")
_TEMPORARY = Path("/tmp")
_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36


@dataclass(frozen=True, slots=True)
class Process:
    """A process as the kernel lists it; `started` in clock ticks since boot: with the id, it names one process for good."""

    pid: int
    parent: int
    state: str
    started: int


def processes() -> dict[int, Process]:
    """All that can be seen, by their ids."""
    found = (_process(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal())
    return {each.pid: each for each in found if each is not None}


def descendants(pid: int) -> set[int]:
    """The children of a process, theirs, and so on; without those that have ended and only wait to be asked for."""
    there = processes()
    children: dict[int, list[int]] = {}
    for each in there.values():
        children.setdefault(each.parent, []).append(each.pid)
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        below = [child for child in children.get(waiting.pop(), ()) if child not in found]
        found.update(below)
        waiting.extend(below)
    return {each for each in found if there[each].state not in "ZX"}


def marked() -> dict[int, str]:
    """Process -> its mark, of all that this user may look at."""
    found = {}
    for pid in processes():
        with contextlib.suppress(OSError):
            for variable in (_PROC / str(pid) / "environ").read_bytes().split(b"\0"):
                if variable.startswith(f"{MARK}=".encode()):
                    found[pid] = variable.partition(b"=")[2].decode(errors="replace")
    return found


def end(find: Callable[[], set[int]], grace_s: float = 0.0, kill_s: float = KILL_S) -> set[int]:
    """End all processes that `find` finds, until it finds none: ask, wait `grace_s`, and kill. Those that would not go."""
    if grace_s > 0:
        _send(find(), signal.SIGTERM)
        _wait_until(lambda: not find(), grace_s)
    deadline = time.monotonic() + kill_s
    while (left := find()) and time.monotonic() < deadline:
        _send(left, signal.SIGKILL)
        time.sleep(PAUSE_S)
    return left


def end_marked(own: Callable[[str], bool]) -> set[int]:
    """End all processes with such a mark, and all below them; those that would not go.

    What has been seen once is remembered: some programs write over their environment, and lose their parents on the way.
    """
    seen: set[tuple[int, int]] = set()

    def find() -> set[int]:
        roots = {pid for pid, mark in marked().items() if own(mark)}
        found = roots.union(*map(descendants, roots)) - {os.getpid()}
        there = processes()
        seen.update((pid, there[pid].started) for pid in found if pid in there)
        return {
            pid
            for pid, started in seen
            if pid in there and there[pid].started == started and there[pid].state not in "ZX"
        }

    return end(find)


def end_orphans() -> None:
    """End what workers that are gone have left on this machine, and remove the folders of their Ray."""
    end_marked(lambda mark: not is_alive(mark.partition("/")[0]))
    remove_ray_folders()


def remove_ray_folders() -> None:
    """Of keepers that are gone, with what still logs there: Ray's agents, which write over their environment and end late."""
    begin = _folder_names()
    for folder in _TEMPORARY.glob(f"{begin}*"):
        pid, _, started = folder.name.removeprefix(begin).partition("-")
        keeper = _process(pid) if pid.isdecimal() else None
        if keeper is None or str(keeper.started) != started:
            end(partial(_users, folder))
            shutil.rmtree(folder, ignore_errors=True)


def ray_folder() -> Path:
    """Where a Ray below this process keeps its sessions. Short: the path of a socket in it has 107 characters at most."""
    here = _process(str(os.getpid()))
    assert here is not None
    return _TEMPORARY / f"{_folder_names()}{here.pid}-{here.started}"


def worker_id() -> str:
    """The name of this process among workers: host, boot, where process ids are counted, process, when it started."""
    here = _process(str(os.getpid()))
    assert here is not None
    return f"{_machine()}:{here.pid}:{here.started}"


def is_alive(worker: str) -> bool:
    """Whether a worker may still be at work; True for those of other machines, which cannot be seen from here."""
    machine, _, rest = worker.rpartition(":")
    machine, _, pid = machine.rpartition(":")
    if machine != _machine() or not pid.isdecimal():
        return True
    found = _process(pid)
    return found is not None and str(found.started) == rest and found.state not in "ZX"


def die_with(parent: int) -> None:
    """Have the kernel kill this process as soon as the one that made it is gone; at once where it is gone already."""
    _prctl(_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of all processes below this one whose own parent ends."""
    _prctl(_SET_CHILD_SUBREAPER, 1)


def _folder_names() -> str:
    """What names of such folders begin with; containers may share the place and count their processes apart."""
    return f"nas-{sha256(_machine().encode()).hexdigest()[:6]}-"


def _users(folder: Path) -> set[int]:
    """Processes of this user that have files of the folder open."""
    found = set()
    for pid in processes():
        with contextlib.suppress(OSError):
            if any(str(file.readlink()).startswith(f"{folder}/") for file in (_PROC / str(pid) / "fd").iterdir()):
                found.add(pid)
    return found


def _machine() -> str:
    """This boot of this machine, as far as process ids mean the same: containers count their own."""
    boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    counted = (_PROC / "self/ns/pid").readlink().name.strip("pid:[]")
    return f"{socket.gethostname()}:{boot}:{counted}"


def _process(pid: str) -> Process | None:
    try:
        text = (_PROC / pid / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The name stands in brackets and may hold anything, brackets included.
    rest = text.rpartition(")")[2].split()
    return Process(int(pid), parent=int(rest[1]), state=rest[0], started=int(rest[19]))


def _send(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _wait_until(done: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not done() and time.monotonic() < deadline:
        time.sleep(PAUSE_S)


def _prctl(option: int, value: int) -> None:
    """Of Linux, and not in Python's library."""
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) is refused")
