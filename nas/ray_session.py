"""A Ray for as long as something runs on it: a new local one that nobody else can use, or a running cluster."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from functools import partial
from types import FrameType, TracebackType
from typing import Any, NoReturn

from nas.errors import FaultError

REACHED_S = 10.0

# Once Ray's control service is gone, Ray waits a minute for it and then ends this whole process without a word of Python.
CHECK_S = 2.0


class RaySession:
    """A new local Ray with so many processors, or a running one by `address`; used as a context manager.

    A local Ray is started with its dashboard and usage reports off, listens on the loopback interface alone and asks who calls
    for a token, and is stopped at the end.
    """

    def __init__(self, address: str | None, processors: int) -> None:
        self._address = address
        self._processors = processors
        self._services: list[tuple[str, int]] = []
        self._checked_s = 0.0
        self._left = ExitStack()

    def __enter__(self) -> RaySession:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        # Else it prints the last 20 lines of its scheduler's log beside the one that says how to go on.
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "Raylet is terminated")
        _check_reachable(self._address)
        if not self._address:
            keep_ray_to_ourselves()
        import ray

        local = {} if self._address else {"num_cpus": self._processors, "include_dashboard": False}
        try:
            # Ray prints what it has to say of deaths, however its logging is set: not between a command's results.
            self._left.enter_context(redirect_stdout(sys.stderr))
            sigterm = self._left.enter_context(_own_sigterm())
            ray.init(address=self._address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
            sigterm()
            self._services = _services(self._address)
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            if isinstance(error, ConnectionError):
                hint = "; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN" if "AuthToken" in str(error.__cause__) else ""
                raise FaultError(
                    f"search.ray_address: no Ray answers at {self._address or 'this machine'}{hint}"
                ) from error
            if isinstance(error, Exception):  # Ray has no class of its own for that
                raise FaultError(f"Ray did not start ({' '.join(str(error).split())}); go on with --resume") from error
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import ray

        ray.shutdown()
        self._left.close()

    def answered(self, references: Sequence[Any]) -> Any:
        """The first of these that has an answer, or an error; `FaultError` where Ray is no longer there to give one."""
        import ray

        while True:
            if time.monotonic() - self._checked_s > CHECK_S:
                self.check()
            done, _ = ray.wait(list(references), num_returns=1, timeout=CHECK_S)
            if done:
                return done[0]

    def check(self) -> None:
        """`FaultError` where Ray has ended."""
        for host, port in self._services:
            try:
                socket.create_connection((host, port), timeout=REACHED_S).close()
            except OSError as error:
                raise FaultError(f"Ray ended ({host}:{port}: {error}); go on with --resume") from error
        self._checked_s = time.monotonic()


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


@contextmanager
def _own_sigterm() -> Iterator[Callable[[], object]]:
    """Take the signal back from Ray, by what is given: what Ray has handle it aborts this process, with a page of addresses.

    As before it, this process' own handler is called; where there is none, Python ends, and so does what Ray started.
    """

    def end(number: int, frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # only there signals can be handled
        yield lambda: None
        return
    before = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
    try:
        yield partial(signal.signal, signal.SIGTERM, end if before is signal.SIG_DFL else before)
    finally:
        signal.signal(signal.SIGTERM, before)


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
