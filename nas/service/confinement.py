"""Shutting a process off from what it does not need, before it reads what a stranger sent."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from dataclasses import dataclass
from pathlib import Path

MOST_FILES = 64
NICENESS = 10

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWUSER = 0x1000_0000
_CLONE_NEWNET = 0x4000_0000


@dataclass(frozen=True, slots=True)
class Limits:
    """What one file may take: bytes of memory besides what is loaded already, seconds of processor and of wall time."""

    memory_bytes: int
    cpu_s: int
    wall_s: float


def shut_off() -> None:
    """No network, and no rights on what else runs on the machine, where the kernel allows it; to be called before threads
    are started."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        libc.unshare(_CLONE_NEWNET)
    os.nice(NICENESS)


def confine(limits: Limits) -> None:
    """Limit this process for good: memory and time; no writing to files, no new processes, threads or privileges.

    It is ended by SIGXCPU or SIGALRM when its time is over, and with its parent.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    there_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for what, most in {
        resource.RLIMIT_AS: there_bytes + limits.memory_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: MOST_FILES,
        resource.RLIMIT_NPROC: 0,
    }.items():
        resource.setrlimit(what, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_s, limits.cpu_s + 1))
    signal.setitimer(signal.ITIMER_REAL, limits.wall_s)
