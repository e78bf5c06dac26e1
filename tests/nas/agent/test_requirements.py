"""What a target needs: NumPy, ONNX Runtime, httpx and the command line, and nothing of what trains, searches or serves."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nas.agent

MODULES = sorted(f"nas.agent.{path.stem}" for path in Path(nas.agent.__file__).parent.glob("[a-z]*.py"))
# What only servers, trainers and builders of graphs have.
ELSEWHERE = {
    *("torch", "ray", "onnx", "sqlalchemy", "pydantic", "fastapi", "sklearn", "scipy", "optuna", "plotly", "yaml"),
    *("pyarrow", "alembic", "uvicorn", "jinja2", "supernets"),
}


def loaded_by(code: str) -> set[str]:
    """Packages that a fresh interpreter has after this."""
    script = f"{code}\nimport json, sys; print(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(ran.stdout.splitlines()[-1]))


def test_the_agent_loads_nothing_that_a_board_has_not():
    loaded = loaded_by(f"import nas.agent_cli, {', '.join(MODULES)}")
    assert {"numpy", "httpx"} <= loaded  # ONNX Runtime comes with the first session
    assert not loaded & ELSEWHERE


def test_the_command_line_does_not_either():
    assert not loaded_by("import nas.cli") & ELSEWHERE


def test_the_extra_asks_for_no_more():
    project = tomllib.loads((Path(nas.agent.__file__).parents[2] / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["agent"]]
    assert {re.match(r"[a-z0-9-]+", line)[0] for line in wanted} == {"numpy", "typer", "rich", "onnxruntime", "httpx"}
