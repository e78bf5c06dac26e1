"""What a job tells while it runs: events in batches, from a thread of their own, so that no stage waits for the database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NoReturn

from nas.progress import Progress
from nas.service.events import EventLog
from nas.service.jobs import JobStore
from nas.service.leases import Lease

BATCH_S = 0.2
PROGRESS_S = 1.0
STRIDE = 1_000_000
"""Numbers that each step of a job has for its events."""
LONGEST_LINE = 1000

Json = Any


class Telling:
    """Says what happens in one step. `fail` is called, in the thread, with what keeps the events from being written."""

    def __init__(
        self, jobs: JobStore, events: EventLog, lease: Lease, step: int, fail: Callable[[BaseException], NoReturn]
    ) -> None:
        self._jobs = jobs
        self._events = events
        self._lease = lease
        self._next = step * STRIDE
        self._fail = fail
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._news: list[tuple[str, Mapping[str, Json]]] = []
        self._progress: tuple[str, int, int, str] | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telling", daemon=True)

    def say(self, kind: str, **data: Json) -> None:
        with self._lock:
            self._news.append((kind, data))

    def progress(self, stage: str, done: int, total: int, text: str) -> None:
        """How far a stage is; only the latest that is said within a second is kept."""
        with self._lock:
            self._progress = (stage, int(done), int(total), text[:LONGEST_LINE])

    def log(self, text: str, level: str = "info", **more: Json) -> None:
        """One line for people, also in the log among the job's files."""
        line = " ".join(text.split())[:LONGEST_LINE]
        print(f"{level}: {line}", flush=True)
        self.say("log", level=level, text=line, **more)

    def flush(self) -> None:
        """What was said so far is in the database then, before whatever the caller writes there."""
        self._write(progress=True)

    def __enter__(self) -> Telling:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What was said is in the database then."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            quiet_s = PROGRESS_S
            while not self._closing.wait(BATCH_S):
                quiet_s += BATCH_S
                quiet_s = 0.0 if self._write(progress=quiet_s >= PROGRESS_S) else quiet_s
            self._write(progress=True)
        except BaseException as error:
            self._fail(error)

    def _write(self, progress: bool) -> bool:
        """Write what there is; whether that was progress."""
        with self._writing:
            with self._lock:
                news, self._news = self._news, []
                now = self._progress if progress else None
                if now is not None:
                    self._progress = None
            if news:
                self._events.append(self._lease, news, self._next)
                self._next += len(news)
            if now is not None:
                self._jobs.progress(self._lease, *now)
            return now is not None


class EventDisplay:
    """Shows a run as events of its job."""

    def __init__(self, telling: Telling) -> None:
        self._telling = telling

    @contextmanager
    def stage(self, name: str) -> Iterator[Progress]:
        latest = (0, 0, "")

        def tell(done: int, total: int, text: str) -> None:
            nonlocal latest
            latest = (done, total, text)
            self._telling.progress(name, done, total, text)

        yield tell
        done, total, text = latest
        print(f"{name:<20} {done}/{total} {text}", flush=True)

    def note(self, name: str, text: str) -> None:
        self._telling.log(text, stage=name)


class EventWatch:
    """Tells what a search finds. A search that goes on says again what it said before; that is left out."""

    def __init__(self, telling: Telling, events: EventLog, job_id: str, advanced: Callable[[], None]) -> None:
        self._telling = telling
        self._advanced = advanced
        self._said = {_key(kind, data) for kind, data in _told(events, job_id) if kind in _APART}

    def point(self, device: str, evaluations: int, arch_id: str, accuracy: float, latency_ms: float) -> None:
        found = {"device": device, "evaluations": evaluations, "arch_id": arch_id}
        self._say("point", **found, accuracy=float(accuracy), latency_ms=float(latency_ms))

    def volume(self, device: str, seed: int, evaluations: int, hypervolume: float) -> None:
        if self._say("volume", device=device, seed=seed, evaluations=evaluations, hypervolume=float(hypervolume)):
            self._advanced()

    def measured(self, device: str, arch_id: str, latency_ms: float) -> None:
        self._say("measured", device=device, arch_id=arch_id, latency_ms=float(latency_ms))

    def _say(self, kind: str, **data: Json) -> bool:
        key = _key(kind, data)
        if new := key not in self._said:
            self._said.add(key)
            self._telling.say(kind, **data)
        return new


def _told(events: EventLog, job_id: str) -> Iterator[tuple[str, Mapping[str, Json]]]:
    last = 0
    while page := events.since(job_id, last):
        last = page[-1].seq
        yield from ((event.kind, event.data) for event in page)


# What tells one event of these kinds from another. The number of evaluations does not: a search that goes on counts what it
# knows already first, and so in another order.
_APART = {
    "point": ("device", "arch_id"),
    "measured": ("device", "arch_id"),
    "volume": ("device", "seed", "evaluations"),
}


def _key(kind: str, data: Mapping[str, Json]) -> tuple[str, ...]:
    return (kind, *(str(data.get(name)) for name in _APART.get(kind, ())))
