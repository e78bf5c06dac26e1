"""Runners: who evaluates a batch of architectures. In this process, or spread over Ray actors; the scores are the same."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from nas.errors import FaultError
from nas.ray_session import RaySession
from search_spaces import Arch

if TYPE_CHECKING:
    # It needs torch, and whoever reads a search does not.
    from nas.searching.evaluator import Evaluator, Score

# How long a call to an actor should take. Ray adds 0.3-0.7 ms to each, so with 0.2 s that is nothing, and what a kill of the
# search loses is as little.
CALL_S = 0.2

# Deaths of actors that one batch of architectures survives.
DEATHS = 3


class Runner(Protocol):
    """Scores architectures, in any order; used as a context manager, so that what it started ends with it.

    `images`: score on so many validation images, the first ones; None: on all.
    """

    def scores(self, archs: Sequence[Arch], images: int | None = None) -> Iterator[tuple[Arch, Score]]: ...

    def __enter__(self) -> Runner: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class LocalRunner:
    """One after the other, here."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator

    def scores(self, archs: Sequence[Arch], images: int | None = None) -> Iterator[tuple[Arch, Score]]:
        for arch in archs:
            yield arch, self._evaluator.score(arch, images)

    def __enter__(self) -> LocalRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class RayRunner:
    """Up to `jobs` Ray actors that each hold the evaluator, on a Ray of their own or a running one by `address`.

    An actor that dies is replaced, and what it was scoring is scored again.
    """

    def __init__(self, evaluator: Evaluator, jobs: int, address: str | None = None) -> None:
        self._evaluator = evaluator
        self._jobs = jobs
        self._session = RaySession(address, jobs)
        self._new: Callable[[], Any]
        self._idle: list[Any] = []
        self._busy: dict[Any, Any] = {}
        """Reference to an answer -> the actor that works on it: one call each, as more of them would part work too early."""

    def __enter__(self) -> RayRunner:
        self._session.__enter__()
        import ray

        try:
            # A worker with one CPU has one thread for OpenMP and BLAS, too, and Ray starts all workers at niceness 15: whoever
            # else has something to do on the machine, such as a service that answers requests, comes first.
            remote = ray.remote(num_cpus=1)(_Actor)
            self._new = partial(remote.remote, ray.put(self._evaluator))
            for _ in range(self._jobs):
                self._start_actor()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def scores(self, archs: Sequence[Arch], images: int | None = None) -> Iterator[tuple[Arch, Score]]:
        import ray

        waiting, sent = deque(archs), dict[Any, list[Arch]]()
        size, deaths = 1, 0
        while waiting or sent:
            self._send(waiting, sent, images, size)
            reference = self._session.answered(list(self._busy))
            # None: left over from a call that was not read to its end, or an actor that says that it is there.
            actor, batch = self._busy.pop(reference), sent.pop(reference, None)
            try:
                scores: list[Score] = ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                self._idle.append(actor)
                if batch is not None:  # what a LocalRunner would raise
                    raise error.cause from error
            except ray.exceptions.RayError as error:
                deaths += 1
                waiting.extend(batch or ())
                self._replace(actor, deaths, error)
            else:
                self._idle.append(actor)
                if batch:
                    size = max(1, int(CALL_S * len(batch) / max(sum(score.seconds for score in scores), 1e-6)))
                    # Before they are read: the actor need not wait until they are stored.
                    self._send(waiting, sent, images, size)
                    yield from zip(batch, scores, strict=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import ray

        for actor in [*self._idle, *self._busy.values()]:
            ray.kill(actor)
        self._idle, self._busy = [], {}
        self._session.__exit__(kind, error, trace)

    def _send(self, waiting: deque[Arch], sent: dict[Any, list[Arch]], images: int | None, size: int) -> None:
        """Give each idle actor `size` architectures, or fewer so that there are enough for all."""
        while waiting and self._idle:
            actor, share = self._idle.pop(), -(-len(waiting) // self._jobs)
            batch = [waiting.popleft() for _ in range(min(size, share))]
            reference = actor.scores.remote(batch, images)
            self._busy[reference], sent[reference] = actor, batch

    def _start_actor(self) -> None:
        """An actor that gets work once it answers, which on a busy cluster may take long."""
        actor = self._new()
        self._busy[actor.scores.remote([], None)] = actor

    def _replace(self, actor: Any, deaths: int, error: Exception) -> None:
        import ray

        self._session.check()
        ray.kill(actor)  # it may only have been out of reach
        self._start_actor()
        if deaths > DEATHS:
            raise FaultError(
                f"an evaluator on Ray died, {deaths} times, most likely for want of memory; try fewer --jobs"
            ) from error


class _Actor:
    """Runs in a Ray worker."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator

    def scores(self, archs: Sequence[Arch], images: int | None) -> list[Score]:
        return [self._evaluator.score(arch, images) for arch in archs]


def make_runner(evaluator: Evaluator, jobs: int, address: str | None) -> Runner:
    """Ray for more than one job or a given cluster; this process for one."""
    return LocalRunner(evaluator) if jobs == 1 and address is None else RayRunner(evaluator, jobs, address)
