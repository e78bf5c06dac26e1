"""The agent's loop: one small step after the other, each of which may be the last before a kill."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from nas.agent.bench import Measurer, Running
from nas.agent.errors import AgentError, Away, Refused, Stale, Unwelcome
from nas.agent.models import Models
from nas.agent.reading import read_id
from nas.agent.spool import Spool, Work
from nas.agent.transport import Transport
from nas.agent.wire import WIRE, About, error_json

Json = Any
T = TypeVar("T")

POLL_S = 25.0
"""How long the server may keep a request for a task open."""
HEARTBEAT_S = 15.0
LOOK_S = 0.5
"""Between two looks at what is being measured."""
BATCH_BYTES = 4 << 20
STARTS = 3
"""Times that measuring is begun without a round, before the task is given up."""
LONGEST_WAIT_S = 60.0


def enrol(spool: Spool, transport: Transport, code: str, about: About) -> str:
    """Make this machine one of the service's; its name there. Can be repeated until an answer has come."""
    answer = transport.post(
        "/v1/agent/enrol", {"wire": WIRE, "code": code, "nonce": spool.nonce(), "about": about.to_json()}
    )
    spool.keep_token(answer["token"])
    return str(answer["name"])


class Agent:
    """One agent at work. All that must last is in its spool; what is here may be lost at any time."""

    def __init__(
        self,
        spool: Spool,
        models: Models,
        transport: Transport,
        measurer: Measurer,
        about: About,
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.spool = spool
        self.models = models
        self.transport = transport
        self.measurer = measurer
        self.about = about
        self.tell = tell
        self.clock = clock
        self.rng = rng or random.Random()
        self.greeted = False
        self.work = spool.in_hand()
        self.running: Running | None = None
        self.failures = 0
        self.heard_at = -HEARTBEAT_S
        """When the server last answered something about the task, by our own clock."""

    def run(self, sleep: Callable[[float], None] = time.sleep) -> None:
        """Work until the server will have no more of us (`AgentError`), or an exception from outside."""
        try:
            while True:
                sleep(self.step())
        finally:
            self.halt()

    def halt(self) -> None:
        """Stop measuring; what was measured stays in the spool."""
        if self.running is not None:
            self.running.stop()
            self.running = None

    def step(self) -> float:
        """Do what is next; seconds until there may be more to do."""
        try:
            wait_s = self._next()
            self.failures = 0
            return wait_s
        except Away as error:
            self.failures += 1
            wait_s = min(LONGEST_WAIT_S, 2.0**self.failures) * self.rng.uniform(0.5, 1.0)
            if self.failures in (1, 2) or self.failures % 10 == 0:
                self.tell(f"{error}; next try in {wait_s:.0f} s, nothing measured is lost")
            return wait_s
        except Stale as error:
            self.tell(f"task {self.work.task.id if self.work else ''}: {error}; dropped")
            self._drop()
            return 0.0

    def _next(self) -> float:
        work = self.work
        try:
            if work is not None:
                self._measure(work)  # first: it needs no server
            if not self.greeted:
                self._greet()
            return self._poll() if work is None else self._report(work)
        except Unwelcome:
            raise
        except (Refused, OSError) as error:
            # The server does not take what we have, or the disk is full. It must hear of that, or it would wait for ever.
            if work is None:
                raise
            self._give_up(work, str(error))
            return 0.0

    def _measure(self, work: Work) -> None:
        """See that the task is measured, as soon as its models are here."""
        if work.outcome is not None:
            return
        ended = None if self.running is None else self.running.ended()
        if ended is not None and work.outcome is None:  # which it may have written just now
            self.tell(f"task {work.task.id}: the process that measures {ended}")
            self.running = None
        if self.running is None and self.models.missing(work.task.graphs) is None:
            if work.count_start() > STARTS:
                work.fail("infrastructure", f"measuring ended {STARTS} times before a round was done")
            else:
                self.running = self.measurer.start(work, self.models)

    def _greet(self) -> None:
        answer = self.transport.post("/v1/agent/hello", {"wire": WIRE, "about": self.about.to_json()})
        self.greeted = True
        self.tell(f"connected as {_field(answer, 'name', str)}")

    def _poll(self) -> float:
        """Ask for a task, and wait for one at the server."""
        request = {"wire": WIRE, "poll": self.spool.poll_id(), "wait_s": POLL_S}
        answer = self.transport.post("/v1/agent/poll", request, POLL_S)
        if answer.get("task") is None:
            return LOOK_S  # a server that ends answers at once
        document = _field(answer, "task", dict)
        self.heard_at = self.clock()
        try:
            self.work = self.spool.begin(document)
        except AgentError as error:
            self.tell(f"a task that cannot be read: {error}")
            task_id, epoch = read_id(_field(document, "id", str)), _field(document, "epoch", int)
            self._send_result(task_id, epoch, {"error": error_json("user", str(error))})
            return LOOK_S
        graphs = self.work.task.graphs
        self.models.make_room(graphs)
        self.tell(f"task {self.work.task.id}: {len(graphs)} graphs for {self.work.task.device.name}")
        return 0.0

    def _report(self, work: Work) -> float:
        """Send what is measured, or fetch what is needed to measure."""
        if self._send_rounds(work):
            return 0.0
        outcome = work.outcome
        if outcome is not None:
            self._send_result(work.task.id, work.task.epoch, outcome)
            self.tell(f"task {work.task.id}: {outcome['error']['message'] if 'error' in outcome else 'measured'}")
            self._drop()
            return 0.0
        missing = self.models.missing(work.task.graphs)
        if missing is None:
            return LOOK_S
        self.models.fetch_piece(missing, self.transport)
        return 0.0

    def _send_rounds(self, work: Work) -> bool:
        """Send rounds that the server has not, or a sign of life when it is time; whether it has more of them now."""
        before, rounds, size = work.acknowledged, list[Json](), 0
        for path in work.rounds(before):
            size += path.stat().st_size
            if rounds and size > BATCH_BYTES:
                break
            rounds.append(work.round(path))
        if not rounds and self.clock() - self.heard_at < HEARTBEAT_S:
            return False
        request = {"epoch": work.task.epoch, "rounds": rounds}
        answer = self.transport.post(f"/v1/agent/tasks/{work.task.id}/rounds", request)
        self.heard_at = self.clock()
        last = _field(answer, "acknowledged", int)
        if last != before:
            work.acknowledge(last)
        return last > before

    def _send_result(self, task_id: str, epoch: int, outcome: Json) -> None:
        self.transport.post(f"/v1/agent/tasks/{task_id}/result", {"epoch": epoch, **outcome})

    def _give_up(self, work: Work, why: str) -> None:
        self.halt()
        self.tell(f"task {work.task.id}: {why}")
        try:
            self._send_result(work.task.id, work.task.epoch, {"error": error_json("infrastructure", why)})
        except Refused as refused:
            self.tell(f"task {work.task.id}: {refused}")
        self._drop()

    def _drop(self) -> None:
        self.halt()
        self.spool.drop()
        self.work = None


def _field(answer: Json, name: str, kind: type[T]) -> T:
    """A field of what the server answers; where it lacks it, another one answers, which may pass."""
    found = answer.get(name)
    if not isinstance(found, kind):
        raise Away(f"the server's answer has no {name!r}")
    return found
