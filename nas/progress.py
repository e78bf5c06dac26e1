"""Showing how a run goes: a bar a stage on a terminal, one line a stage elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TextIO

Progress = Callable[[int, int, str], None]
"""Called with what is done, what there is in all, and a line on how it goes."""


class Display(Protocol):
    """Where progress is shown. `stage` gives a function to call while the stage lasts."""

    def stage(self, name: str) -> AbstractContextManager[Progress]: ...

    def note(self, name: str, text: str) -> None: ...


class Bars:
    """One bar a stage, for a terminal."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        self._console = Console(file=stream)

    @contextmanager
    def stage(self, name: str) -> Iterator[Progress]:
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("{task.description:<20}"),
            BarColumn(24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
        )
        with RichProgress(*columns, console=self._console) as bars:
            task = bars.add_task(name, total=None, text="")
            yield lambda done, total, text: bars.update(task, completed=done, total=total, text=text)

    def note(self, name: str, text: str) -> None:
        self._console.print(f"{name:<20} {text}", highlight=False)


class Lines:
    """One line when a stage ends, for logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @contextmanager
    def stage(self, name: str) -> Iterator[Progress]:
        start, last = time.perf_counter(), ""

        def remember(done: int, total: int, text: str) -> None:
            nonlocal last
            last = f"{done}/{total} {text}"

        yield remember
        self.note(name, f"{time.perf_counter() - start:6.1f} s  {last}")

    def note(self, name: str, text: str) -> None:
        print(f"{name:<20} {text}", file=self._stream, flush=True)


def display() -> Display:
    """Bars where standard error is a terminal, lines where it is a file or a pipe."""
    return Bars(sys.stderr) if sys.stderr.isatty() else Lines(sys.stderr)
