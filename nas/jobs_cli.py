"""`nas jobs ...`: jobs of a service, wherever it runs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.console import AsJson, fail

if TYPE_CHECKING:
    from nas.client import Client, Event

jobs = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Submit jobs to a service, follow them, fetch what came of them."
)

Json = Any

SUCCEEDED = "SUCCEEDED"
PATIENCE_S = 5.0
"""How long a service that cannot be reached is tried; much longer by what goes on for long."""
LONG_PATIENCE_S = 120.0
KINDS = ("run", "train", "profile", "search", "export")

Server = Annotated[
    str | None,
    typer.Option(
        envvar="NAS_SERVER",
        metavar="URL",
        help="The service [default: http://127.0.0.1:8023]. Its token comes from NAS_TOKEN or the file NAS_TOKEN_FILE.",
        show_default=False,
        show_envvar=False,
    ),
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="As `nas jobs list` shows it.")]


@jobs.command(
    epilog="Example: nas jobs submit examples/digits.yaml --watch\n\n"
    "Example: nas jobs submit --from j01jd... --kind search --set search.evaluations=400"
)
def submit(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[JOB.yaml]", help="A job file, or a spec with its kind.", show_default=False),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(help=f"One of {', '.join(KINDS)} [default: run, with --from search].", show_default=False),
    ] = None,
    source: Annotated[
        str | None, typer.Option("--from", metavar="ID", help="Go on from this job.", show_default=False)
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, as search.evaluations=400.")
    ] = None,
    priority: Annotated[int | None, typer.Option(min=-100, max=100, help="The higher is run first.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it until it has ended.")] = False,
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """Submit a job; images of this machine that it names are uploaded first."""
    if (file is None) == (source is None):
        fail("give one of: a job file, or --from ID")
    if kind is not None and kind not in KINDS:
        fail(f"--kind must be one of {', '.join(KINDS)}, not {kind!r}")
    with connected(server, LONG_PATIENCE_S if watch else None) as client:
        asked = file if file is not None else {"kind": kind or "search", "from": source}
        job = client.submit(asked, kind=kind or "run", overrides=overrides or (), priority=priority)
        if not watch:
            print(json.dumps(job) if as_json else job["id"])
            return
        if not as_json:
            print(job["id"], flush=True)
        _follow(client, job["id"], as_json)


@jobs.command("list", epilog="Example: nas jobs list --state RUNNING")
def list_jobs(
    state: Annotated[list[str] | None, typer.Option(help="Only in this state; may be repeated.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="Only of this kind; may be repeated.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    with connected(server) as client:
        found = list(client.jobs([each.upper() for each in state or ()], kind or (), limit))
    if as_json:
        print(json.dumps(found))
        return
    from nas.service_cli import print_table

    rows = [[job["id"], job["kind"], job["name"], _state(job), job["owner"], _when(job["created_s"])] for job in found]
    print_table(["id", "kind", "name", "state", "of", "submitted"], rows)


@jobs.command(epilog="Example: nas jobs show j01jd...")
def show(job_id: JobId, server: Server = None, as_json: AsJson = False) -> None:
    """Show one job."""
    with connected(server) as client:
        job = client.job(job_id)
    if as_json:
        print(json.dumps(job))
        return
    print(f"{job['id']}  {job['kind']}  {job['name']}  {_state(job)}")
    for stage in job["stages"]:
        print(f"  {stage['stage']}: {stage['seconds']:.1f} s")
    if job["error"]:
        print(f"  {job['error'].get('kind')}: {job['error'].get('message')}")


@jobs.command(epilog="Example: nas jobs watch j01jd...")
def watch(job_id: JobId, server: Server = None, as_json: AsJson = False) -> None:
    """Follow a job until it has ended; exit code 1 unless it succeeded."""
    with connected(server, LONG_PATIENCE_S) as client:
        _follow(client, job_id, as_json)


@jobs.command(epilog="Example: nas jobs cancel j01jd...")
def cancel(job_id: JobId, server: Server = None, as_json: AsJson = False) -> None:
    """End a job."""
    with connected(server) as client:
        job = client.cancel(job_id)
    print(json.dumps(job) if as_json else f"{job['id']}  {_state(job)}")


@jobs.command(epilog="Example: nas jobs files j01jd...")
def files(job_id: JobId, server: Server = None, as_json: AsJson = False) -> None:
    """List a job's files."""
    with connected(server) as client:
        found = client.artefacts(job_id)
    if as_json:
        print(json.dumps(found))
        return
    from nas.service_cli import print_table

    print_table(["path", "bytes", "sha256"], [[each["path"], str(each["bytes"]), each["sha256"]] for each in found])


@jobs.command(epilog="Example: nas jobs fetch j01jd... --out digits")
def fetch(
    job_id: JobId,
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="[PATH...]", help="Only these files.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to [default: the job's id].", show_default=False)
    ] = None,
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a job's files, each compared with its SHA-256; what is there already is left."""
    with connected(server, LONG_PATIENCE_S) as client:
        found = client.fetch(job_id, out or Path(job_id), paths or ())
    print(json.dumps([str(path) for path in found]) if as_json else "\n".join(map(str, found)))


@contextmanager
def connected(server: str | None, patience_s: float | None = None) -> Iterator[Client]:
    """A client of the service; what it refuses ends the command with one line."""
    try:
        from nas.client import Client
        from nas.connection import ClientError
    except ModuleNotFoundError as error:
        fail(f"{error.name} is not installed; install with: pip install {error.name}")
    try:
        with Client(server, patience_s=PATIENCE_S if patience_s is None else patience_s) as client:
            yield client
    except ClientError as error:
        fail(" ".join(str(error).split()), 2 if 400 <= error.status < 500 else 1)
    except KeyboardInterrupt:
        fail("interrupted; the job goes on, `nas jobs cancel` ends it", 130)


def _follow(client: Client, job_id: str, as_json: bool) -> None:
    state = ""
    for event in client.watch(job_id):
        if event.kind == "state":
            state = str(event.data.get("state"))
        if as_json:
            print(
                json.dumps({"seq": event.seq, "kind": event.kind, "at_s": event.at_s, "data": event.data}), flush=True
            )
        elif line := _line(event):
            print(line, flush=True)
    if (state or client.job(job_id)["state"]) != SUCCEEDED:
        raise typer.Exit(1)


# Kind of event -> how it is told; others are left out.
_TOLD = {
    "state": lambda data: " ".join(filter(None, (str(data.get("state", "")).lower(), str(data.get("reason") or "")))),
    "stage": lambda data: (
        f"{data.get('stage')} {data.get('state')}" + (f" in {data['seconds']:.1f} s" if "seconds" in data else "")
    ),
    "progress": lambda data: (
        f"{data.get('stage')} {data.get('done')}/{data.get('total')} {data.get('text') or ''}".rstrip()
    ),
    "log": lambda data: str(data.get("text", "")),
    "measured": lambda data: f"{data.get('arch_id')} takes {data.get('latency_ms', 0):.3f} ms on {data.get('device')}",
}


def _line(event: Event) -> str:
    tell = _TOLD.get(event.kind)
    return f"{time.strftime('%H:%M:%S', time.localtime(event.at_s))}  {tell(event.data)}" if tell else ""


def _state(job: Json) -> str:
    state, progress = str(job["state"]).lower(), job.get("progress")
    if job["queue_position"]:
        return f"{state} ({job['queue_position']} in the queue)"
    if state == "running" and progress:
        return f"{state} ({progress.get('stage')} {progress.get('done')}/{progress.get('total')})"
    return state


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
