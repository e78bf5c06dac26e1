"""Runners: who evaluates a batch of architectures. In this process, or spread over Ray actors; the scores are the same."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, redirect_stdout
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from nas.errors import FaultError
from search_spaces import Arch

if TYPE_CHECKING:
    # It needs torch, and whoever reads a search does not.
    from nas.searching.evaluator import Evaluator, Score

REACHED_S = 10.0

# How long a call to an actor should take. Ray adds 0.3-0.7 ms to each, so with 0.2 s that is nothing, and what a kill of the
# search loses is as little.
CALL_S = 0.2

# Deaths of actors that one batch of architectures survives.
DEATHS = 3

# Once Ray's control service is gone, Ray waits a minute for it and then ends this whole process without a word of Python.
CHECK_S = 2.0


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
    """Up to `jobs` Ray actors that each hold the evaluator; a new local Ray, or a running one by `address`.

    A local Ray is started with its dashboard and usage reports off, listens on the loopback interface alone and asks who calls
    for a token, and is stopped at the end. An actor that dies is replaced, and what it was scoring is scored again.
    """

    def __init__(self, evaluator: Evaluator, jobs: int, address: str | None = None) -> None:
        self._evaluator = evaluator
        self._jobs = jobs
        self._address = address
        self._new: Callable[[], Any]
        self._idle: list[Any] = []
        self._busy: dict[Any, Any] = {}
        """Reference to an answer -> the actor that works on it: one call each, as more of them would part work too early."""
        self._services: list[tuple[str, int]] = []
        self._checked_s = 0.0
        self._redirected = ExitStack()

    def __enter__(self) -> RayRunner:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        # Else it prints the last 20 lines of its scheduler's log beside the one that says how to go on.
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "Raylet is terminated")
        _check_reachable(self._address)
        if not self._address:
            keep_ray_to_ourselves()
        import ray

        local = {} if self._address else {"num_cpus": self._jobs, "include_dashboard": False}
        try:
            # Ray prints what it has to say of deaths, however its logging is set: not between a command's results.
            self._redirected.enter_context(redirect_stdout(sys.stderr))
            ray.init(address=self._address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
            self._services = _services(self._address)
            # A worker with one CPU has one thread for OpenMP and BLAS, too, and Ray starts all workers at niceness 15: whoever
            # else has something to do on the machine, such as a service that answers requests, comes first.
            remote = ray.remote(num_cpus=1)(_Actor)
            self._new = partial(remote.remote, ray.put(self._evaluator))
            for _ in range(self._jobs):
                self._start_actor()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            if isinstance(error, ConnectionError):
                hint = "; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" if "AuthToken" in str(error.__cause__) else ""
                raise FaultError(
                    f"search.ray_address: no Ray answers at {self._address or 'this machine'}{hint}"
                ) from error
            if isinstance(error, Exception) and not self._services:  # Ray has no class of its own for that
                raise FaultError(f"Ray did not start ({' '.join(str(error).split())}); go on with --resume") from error
            raise
        return self

    def scores(self, archs: Sequence[Arch], images: int | None = None) -> Iterator[tuple[Arch, Score]]:
        import ray

        waiting, sent = deque(archs), dict[Any, list[Arch]]()
        size, deaths = 1, 0
        while waiting or sent:
            self._send(waiting, sent, images, size)
            reference = self._answered()
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
        ray.shutdown()
        self._redirected.close()

    def _send(self, waiting: deque[Arch], sent: dict[Any, list[Arch]], images: int | None, size: int) -> None:
        """Give each idle actor `size` architectures, or fewer so that there are enough for all."""
        while waiting and self._idle:
            actor, share = self._idle.pop(), -(-len(waiting) // self._jobs)
            batch = [waiting.popleft() for _ in range(min(size, share))]
            reference = actor.scores.remote(batch, images)
            self._busy[reference], sent[reference] = actor, batch

    def _answered(self) -> Any:
        """The next answer; an error where Ray is no longer there to give one."""
        import ray

        while True:
            if time.monotonic() - self._checked_s > CHECK_S:
                self._check_running()
            done, _ = ray.wait(list(self._busy), num_returns=1, timeout=CHECK_S)
            if done:
                return done[0]

    def _check_running(self) -> None:
        for host, port in self._services:
            try:
                socket.create_connection((host, port), timeout=REACHED_S).close()
            except OSError as error:
                raise FaultError(f"Ray ended ({host}:{port}: {error}); go on with --resume") from error
        self._checked_s = time.monotonic()

    def _start_actor(self) -> None:
        """An actor that gets work once it answers, which on a busy cluster may take long."""
        actor = self._new()
        self._busy[actor.scores.remote([], None)] = actor

    def _replace(self, actor: Any, deaths: int, error: Exception) -> None:
        import ray

        self._check_running()
        ray.kill(actor)  # it may only have been out of reach
        self._start_actor()
        if deaths > DEATHS:
            raise FaultError(
                f"an evaluator on Ray died, {deaths} times, most likely for want of memory; try fewer --jobs"
            ) from error


def keep_ray_to_ourselves() -> None:
    """For a local Ray: whoever can speak with it can run anything as us.

    Ray listens on all interfaces, but on systems where it builds no clusters: the first variable says that this is one. It
    reads all three when it is imported; where it was imported before, only the first can still be said, and no token.
    """
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if "ray" in sys.modules:
        sys.modules["ray._private.ray_constants"].ENABLE_RAY_CLUSTER = False  # type: ignore[attr-defined]
    else:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _check_reachable(address: str | None) -> None:
    """Ray itself tries for over five minutes to reach a cluster that is not there."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=REACHED_S).close()
    except (OSError, OverflowError) as error:
        raise FaultError(f"search.ray_address: no Ray answers at {address} ({error})") from error


def _services(address: str | None) -> list[tuple[str, int]]:
    """Where Ray listens: its control service and this machine's scheduler, or the server of a `ray://` address."""
    import ray

    if address and address.startswith("ray://"):
        found = [address.removeprefix("ray://")]
    else:
        context = ray.get_runtime_context()
        here = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
        found = [context.gcs_address, f"{here['NodeManagerAddress']}:{here['NodeManagerPort']}"]
    parted = [each.rpartition(":") for each in found]
    return [(host.strip("[]"), int(port)) for host, _, port in parted]


class _Actor:
    """Runs in a Ray worker."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator

    def scores(self, archs: Sequence[Arch], images: int | None) -> list[Score]:
        return [self._evaluator.score(arch, images) for arch in archs]


def make_runner(evaluator: Evaluator, jobs: int, address: str | None) -> Runner:
    """Ray for more than one job or a given cluster; this process for one."""
    return LocalRunner(evaluator) if jobs == 1 and address is None else RayRunner(evaluator, jobs, address)
