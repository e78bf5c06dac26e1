"""S3-compatible storage for tests: a server on the loopback interface that keeps all in memory, gone at the end.

A test module takes the fixtures by `pytest_plugins = ["tests.nas.service.buckets"]`; one server serves the session.
"""

import importlib.util
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx
import pytest

from tests.nas.api.hosted import free_port

START_S = 30.0
KEY, SECRET = "test", "secret"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The URL of a server that runs until the tests end."""
    for name in ("s3fs", "moto"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"needs {name}")
    with storing() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_server, monkeypatch) -> str:
    """The URL of an empty bucket of the test's own, which this process and those that it starts may use."""
    for name, value in access(s3_server).items():
        monkeypatch.setenv(name, value)
    return make_bucket(s3_server)


@contextmanager
def storing() -> Iterator[str]:
    """Where a server answers."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        endpoint = f"http://127.0.0.1:{port}"
        _wait_until_ready(endpoint, process)
        yield endpoint
    finally:
        process.kill()
        process.wait()


def access(endpoint: str) -> Mapping[str, str]:
    """Variables by which s3fs gets there; as those of fsspec, which are read when it is imported, but read at each use."""
    return {"AWS_ENDPOINT_URL_S3": endpoint, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}


def make_bucket(endpoint: str) -> str:
    name = f"nas-{secrets.token_hex(6)}"
    httpx.put(f"{endpoint}/{name}", trust_env=False).raise_for_status()
    return f"s3://{name}/files"


def _wait_until_ready(endpoint: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            httpx.get(f"{endpoint}/moto-api/", trust_env=False)
            return
        except httpx.TransportError:
            assert process.poll() is None, "the S3 server has ended"
            assert time.monotonic() < deadline, "the S3 server does not answer"
            time.sleep(0.05)
