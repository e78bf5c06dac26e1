"""The tree is the pipeline: which package may import which, and how packages and modules are laid out."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Package -> the packages of ours that it may import besides itself.
ARROWS = {
    "nas": {"supernets", "latency_tables", "search_spaces"},
    "supernets": {"search_spaces"},
    "latency_tables": {"search_spaces"},
    "search_spaces": set(),
}
# latency_tables runs on a small board, so not even a lazy import of these.
HEAVY = {"torch", "torchvision", "ray", "optuna"}
# What computes takes 250 MB: it is for the steps of jobs, and not for processes that take requests and hand out work.
COMPUTING = ("torch", "ray", "onnxruntime", "onnx", "sklearn", "scipy")
SERVING = """
from pathlib import Path
import nas.api.server
from tests.nas.api.hosted import hosted
with hosted(Path(sys.argv[1])) as service:
    service.person().submit()
"""
EMPTY_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}


def modules(package: str) -> list[Path]:
    return sorted(path for path in (ROOT / package).rglob("*.py") if "__pycache__" not in path.parts)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level package of every import in a file, also those inside functions and `TYPE_CHECKING`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "(relative)" if node.level else (node.module or "").partition(".")[0]
        elif isinstance(node, ast.Call) and named(node.func) in ("import_module", "__import__") and node.args:
            # A name that is only known when it runs cannot be checked; a literal one can.
            target = node.args[0]
            if isinstance(target, ast.Constant) and isinstance(target.value, str):
                yield node.lineno, target.value.partition(".")[0]


def named(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def offences(package: str, allowed) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules(package)
        for line, name in imports(path)
        if not allowed(name)
    ]


@pytest.mark.parametrize("package", ARROWS)
def test_imports_point_one_way(package):
    ours = {*ARROWS, "tests", "benchmarks", "examples", "(relative)"}
    assert offences(package, lambda name: name not in ours or name in ARROWS[package] | {package}) == []


def test_search_spaces_needs_the_standard_library_and_numpy_only():
    known = {*sys.stdlib_module_names, "numpy", "search_spaces"}
    assert offences("search_spaces", lambda name: name in known) == []


def test_latency_tables_imports_nothing_heavy():
    assert offences("latency_tables", lambda name: name not in HEAVY) == []


def test_supernets_imports_no_service_and_no_search():
    assert offences("supernets", lambda name: name not in {"ray", "optuna", "fastapi", "onnxruntime"}) == []


@pytest.mark.parametrize("package", ARROWS)
def test_packages_are_two_levels_deep_at_most(package):
    # nas/api/routes.py is the deepest that a module may lie.
    assert [str(path) for path in modules(package) if len(path.relative_to(ROOT).parts) > 3] == []


@pytest.mark.parametrize("package", ARROWS)
def test_modules_are_named_by_what_they_hold(package):
    assert [str(path) for path in modules(package) if EMPTY_NAMES & {path.stem, path.parent.name}] == []
    assert [str(path) for path in modules(package) if path.stem.endswith("_manager")] == []


def test_every_package_is_there():
    assert [package for package in ARROWS if not modules(package)] == []


def test_imports_are_found_wherever_they_hide(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("import a.b\ndef f():\n    from c.d import e\n    import_module('f.g')\nfrom . import h\n")
    assert sorted(imports(path)) == [(1, "a"), (3, "c"), (4, "f"), (5, "(relative)")]


@pytest.mark.parametrize("code", [SERVING, "import nas.service.worker, nas.agent_cli, nas.agent.agent"])
def test_who_takes_requests_or_hands_out_work_loads_nothing_that_computes(code, tmp_path):
    code = f"import sys\n{code}\nprint(*(name for name in {COMPUTING} if name in sys.modules))"
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == []
