"""Steps for keepers in tests: what a job's settings name is done. `COMMAND` starts a keeper that knows only these."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from nas.service.hired import Hired
from nas.service.keeper import keep
from nas.service.orders import Order, Outcome, Report

COMMAND = (sys.executable, "-c", "from tests.nas.service.acts import main; main()")
FOREVER_S = 600.0

# A process that nobody waits for, in a session of its own, that cannot be asked to end; it writes its id down first.
STUBBORN = """
import os, signal, sys, time
if os.fork():
    os._exit(0)
os.setsid()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open(sys.argv[1], "a") as file:
    file.write(f"{os.getpid()}\\n")
time.sleep(600)
"""


def main() -> None:
    keep(lambda: act)


def hire(worker: str) -> Hired:
    return Hired.start(worker, COMMAND)


def act(order: Order, step: str, number: int, report: Report) -> Outcome:
    """`{"act": NAME, "folder": PATH}` in the settings, or in a file `act` of the folder that is the service's data."""
    folder = Path(order.settings.get("folder") or order.settings["data"])
    name = order.settings.get("act") or (folder / "act").read_text()
    with (folder / "steps").open("a") as file:
        file.write(json.dumps([step, number, os.getpid(), os.nice(0), order.job, order.epoch]) + "\n")
    return ACTS[name](folder, report)


def do(folder: Path, report: Report) -> Outcome:
    return Outcome("done", result={"made": "it"})


def stay(folder: Path, report: Report) -> Outcome:
    time.sleep(FOREVER_S)
    return Outcome("done")


def ignore(folder: Path, report: Report) -> Outcome:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return stay(folder, report)


def spawn(folder: Path, report: Report) -> Outcome:
    """Leave three processes behind."""
    for _ in range(3):
        subprocess.run([sys.executable, "-c", STUBBORN, str(folder / "stubborn")], check=True)
    deadline = time.monotonic() + 20
    while len(stubborn(folder)) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return Outcome("done")


def spawn_and_stay(folder: Path, report: Report) -> Outcome:
    spawn(folder, report)
    (folder / "spawned").touch()
    return ignore(folder, report)


def die(folder: Path, report: Report) -> Outcome:
    os.kill(os.getpid(), signal.SIGKILL)
    return stay(folder, report)


def leave(folder: Path, report: Report) -> Outcome:
    os._exit(3)


def stumble(folder: Path, report: Report) -> Outcome:
    raise KeyError("nothing there")


def refuse(folder: Path, report: Report) -> Outcome:
    return Outcome("failed", "user", "there is no such thing")


def say_much(folder: Path, report: Report) -> Outcome:
    """More than a pipe holds."""
    return Outcome("done", result="x" * 1_000_000)


ACTS = {
    each.__name__: each for each in (do, stay, ignore, spawn, spawn_and_stay, die, leave, stumble, refuse, say_much)
}


def stubborn(folder: Path) -> set[int]:
    """The processes that `spawn` left."""
    path = folder / "stubborn"
    return {int(line) for line in path.read_text().split()} if path.exists() else set()


def steps(folder: Path) -> list[list[object]]:
    path = folder / "steps"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
