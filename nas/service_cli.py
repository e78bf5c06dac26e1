"""`nas serve`, `worker`, `backup`, `restore`, `users`, `tokens`: for whoever runs the service, on its host."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nas.console import AsJson, fail

if TYPE_CHECKING:
    from nas.service.people import People, Token
    from nas.service.settings import Settings

users = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Who may use the service.")
tokens = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="What users and programs show to the service.")

DAY_S = 86400.0

Data = Annotated[
    Path | None,
    typer.Option(envvar="NAS_DATA", help="Folder of the service [default: nas-data].", show_default=False),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database",
        envvar="NAS_DATABASE",
        metavar="URL",
        help="postgresql://...; with a password in it, give NAS_DATABASE instead [default: a file in --data].",
        show_default=False,
        show_envvar=False,
    ),
]
BlobsUrl = Annotated[
    str | None,
    typer.Option(
        "--blobs", metavar="URL", help="As s3://bucket/prefix [default: a folder in --data].", show_default=False
    ),
]
RayAddress = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="A Ray cluster [default: one of its own].", show_default=False)
]
LogFormat = Annotated[Literal["json", "text"], typer.Option(help="How it says what it does, on standard error.")]


def serve(
    data: Data = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8023,
    tls_cert: Annotated[Path | None, typer.Option(metavar="FILE", help="Certificate, as PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its key, as PEM.")] = None,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="A proxy ends TLS; nobody else can reach the port.")
    ] = False,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A host name that it answers to as well.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Workers on this machine; each runs one job at a time.")] = 1,
    database: DatabaseUrl = None,
    blobs: BlobsUrl = None,
    ray_address: RayAddress = None,
    dataset: Annotated[
        list[str] | None, typer.Option(metavar="NAME=PATH", help="Images on this machine that jobs name as data:NAME.")
    ] = None,
    log_format: LogFormat = "json",
) -> None:
    """Run the service: its API, its page and its workers."""
    with told():
        from nas.api.logs import log_to_stderr
        from nas.api.server import Address, serve

        address = Address(host, port, tls_cert, tls_key, behind_proxy, tuple(allow_host or ()))
        settings = settings_for(
            data=data, database=database, blobs=blobs, ray_address=ray_address, datasets=_datasets(dataset or [])
        )
        log_to_stderr(log_format)
        serve(settings, address, workers, log_format, print_now)


def worker(
    data: Data = None,
    database: DatabaseUrl = None,
    blobs: BlobsUrl = None,
    ray_address: RayAddress = None,
    slots: Annotated[int, typer.Option(min=1, help="Jobs side by side.")] = 1,
    log_format: LogFormat = "json",
) -> None:
    """Run jobs of a service, until SIGTERM; `nas serve` starts one by itself."""
    with told():
        from nas.api.logs import log_to_stderr
        from nas.service.crew import die_with_parent
        from nas.service.worker import work

        die_with_parent()
        log_to_stderr(log_format)
        work(settings_for(data=data, database=database, blobs=blobs, ray_address=ray_address), slots)


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE.tar", help="The file to write.")],
    data: Data = None,
    database: DatabaseUrl = None,
    blobs: BlobsUrl = None,
) -> None:
    """Write all of a service into one file, while it runs."""
    with told():
        from nas.service.backup import backup

        made = backup(settings_for(data=data, database=database, blobs=blobs), file)
        print(f"{file}: {made.jobs} jobs, {made.blobs} files of {made.bytes} bytes")


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE.tar", help="What `nas backup` wrote.")],
    data: Data = None,
    database: DatabaseUrl = None,
    blobs: BlobsUrl = None,
) -> None:
    """Fill an empty service with what a backup holds."""
    with told():
        from nas.service.backup import restore

        settings = settings_for(data=data, database=database, blobs=blobs)
        settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = restore(file, settings)
        print(f"{made.jobs} jobs, {made.blobs} files of {made.bytes} bytes restored")


@users.command("add", epilog="Example: nas users add ada")
def add_user(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits, '.', '_', '@', '-'.")],
    admin: Annotated[bool, typer.Option("--admin", help="Sees everybody's jobs and enrols machines.")] = False,
    data: Data = None,
    database: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Add a user. `nas tokens create` then makes a token for them."""
    with told(), _people(data, database) as people:
        user = people.add(name, admin=admin)
        print(json.dumps(asdict(user)) if as_json else f"{user.name}{' (admin)' if user.admin else ''} added")


@users.command("limit", epilog="Example: nas users limit ada --max-running 2")
def limit_user(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The user.")],
    max_running: Annotated[int | None, typer.Option(min=0, help="Jobs that run side by side.")] = None,
    max_queued: Annotated[int | None, typer.Option(min=0, help="Jobs that have not ended.")] = None,
    data: Data = None,
    database: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show how many jobs a user may have, or change it."""
    with told(), _people(data, database) as people:
        user = people.limit(name, max_running, max_queued)
        line = f"{user.name}: {user.max_running} jobs side by side, {user.max_queued} that have not ended"
        print(json.dumps(asdict(user)) if as_json else line)


@users.command("list", epilog="Example: nas users list")
def list_users(data: Data = None, database: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """List the users."""
    with told(), _people(data, database) as people:
        found = people.all()
        if as_json:
            print(json.dumps([asdict(user) for user in found]))
        else:
            print_table(["name", "admin", "id"], [[user.name, "yes" if user.admin else "", user.id] for user in found])


@users.command("link", epilog="Example: nas users link ada")
def link_user(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The user.")],
    server: Annotated[
        str, typer.Option(envvar="NAS_SERVER", metavar="URL", help="Where the page is.")
    ] = "http://127.0.0.1:8023",
    data: Data = None,
    database: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Print a link that logs a browser in, once and within ten minutes."""
    with told(), _people(data, database) as people:
        link = f"{server.rstrip('/')}/login?code={people.login_code(people.named(name))}"
        print(json.dumps({"link": link}) if as_json else link)


@tokens.command("create", epilog="Example: nas tokens create --user ada --scope jobs,models > token")
def create_token(
    user: Annotated[str, typer.Option(metavar="NAME", help="Whose token it is.")],
    scope: Annotated[
        str, typer.Option(help="What it is good for: jobs, models, devices-admin, metrics.")
    ] = "jobs,models",
    label: Annotated[str, typer.Option(help="What it is for, to recognise it.")] = "",
    days: Annotated[
        float | None, typer.Option(min=0.001, help="How long it lasts [default: for good].", show_default=False)
    ] = None,
    data: Data = None,
    database: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Make a token and print it, this once."""
    with told(), _people(data, database) as people:
        wanted = [each.strip() for each in scope.split(",") if each.strip()]
        token, secret = people.issue(people.named(user), wanted, label, None if days is None else days * DAY_S)
        print(json.dumps({**asdict(token), "secret": secret}) if as_json else secret)


@tokens.command("list", epilog="Example: nas tokens list --user ada")
def list_tokens(
    user: Annotated[str | None, typer.Option(metavar="NAME", help="Only theirs.")] = None,
    data: Data = None,
    database: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """List tokens, without their secrets."""
    with told(), _people(data, database) as people:
        found = people.tokens(None if user is None else people.named(user).id)
        if as_json:
            print(json.dumps([asdict(token) for token in found]))
            return
        names = people.names()
        rows = [_token_row(token, names.get(token.user_id or "", token.device or "")) for token in found]
        print_table(["id", "of", "scopes", "label", "state"], rows)


@tokens.command("revoke", epilog="Example: nas tokens revoke k01jd...")
def revoke_token(
    token: Annotated[str, typer.Argument(metavar="ID", help="As `nas tokens list` shows it.")],
    data: Data = None,
    database: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """End a token; the service refuses it from a second later on."""
    with told(), _people(data, database) as people:
        found = people.revoke(token)
        print(json.dumps(asdict(found)) if as_json else f"{found.id} revoked")


def settings_for(**given: Any) -> Settings:
    """The settings of the environment, with those that are given in their place."""
    from nas.service.settings import Settings

    plain = {
        name: json.dumps(value) if isinstance(value, dict) else str(value) for name, value in given.items() if value
    }
    return Settings.of({**os.environ, **{f"NAS_{name.upper()}": text for name, text in plain.items()}})


@contextmanager
def told() -> Iterator[None]:
    """Turn what the service cannot do into one line: exit code 1 where it is away, else 2."""
    try:
        from nas.service.errors import ServiceError, Unavailable
    except ModuleNotFoundError as error:
        fail(f"{error.name} is not installed; install with: pip install 'hwnas[serve]'")
    try:
        yield
    except ServiceError as error:
        fail(" ".join(str(error).split()), 1 if isinstance(error, Unavailable) else 2)
    except ModuleNotFoundError as error:
        fail(f"{error.name} is not installed; install with: pip install 'hwnas[serve]'")


def print_now(line: str) -> None:
    """At once, also into a pipe."""
    print(line, flush=True)


def print_table(names: list[str], rows: list[list[str]]) -> None:
    """A plain table, for people and for `cut`."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name, no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    Console(width=None if os.isatty(1) else 200).print(table)


@contextmanager
def _people(data: Path | None, database: str | None) -> Iterator[People]:
    """The users of the service, in its database."""
    from nas.database import Database
    from nas.service.people import People

    settings = settings_for(data=data, database=database)
    if not settings.database and not settings.data.is_dir():
        fail(f"{settings.data}: no such folder; give --data, the folder of `nas serve`")
    with Database(settings.database_url) as db:
        db.upgrade()
        yield People(db)


def _token_row(token: Token, name: str) -> list[str]:
    state = "revoked" if token.revoked_s else "expires" if token.expires_s else ""
    return [token.id, name, ",".join(token.scopes), token.label, state]


def _datasets(given: list[str]) -> dict[str, str]:
    """NAME=PATH pairs."""
    found = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or not name or not path:
            fail(f"--dataset {text!r} is not of the form NAME=PATH")
        if not Path(path).exists():
            fail(f"--dataset {name}: {path} does not exist")
        found[name] = str(Path(path).absolute())
    return found
