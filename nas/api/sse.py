"""Events as they happen, for any number of listeners (Server-Sent Events, WHATWG HTML standard, section 9.2).

One task reads the database for all streams of the process: which jobs have something new, and what it is. A stream takes
what it has not sent yet from there, or from the database when it is further behind. Nothing is queued for anybody, so that a
client that reads slowly holds no memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from fastapi.concurrency import run_in_threadpool

from nas.service.claims import TERMINAL
from nas.service.errors import ServiceError
from nas.service.events import Event, EventLog

POLL_S = 0.25
KEEP_ALIVE_S = 15.0
CHECK_S = 2.0
"""Between two looks whether a silent listener's token is still good."""
KEPT = 512
"""Events of a job that are kept at hand while somebody listens."""
PAGE = 500
KEEP_ALIVE = b": still here\n\n"
# What a browser waits before it connects again.
RETRY = b"retry: 2000\n\n"

LOG = logging.getLogger("nas.api")


@dataclass(frozen=True, slots=True)
class Frame:
    """An event as it is sent. `last`: the job has ended with it."""

    seq: int
    text: bytes
    last: bool


@dataclass(slots=True)
class _Topic:
    """A job that somebody listens to. `seq` is its last known event, None until it has been looked up."""

    readers: int = 0
    seq: int | None = None
    frames: deque[Frame] = field(default_factory=lambda: deque(maxlen=KEPT))
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def after(self, seq: int) -> list[Frame] | None:
        """What came after an event; None where that is no longer, or not yet, known here."""
        if self.seq is None:
            return None
        if seq >= self.seq:
            return []
        if not self.frames or self.frames[0].seq > seq + 1:
            return None
        return [frame for frame in self.frames if frame.seq > seq]

    def announce(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class Hub:
    """The live streams of one process, in its event loop. They end when `closing` is set."""

    def __init__(
        self, events: EventLog, closing: threading.Event, poll_s: float = POLL_S, keep_alive_s: float = KEEP_ALIVE_S
    ) -> None:
        self._events = events
        self._closing = closing
        self._poll_s = poll_s
        self._keep_alive_s = keep_alive_s
        self._topics: dict[str, _Topic] = {}
        self._polling: asyncio.Task[None] | None = None

    async def follow(self, job_id: str, after: int, allowed: Callable[[], Awaitable[bool]]) -> AsyncIterator[bytes]:
        """The events of a job after number `after`, as they come, until it has ended, the server does, or the listener is not
        allowed any more."""
        topic = self._join(job_id)
        seq, said_s = after, time.monotonic()
        try:
            yield RETRY
            while not self._closing.is_set() and await allowed():
                changed = topic.changed
                frames = topic.after(seq)
                if frames is None:
                    frames = await run_in_threadpool(self._read, job_id, seq)
                if frames:
                    yield b"".join(frame.text for frame in frames)
                    seq, said_s = frames[-1].seq, time.monotonic()
                    if frames[-1].last:
                        return
                    continue
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), min(CHECK_S, self._keep_alive_s))
                if time.monotonic() - said_s >= self._keep_alive_s:
                    yield KEEP_ALIVE
                    said_s = time.monotonic()
        except ServiceError as error:  # the client connects again, and finds the database back or an honest refusal
            LOG.warning("job %s: its stream ends: %s", job_id, error)
        finally:
            self._leave(job_id, topic)

    def _join(self, job_id: str) -> _Topic:
        topic = self._topics.setdefault(job_id, _Topic())
        topic.readers += 1
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll())
        return topic

    def _leave(self, job_id: str, topic: _Topic) -> None:
        topic.readers -= 1
        if topic.readers == 0 and self._topics.get(job_id) is topic:
            del self._topics[job_id]

    async def _poll(self) -> None:
        """As long as anybody listens. When the server ends, all are told; their clients go on when it is back."""
        while self._topics and not self._closing.is_set():
            try:
                await self._look(dict(self._topics))
            except ServiceError as error:
                LOG.warning("live events wait for the database: %s", error)
            await asyncio.sleep(self._poll_s)
        for topic in self._topics.values():
            topic.announce()

    async def _look(self, topics: dict[str, _Topic]) -> None:
        latest = await run_in_threadpool(self._events.latest, list(topics))
        for job_id, seq in latest.items():
            topic = topics[job_id]
            if topic.seq is None:
                topic.seq = seq
                topic.announce()
            elif seq > topic.seq:
                frames = await run_in_threadpool(self._read, job_id, topic.seq)
                topic.frames.extend(frames)
                topic.seq = frames[-1].seq if frames else topic.seq
                topic.announce()

    def _read(self, job_id: str, seq: int) -> list[Frame]:
        return [frame_of(event) for event in self._events.since(job_id, seq, PAGE)]


def frame_of(event: Event) -> Frame:
    """An event as bytes: its number as id, its kind, and one line of JSON."""
    data = json.dumps({"at_s": event.at_s, **event.data})
    text = f"id: {event.seq}\nevent: {event.kind}\ndata: {data}\n\n".encode()
    return Frame(event.seq, text, event.kind == "state" and event.data.get("state") in TERMINAL)
