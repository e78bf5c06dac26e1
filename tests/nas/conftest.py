"""Fixtures: a quiet machine, the command line, and one finished run to copy from."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nas import cli, pipeline
from nas.folder import RunFolder
from nas.job import read_job
from tests.nas.fakes import FakeDisplay, on_a_quiet_machine, write_job


@pytest.fixture
def quiet_machine(monkeypatch, tmp_path) -> None:
    """Measurements without noise."""
    on_a_quiet_machine(monkeypatch, tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Iterator[Path]:
    """The folder of the little job, run without interruption. Not to be written to."""
    root = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        on_a_quiet_machine(patch, root)
        job = read_job(write_job(root / "job.yaml"))
        folder = RunFolder.create(root / "run", job)
        pipeline.run(pipeline.Run(folder, job, 1, FakeDisplay()))
    return root / "run"


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """A copy of the finished run, to break."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@dataclass(frozen=True)
class Said:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def complaint(self) -> str:
        """The one line on standard error of a command that refuses its input."""
        assert self.code == 2, self
        assert self.out == ""
        # Lines of stages that ended well may stand before it.
        line = self.err.splitlines()[-1]
        assert line.startswith("nas: "), self.err
        assert self.err.count("nas: ") == 1
        assert "Traceback" not in self.err
        return line


def commanded(*arguments: object) -> Said:
    """A command line, in this process."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Said(result.exit_code, result.stdout, result.stderr)


@pytest.fixture
def here(monkeypatch, tmp_path) -> Path:
    """An empty folder, to work in."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def nas(quiet_machine, here):
    """Runs a command line on a quiet machine, in an empty folder."""
    return commanded
