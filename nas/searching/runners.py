"""Runners: who evaluates a batch of architectures. In this process, or spread over Ray actors; the scores are the same."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Protocol

from nas.errors import JobError
from nas.searching.evaluator import Evaluator, Score
from search_spaces import Arch

REACHED_S = 10.0


class Runner(Protocol):
    """Scores architectures, in any order; used as a context manager, so that what it started ends with it."""

    def scores(self, archs: Sequence[Arch]) -> Iterator[tuple[Arch, Score]]: ...

    def __enter__(self) -> Runner: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class LocalRunner:
    """One after the other, here."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator

    def scores(self, archs: Sequence[Arch]) -> Iterator[tuple[Arch, Score]]:
        for arch in archs:
            yield arch, self._evaluator.score(arch)

    def __enter__(self) -> LocalRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class RayRunner:
    """`jobs` Ray actors that each hold the evaluator; a new local Ray, or a running one by `address`.

    A local Ray is started with its dashboard and usage reports off, and stopped at the end.
    """

    def __init__(self, evaluator: Evaluator, jobs: int, address: str | None = None) -> None:
        self._evaluator = evaluator
        self._jobs = jobs
        self._address = address
        self._actors: list[Any] = []

    def __enter__(self) -> RayRunner:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        _check_reachable(self._address)
        import ray

        local = {} if self._address else {"num_cpus": self._jobs, "include_dashboard": False}
        try:
            ray.init(address=self._address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
            shared = ray.put(self._evaluator)
            remote = ray.remote(num_cpus=1)(_Actor)
            self._actors = [remote.remote(shared) for _ in range(self._jobs)]
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            if isinstance(error, ConnectionError):
                raise JobError(f"search.ray_address: no Ray answers at {self._address or 'this machine'}") from error
            raise
        return self

    def scores(self, archs: Sequence[Arch]) -> Iterator[tuple[Arch, Score]]:
        import ray

        waiting = list(reversed(archs))
        running: dict[Any, tuple[Arch, Any]] = {}
        # Two tasks an actor: while one runs, the next is already there.
        idle = [*self._actors, *self._actors]
        while waiting or running:
            while waiting and idle:
                actor, arch = idle.pop(), waiting.pop()
                running[actor.score.remote(arch)] = (arch, actor)
            done, _ = ray.wait(list(running), num_returns=1)
            arch, actor = running.pop(done[0])
            idle.append(actor)
            yield arch, _result(done[0])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
        ray.shutdown()


def _check_reachable(address: str | None) -> None:
    """Ray itself tries for over five minutes to reach a cluster that is not there."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=REACHED_S).close()
    except (OSError, OverflowError) as error:
        raise JobError(f"search.ray_address: no Ray answers at {address} ({error})") from error


def _result(reference: Any) -> Score:
    """What an actor answered; an error of the evaluator as a `LocalRunner` would raise it."""
    import ray

    try:
        score: Score = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayActorError as error:
        raise JobError("an evaluator on Ray died, most likely for want of memory; try fewer --jobs") from error
    return score


class _Actor:
    """Runs in a Ray worker."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator

    def score(self, arch: Arch) -> Score:
        return self._evaluator.score(arch)


def make_runner(evaluator: Evaluator, jobs: int, address: str | None) -> Runner:
    """Ray for more than one job or a given cluster; this process for one."""
    return LocalRunner(evaluator) if jobs == 1 and address is None else RayRunner(evaluator, jobs, address)
