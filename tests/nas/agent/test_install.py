"""What `pip install 'hwnas[agent]'` brings to a target: little, and enough to be one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import nas.agent

ROOT = Path(nas.agent.__file__).parents[2]
MOST_BYTES = 160e6
"""Of all packages, not compiled: 143 MB with onnxruntime 1.31 and NumPy 2.4, of which 130 MB are theirs."""
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
PINNED = ("--constraint", str(ROOT / "constraints.txt"))

pytestmark = pytest.mark.slow


def ran(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, check=False)


def environment(folder: Path, *packages: str) -> Path:
    """A virtual environment in this folder with these packages and what they need; skips where no index is reached."""
    found = ran(*PIP, "--retries", "1", "--timeout", "5", "download", "--no-deps", *PINNED, "idna", folder=folder)
    if found.returncode != 0:
        pytest.skip(f"no package index is reached: {found.stderr.strip().splitlines()[-1]}")
    # With this interpreter's pip: one of its own would take as long as all the rest.
    assert ran(sys.executable, "-m", "venv", "--without-pip", "venv", folder=folder).returncode == 0
    pip = (*PIP, "--python", folder / "venv/bin/python")
    found = ran(*pip, "install", "--no-compile", *PINNED, *packages, folder=folder)
    assert found.returncode == 0, found.stderr
    return folder / "venv"


@pytest.fixture(scope="module")
def board(tmp_path_factory) -> Path:
    """A virtual environment with the agent alone, from this tree."""
    return environment(tmp_path_factory.mktemp("board"), f"{ROOT}[agent]")


def test_an_agent_is_small(board):
    (packages,) = board.glob("lib/python*/site-packages")
    size = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file())
    assert size < MOST_BYTES


def test_an_agent_has_nothing_that_trains_searches_or_serves(board):
    code = "import importlib.util, sys; print([name for name in sys.argv[1:] if importlib.util.find_spec(name)])"
    heavy = ("torch", "ray", "onnx", "sklearn", "scipy", "optuna", "sqlalchemy", "fastapi", "pyarrow")
    assert ran(board / "bin/python", "-c", code, *heavy, "onnxruntime", folder=board).stdout == "['onnxruntime']\n"


@pytest.mark.parametrize("command", [["--help"], ["agent", "--help"], ["devices", "--help"]])
def test_an_agent_has_the_command_line(board, command):
    found = ran(board / "bin/nas", *command, folder=board)
    assert (found.returncode, found.stderr) == (0, "")
    assert "Usage: nas" in found.stdout


def test_an_agent_measures_all_that_it_can(board):
    code = (
        "from latency_tables.device import Device; from latency_tables.measuring.machine import Here; "
        "from latency_tables.measuring.needs import AT_ONCE, NEEDS; "
        "from latency_tables.measuring.sessions import CANARY, Graph; "
        "graph = Graph('a', CANARY.read_bytes()); "
        "found = Here().measure([graph], Device('cpu'), protocol=AT_ONCE, needs=NEEDS)['a']; "
        "print(found.median_us > 0, found.footprint.model_bytes == len(graph.model), found.energy)"
    )
    found = ran(board / "bin/python", "-c", code, folder=board)
    assert found.stdout == "True True None\n", found.stderr
