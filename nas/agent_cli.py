"""`nas agent`: measure here for a service elsewhere. Needs NumPy, ONNX Runtime and httpx alone."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from nas.console import fail

if TYPE_CHECKING:
    from nas.agent.spool import Spool
    from nas.agent.transport import Http
    from nas.agent.wire import About

Server = Annotated[
    str, typer.Option(metavar="URL", help="The service, as https://nas.example.org.", envvar="NAS_SERVER")
]
Code = Annotated[
    str | None,
    typer.Option(
        metavar="CODE",
        help="The code of `nas devices enrol`; once. It can stand in NAS_ENROL instead, where no list of processes shows it.",
        envvar="NAS_ENROL",
    ),
]
Dir = Annotated[Path, typer.Option("--dir", help="Where the agent keeps its token, models and what it measured.")]
Ca = Annotated[Path | None, typer.Option(metavar="FILE", help="Certificates to trust in place of the system's.")]
Plain = Annotated[bool, typer.Option("--plain-http", help="Send the token unencrypted: on a private network alone.")]


def agent(
    server: Server,
    enrol: Code = None,
    directory: Dir = Path("~/.nas-agent"),
    ca: Ca = None,
    plain_http: Plain = False,
) -> None:
    """Measure on this machine what a service elsewhere asks for, until it is ended.

    Without the network it goes on measuring, and sends later what it has measured.
    """
    with _reported():
        from nas.agent.spool import Spool
        from nas.agent.wire import About

        spool = Spool(directory.expanduser())
        with spool.locked():
            _say("looking at what this machine offers")
            about = About.here()
            if enrol is not None and not spool.token:
                _enrol(spool, _transport(server, "", ca, plain_http), enrol, about)
            if not spool.token:
                fail(
                    f"{spool.folder}: not enrolled yet; give --enrol CODE once, with a code of `nas devices enrol NAME`"
                )
            _work(spool, _transport(server, spool.token, ca, plain_http), about)


def _work(spool: Spool, transport: Http, about: About) -> None:
    """Until SIGTERM or SIGINT, which end it at once: all that must last is on disk."""
    from nas.agent.agent import Agent
    from nas.agent.bench import InChild
    from nas.agent.models import Models

    signal.signal(signal.SIGTERM, _interrupt)
    worker = Agent(spool, Models(spool.folder / "models"), transport, InChild(), about, _say)
    try:
        worker.run()
    except KeyboardInterrupt:
        _say("ended; what was measured is kept, and sent by the next start")


def _enrol(spool: Spool, transport: Http, code: str, about: About) -> None:
    """Enrol, as soon as the server answers."""
    from nas.agent.agent import enrol
    from nas.agent.errors import Away

    wait_s = 2.0
    while True:
        try:
            _say(f"enrolled as {enrol(spool, transport, code.strip(), about)}")
            return
        except Away as error:
            _say(f"{error}; next try in {wait_s:.0f} s")
        time.sleep(wait_s)
        wait_s = min(60.0, 2 * wait_s)


def _transport(server: str, token: str, ca: Path | None, plain: bool) -> Http:
    from nas.agent.transport import Http

    return Http(server, token, ca, plain)


@contextmanager
def _reported() -> Iterator[None]:
    """One line on standard error for what ends the agent. Not `console.reported`: that needs what trains."""
    try:
        from nas.agent.errors import AgentError
    except ModuleNotFoundError as error:
        fail(f"{error.name} is not installed; install with: pip install 'hwnas[agent]'")
    try:
        yield
    except AgentError as error:
        fail(" ".join(str(error).split()))
    except ModuleNotFoundError as error:
        fail(f"{error.name} is not installed; install with: pip install 'hwnas[agent]'")
    except OSError as error:
        fail(f"{error.filename or 'the folder of the agent'}: {error.strerror or error}", 1)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _say(line: str) -> None:
    """On standard error, with the time where no journal adds it."""
    stamp = "" if "JOURNAL_STREAM" in os.environ else time.strftime("%Y-%m-%d %H:%M:%S ")
    print(f"{stamp}{line}", file=sys.stderr, flush=True)
