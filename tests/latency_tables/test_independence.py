"""The package runs on a small board: what importing it pulls in."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import latency_tables

FOLDER = Path(latency_tables.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(FOLDER).with_suffix("").parts) for path in FOLDER.rglob("*.py") if path.stem != "__init__"
)
AGENT = {*sys.stdlib_module_names, "numpy", "onnxruntime", "search_spaces", "latency_tables"}
# What builds graphs, and what needs a builder: for the machine that plans, not for the board that measures.
BUILDERS = {
    f"graphs.{name}" for name in ("graph", "nodes", "quantise", "preprocessing", "half_precision", "fallbacks", "exits")
}
NEED_BUILDERS = BUILDERS | {"measuring.peak", "graphs.ranges"}
HEAVY = {"torch", "ray", "optuna", "sklearn", "pydantic", "scipy"}


def imported(module: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse((FOLDER / f"{module.replace('.', '/')}.py").read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("module", ["__init__", *MODULES])
def test_a_module_needs_no_more_than_numpy_and_onnxruntime(module):
    assert imported(module) <= AGENT | ({"onnx"} if module in BUILDERS else set())


def loaded_by(code: str) -> set[str]:
    """Top-level packages that a fresh interpreter holds after running `code`."""
    script = f"{code}\nimport sys, json; print(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(ran.stdout.splitlines()[-1]))


def test_importing_the_package_loads_nothing_heavy_and_not_even_onnx_or_its_runtime():
    everything = "\n".join(f"import latency_tables.{module}" for module in MODULES if module not in NEED_BUILDERS)
    loaded = loaded_by(f"import latency_tables\n{everything}")
    assert "numpy" in loaded
    assert not loaded & {*HEAVY, "onnx", "onnxruntime"}


def test_building_graphs_loads_onnx_and_nothing_heavier():
    loaded = loaded_by("import latency_tables.graphs.graph")
    assert "onnx" in loaded
    assert not loaded & HEAVY


def test_every_public_name_is_there():
    assert sorted(latency_tables.__all__, key=str) == sorted(set(latency_tables.__all__))
    assert all(hasattr(latency_tables, name) for name in latency_tables.__all__)
