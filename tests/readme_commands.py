"""Tries what the README and docs say: commands, the Python snippet, links, options, keys. `make check` runs it.

    python tests/readme_commands.py

A fenced block that follows the line `<!-- ci -->` in README.md is run as it stands, in an empty folder; the Python snippet
then reads what these commands exported. One line a check; exit code 1 if any failed.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = sorted([README, *(ROOT / "docs").glob("*.md")])
VERBS = (
    "run",
    "train",
    "profile",
    "search",
    "studies",
    "export",
    "supernets import",
    "supernets evaluate",
    "supernets study",
    "supernets conflicts",
    "devices",
    "devices list",
    "devices report",
    "devices compare",
    "devices show",
    "devices enrol",
    "devices remove",
    "serve",
    "worker",
    "agent",
    "backup",
    "restore",
    "jobs submit",
    "jobs list",
    "jobs show",
    "jobs watch",
    "jobs cancel",
    "jobs files",
    "jobs fetch",
    "users add",
    "users list",
    "tokens create",
    "tokens list",
    "tokens revoke",
    "users limit",
    "users link",
)

# Commands that only hold others.
GROUPS = {"jobs", "supernets", "tokens", "users"}

# Keys of summary.json whose own keys are the run's, not the format's.
OPEN_KEYS = {"config", "arch", "stages", "versions", "by_device", "choices", "latency_ms", "ratio", "rejected"}
# What the commands about a service submit as `job.yaml`.
SMALL_JOB = {
    "name": "small",
    "data": {"kind": "digits", "channels": 1},
    "space": {"family": "tiny", "resolutions": [4, 8], "channels": [32], "strides": [2], "expands": [0.5, 1.0]},
    "train": {"epochs": 1, "layout": "fp32"},
    "devices": [{"name": "cpu_t1"}],
    "profile": {"networks": 12, "budget_s": 2},
    "search": {"evaluations": 10},
}
# Files written by other hands: they are looked into for nothing but their links.
NOT_OURS = {"LOG.md"}

SERVICE_BLOCK = re.compile(r"^<!-- ci: while nas serve runs -->\n```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CI_BLOCK = re.compile(r"^<!-- ci -->\n```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
CODE = re.compile(r"`([^`\n]+)`")
FENCE = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def main() -> int:
    """Run every check; 1 if any failed."""
    failed = 0
    with tempfile.TemporaryDirectory(prefix="readme-") as folder:
        for name, check in checks(Path(folder)):
            start = time.perf_counter()
            try:
                check()
                outcome = f"ok      {time.perf_counter() - start:5.1f} s"
            except Exception as error:
                failed += 1
                known = isinstance(error, AssertionError | subprocess.CalledProcessError)
                outcome = f"FAILED  {error}" if known else f"FAILED  {traceback.format_exc()}"
            print(f"{name:<60} {outcome}", flush=True)
    return 1 if failed else 0


def checks(folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """What is checked, cheap things first; the commands leave their files in `folder` for the checks after them."""
    yield "links lead somewhere", check_links
    yield "options exist", check_options
    yield "docs/howto.md has every key of a job, with its default", check_job_keys
    yield "docs/howto.md has every setting of every family", check_family_settings
    yield "examples in the docs are jobs", check_yaml_blocks
    for command in ci_commands(CI_BLOCK):
        yield f"$ {command if len(command) < 56 else command[:55] + '…'}", partial(run_quietly, command, folder)
    yield "the service of the README", partial(check_service, folder)
    yield "the Python snippet of the README", partial(check_snippet, folder)
    yield "docs/formats.md has every key of summary.json", partial(check_summary_keys, folder)
    yield "docs/formats.md has every key of an exported file", partial(check_metadata_keys, folder)
    yield "docs/formats.md has every key of an export's numbers", partial(check_number_keys, folder)


# Commands


def environment() -> dict[str, str]:
    """Ours, with this interpreter's scripts first, and one thread: two that share their cores wait for each other."""
    scripts = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}", "OMP_NUM_THREADS": "1"}


def run(command: str, folder: Path, env: Mapping[str, str] | None = None) -> str:
    """Standard output of a command; an AssertionError with the end of what it said where it failed."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=env or environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"exit code {done.returncode}: {(done.stderr or done.stdout)[-600:]}"
    return done.stdout


def run_quietly(command: str, folder: Path) -> None:
    run(command, folder)


def ci_commands(block: re.Pattern[str]) -> list[str]:
    blocks = block.findall(README.read_text(encoding="utf-8"))
    assert blocks, f"README.md has no block as {block.pattern[:20]}"
    lines = [line.partition(" #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def check_service(folder: Path) -> None:
    """What the README says to do while `nas serve` runs, on a port of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "job.yaml").write_text(yaml.safe_dump(SMALL_JOB))
    server = environment() | {"NAS_SERVER": f"http://127.0.0.1:{port}", "NAS_EVALUATORS": "1"}
    with (folder / "serve.log").open("wb") as log:
        serving = subprocess.Popen(
            ["nas", "serve", "--port", str(port)], cwd=folder, env=server, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 60
        while not (folder / "nas-data" / "token").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        for command in ci_commands(SERVICE_BLOCK):
            run(command, folder, server)
    finally:
        serving.terminate()
        serving.wait(60)


def check_snippet(folder: Path) -> None:
    """The snippet names a class for a picture of a digit."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    Image.fromarray((digits.images[0] * 255 / 16).astype("uint8")).resize((64, 64)).save(folder / "picture.png")
    (snippet,) = PYTHON_BLOCK.findall(README.read_text(encoding="utf-8"))
    (folder / "snippet.py").write_text(snippet, encoding="utf-8")
    answer = run("python snippet.py", folder).strip()
    assert answer in {str(name) for name in digits.target_names}, f"it printed {answer!r}, which is no digit"


# Documents


def check_links() -> None:
    wrong = [f"{path.name}: {target}" for path in DOCS for target in relative_links(path) if not resolves(path, target)]
    assert not wrong, "; ".join(wrong)


def relative_links(path: Path) -> list[str]:
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    return [target for target in LINK.findall(text) if "://" not in target]


def resolves(path: Path, target: str) -> bool:
    name, _, anchor = target.partition("#")
    file = path.parent / name if name else path
    return file.exists() and (not anchor or anchor in anchors(file))


def anchors(path: Path) -> set[str]:
    """What a heading is called in links: small letters, hyphens for spaces, nothing else."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def check_options() -> None:
    """An option beside a verb is one of that verb, any other one of some verb or benchmark."""
    known = {verb: set(OPTION.findall(run(f"nas {verb} --help", ROOT))) for verb in VERBS}
    benchmarks = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("*.py"))
    every = set(OPTION.findall(benchmarks)).union(*known.values())
    wrong = []
    for path in (path for path in DOCS if path.name not in NOT_OURS):
        for code in code_in(path.read_text(encoding="utf-8")):
            if code.startswith("ray "):  # Ray's own command
                continue
            verb = re.match(r"nas ((?:devices|jobs|supernets|tokens|users) [a-z]+|\w+)", code)
            allowed = known.get(verb[1], every if verb[1] in GROUPS else None) if verb else every
            if allowed is None:
                wrong.append(f"{path.name}: no such command: {code}")
            else:
                wrong += [f"{path.name}: no {each}: {code}" for each in OPTION.findall(code) if each not in allowed]
    assert not wrong, "; ".join(wrong)


def code_in(text: str) -> Iterator[str]:
    """Lines of fenced blocks, and code within the text."""
    for block in FENCE.findall(text):
        yield from block.splitlines()
    yield from CODE.findall(FENCE.sub("", text))


def check_job_keys() -> None:
    rows = table_rows((ROOT / "docs" / "howto.md").read_text(encoding="utf-8"))
    wrong = [f"{key} (default {value})" for key, value in defaults_of_job().items() if (key, value) not in rows]
    assert not wrong, f"no row for {', '.join(wrong)}"


# Keys that only hold others, and `space`, whose settings are checked family by family.
PARENTS = {"data", "space", "train", "train.augment", "profile", "search", "export"}


def check_family_settings() -> None:
    from search_spaces import FAMILIES

    rows = table_rows((ROOT / "docs" / "howto.md").read_text(encoding="utf-8"))
    derived = {"num_classes", "in_channels"}
    for name, family in FAMILIES.items():
        settings = {key: value for key, value in family.settings({}).items() if key not in derived}
        wrong = [key for key, value in settings.items() if (f"space.{key}", shown(value)) not in rows]
        assert not wrong, f"no row for {', '.join(wrong)} of {name} with its default"


def table_rows(text: str) -> set[tuple[str, str]]:
    """Key and default of every row `| key | values | default | meaning |`."""
    rows = (line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `"))
    return {(cells[0].strip("`"), cells[2]) for cells in rows if len(cells) == 4}


def defaults_of_job() -> dict[str, str]:
    """Every key of a job file that holds a value, by its full path, with its default as the docs show it."""
    from nas.job import Job, schema_of

    fields = [(key, field) for key, field in schema_fields(schema_of(Job)) if key not in PARENTS]
    found = {key: "required" if field.is_required() else shown(field.get_default()) for key, field in fields}
    # Those of the machine that a job runs on, and a mapping that each family reads for itself.
    return {**found, "devices": "those of this machine", "space.family": "required"}


def schema_fields(schema: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Fields with the full paths of their keys, those of nested models after their parent."""
    for name, field in schema.model_fields.items():
        yield f"{prefix}{name}", field
        for inner in models_in(field.annotation):
            yield from schema_fields(inner, f"{prefix}{name}.")


def models_in(kind: Any) -> list[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    return [model for inner in getattr(kind, "__args__", ()) for model in models_in(inner)]


def shown(value: Any) -> str:
    """A default as the tables show it: YAML in one line, `-` for none."""
    if value is None:
        return "-"
    value = list(value) if isinstance(value, tuple) else value
    text: str = yaml.safe_dump(value, default_flow_style=True, width=1000)
    return f"`{text.removesuffix(chr(10)).removesuffix('...').strip()}`"


def check_yaml_blocks() -> None:
    """Every YAML block is a spec, a job, or a part of one that fits into a small job."""
    from nas.job import job_from_json, job_to_json
    from nas.service.specs import check_spec

    small = {"name": "x", "data": {"kind": "digits"}, "space": {"family": "tiny"}}
    for path in (path for path in DOCS if path.name not in NOT_OURS):
        for block in re.findall(r"^```yaml\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            found = yaml.safe_load(block)
            assert check_spec(found) if "kind" in found else job_to_json(job_from_json({**small, **found})), block


# What the commands left


def check_summary_keys(folder: Path) -> None:
    summary = json.loads((folder / "runs" / "demo" / "summary.json").read_text(encoding="utf-8"))
    assert_named(sorted(keys_in(summary)))


def keys_in(value: Any) -> set[str]:
    if isinstance(value, Mapping):
        inner = (keys_in(item) for key, item in value.items() if key not in OPEN_KEYS)
        return set(value).union(*inner)
    if isinstance(value, list):
        return set().union(*map(keys_in, value))
    return set()


def check_metadata_keys(folder: Path) -> None:
    import onnxruntime

    for path in sorted((folder / "runs" / "demo" / "models").glob("*/*.onnx")):
        found = onnxruntime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map
        assert_named(list(found))


def check_number_keys(folder: Path) -> None:
    for path in sorted((folder / "runs" / "demo" / "models").glob("*/*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        assert_named(sorted(keys_in({key: value for key, value in found.items() if key != "space"})))


def assert_named(keys: list[str]) -> None:
    text = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    named = set(CODE.findall(FENCE.sub("", text)))
    missing = [key for key in keys if key not in named]
    assert not missing, f"it does not name {', '.join(missing)}"


if __name__ == "__main__":
    sys.exit(main())
