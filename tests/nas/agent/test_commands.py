"""`nas agent`, and `nas devices` of a service."""

import json
from contextlib import contextmanager

import pytest
import typer
from typer.testing import CliRunner

from nas import agent_cli, farm_cli
from nas.agent.agent import Agent
from nas.agent.errors import Unwelcome
from nas.agent.spool import Spool
from nas.agent.transport import Http
from nas.agent.wire import About
from nas.cli import app as whole
from nas.client import Client
from nas.service.people import SCOPES
from tests.nas.agent.conftest import enrolled
from tests.nas.agent.fakes import ABOUT

APP = typer.Typer()
APP.command()(agent_cli.agent)


class Worked(Exception):
    """Instead of work without end."""


@pytest.fixture
def agent(monkeypatch, tmp_path, line):
    """Runs `nas agent` in an empty folder, against the service, until it would begin to work."""

    def work(self, sleep=None):
        self.step()
        raise Worked

    monkeypatch.setattr(About, "here", staticmethod(lambda: ABOUT))
    monkeypatch.setattr(Agent, "run", work)
    monkeypatch.setattr("nas.agent.agent.POLL_S", 0.0)
    monkeypatch.setattr(
        agent_cli, "_transport", lambda server, token, ca, plain: Http(server, token, ca, plain, transport=line)
    )

    def run(*arguments: str, server: str = "http://127.0.0.1"):
        return CliRunner().invoke(APP, ["--server", server, "--dir", str(tmp_path / "agent"), *arguments])

    return run


@pytest.fixture
def nas(monkeypatch, line, services, admin):
    """Runs `nas devices ...` against the service."""
    token = services.people.issue(admin, SCOPES)[1]

    @contextmanager
    def connected(server):
        with Client("http://127.0.0.1", token, transport=line) as client:
            yield client

    monkeypatch.setattr(farm_cli, "connected", connected)
    return lambda *arguments: CliRunner().invoke(whole, ["devices", *arguments])


def test_a_machine_enrols_once_and_works(agent, nas, services, tmp_path):
    said = nas("enrol", "board", "--json")
    code = json.loads(said.stdout)["code"]
    assert isinstance(agent("--enrol", code).exception, Worked)
    assert Spool(tmp_path / "agent").token
    assert services.farm.device("board").online
    assert isinstance(agent("--enrol", code).exception, Worked)  # as a unit that is started again says it again
    assert isinstance(agent().exception, Worked)


def test_what_is_not_enrolled_is_told_how(agent):
    said = agent()
    assert said.exit_code == 2
    assert said.stderr.splitlines()[-1].startswith("nas: ")
    assert "not enrolled yet; give --enrol CODE once" in said.stderr


def test_a_bad_code_ends_with_one_line(agent):
    said = agent("--enrol", "abc")
    assert said.exit_code == 2
    assert "nas: the code is unknown, used up or older than an hour" in said.stderr


def test_a_server_that_would_get_the_token_in_the_open_is_refused(agent):
    said = agent("--enrol", "abc", server="http://nas.example.org")
    assert (said.exit_code, "unencrypted" in said.stderr) == (2, True)


def test_an_agent_that_is_unwelcome_ends_with_one_line(agent, monkeypatch, tmp_path):
    def work(self, sleep=None):
        raise Unwelcome("this token is unknown, expired or revoked")

    monkeypatch.setattr(Agent, "run", work)
    Spool(tmp_path / "agent").keep_token("nas_x")
    said = agent()
    assert (said.exit_code, said.stderr.splitlines()[-1]) == (2, "nas: this token is unknown, expired or revoked")


def test_a_folder_in_use_is_told_of(agent, tmp_path):
    with Spool(tmp_path / "agent").locked():
        said = agent()
    assert (said.exit_code, "another agent works in this folder" in said.stderr) == (2, True)


def test_machines_are_listed_shown_and_removed(nas, web, person):
    enrolled(web, person)
    listed = nas("list", "--server", "http://127.0.0.1")
    assert listed.exit_code == 0, listed.stderr
    for word in ("board", "online", "Cortex-A72", "1.23.0", "0 waiting"):
        assert word in listed.stdout
    assert json.loads(nas("list", "--server", "http://127.0.0.1", "--json").stdout)[0]["name"] == "board"
    shown = nas("show", "board")
    for word in ("board: online, 0 waiting", "Cortex-A72, 4 cores, 4 GiB", "offers cpu_t1, cpu_t4"):
        assert word in shown.stdout
    assert json.loads(nas("show", "board", "--json").stdout)["offers"]["refused"] == []
    assert nas("remove", "board").stdout == "board is removed\n"
    assert "board: removed" in nas("show", "board").stdout


def test_a_code_is_shown_with_what_to_do(nas):
    said = nas("enrol", "board").stdout
    assert "nas agent --server http://127.0.0.1 --enrol" in said
