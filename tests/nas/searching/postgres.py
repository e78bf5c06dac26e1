"""A private PostgreSQL for tests that are marked `postgres`: a server of our own on a Unix socket, gone at the end.

A test module takes the fixtures by `pytest_plugins = ["tests.nas.searching.postgres"]`; one server serves the session.
"""

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
START_S = 30.0


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a database of a server that runs until the tests end."""
    if not PROGRAMS:
        pytest.skip("needs PostgreSQL's programs in /usr/lib/postgresql/*/bin")
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("needs psycopg")
    # Not below pytest's own folder, which no other user may enter; and short, as the path of a socket has to be.
    root = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        with serving(root):
            yield f"postgresql+psycopg://trials:secret@/postgres?host={root}"
    finally:
        shutil.rmtree(root)


@pytest.fixture
def postgres(postgres_server) -> str:
    """The URL of an empty schema of the test's own."""
    import psycopg

    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(postgres_server.replace("+psycopg", "")) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    return f"{postgres_server}&options=-csearch_path%3D{name}"


@contextmanager
def serving(root: Path) -> Iterator[None]:
    """A server with its data and its socket in `root`."""
    user = unprivileged()
    if user is not None:
        shutil.chown(root, user)
    identity = {} if user is None else {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
    initdb, postgres = str(PROGRAMS[-1] / "initdb"), str(PROGRAMS[-1] / "postgres")
    made = [initdb, "-D", root / "data", "-U", "trials", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
    subprocess.run(made, check=True, capture_output=True, cwd=root, **identity)
    # What is killed in the tests is the client: the server need not survive a power cut.
    settings = ["-c", "listen_addresses=", "-c", "fsync=off", "-c", "timezone=UTC"]
    with (root / "log").open("w") as log:
        started = [postgres, "-D", root / "data", "-k", root, *settings]
        process = subprocess.Popen(started, cwd=root, stdout=log, stderr=log, **identity)
    try:
        wait_until_ready(root)
        yield
    finally:
        process.send_signal(signal.SIGQUIT)  # at once, whoever is connected, and nothing is written
        process.wait(timeout=START_S)


def unprivileged() -> str | None:
    """Whom the server runs as: it refuses to be root."""
    if os.getuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def wait_until_ready(root: Path) -> None:
    deadline = time.monotonic() + START_S
    ask = [str(PROGRAMS[-1] / "pg_isready"), "--quiet", "-h", root, "-U", "trials"]
    while subprocess.run(ask, check=False).returncode != 0:
        assert time.monotonic() < deadline, (root / "log").read_text()
        time.sleep(0.05)
