"""The process that measures one task, beside the agent that talks to the server.

It is a process of its own so that nothing of the network runs in it, and so that a model that takes all memory or crashes the
runtime takes only this process with it. It reads the task's folder and leaves rounds and the outcome there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from latency_tables.errors import BusyError, LatencyError
from latency_tables.measuring.machine import Here, Machine
from latency_tables.measuring.measurement import Measurement
from nas.agent.errors import AgentError
from nas.agent.models import Models
from nas.agent.spool import Work
from nas.agent.wire import round_json

LOCK_TIMEOUT_S = 3600.0
CHILD = f"from {__name__} import main; main()"


class Running(Protocol):
    """Measuring under way."""

    def ended(self) -> str | None:
        """None while it runs; then how it ended."""

    def stop(self) -> None:
        """End it at once."""


class Measurer(Protocol):
    """Begins to measure a task, into its folder."""

    def start(self, work: Work, models: Models) -> Running: ...


class Child:
    """A process that measures."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def ended(self) -> str | None:
        status = self.process.poll()
        if status is None:
            return None
        return f"ended with status {status}" if status >= 0 else f"was ended by signal {-status}"

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


class InChild:
    """Measures in a process of its own, which ends with this one."""

    def start(self, work: Work, models: Models) -> Child:
        # The pipe is never written to: it closes when this process ends, however it does.
        command = [sys.executable, "-c", CHILD, str(work.folder), str(models.folder)]
        # A group of its own: the interrupt key of a terminal is for the agent.
        return Child(subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0))


def measure_work(work: Work, models: Models, machine: Machine) -> None:
    """Measure the task from where it stands, round by round, to its outcome."""
    task, known = work.task, work.measured()
    written = {key: len(found.rounds) for key, found in known.items()}
    count = len(work.rounds())

    def keep(number: int, most: int, found: Mapping[str, Measurement]) -> None:
        nonlocal count
        count += 1
        work.add_round(round_json(count, number, most, found, written))
        written.update({key: len(each.rounds) for key, each in found.items()})

    try:
        if machine.fingerprint().id != task.fingerprint:
            raise LatencyError(
                "the machine is not as it was when the job began (its runtime, or system); profile it anew"
            )
        graphs = [graph.graph(models.read(graph)) for graph in task.graphs]
        with machine.held():
            found = machine.measure(
                graphs, task.device, protocol=task.settings, earlier=known, on_round=keep, needs=task.needs
            )
    except BusyError as error:
        work.fail("infrastructure", str(error))
    except LatencyError as error:
        work.fail("user", str(error))
    except AgentError as error:
        work.fail("infrastructure", str(error))
    else:
        work.end(found)


def main() -> None:
    """The child: the folders of the task and of the models are its arguments."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(OSError):  # where memory runs out, this process goes and not the agent
        Path("/proc/self/oom_score_adj").write_text("500")
    folder, models = map(Path, sys.argv[1:])
    measure_work(Work(folder), Models(models), Here(LOCK_TIMEOUT_S))


def _end_with_parent() -> None:
    os.read(0, 1)  # not `sys.stdin`: this thread would have its lock when Python ends, which Python takes for fatal
    os._exit(1)
