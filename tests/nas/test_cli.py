"""The command line: what a user types, what is printed, and with which exit code it ends."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from nas import pipeline, progress
from nas.folder import STAGES, RunFolder
from tests.nas.conftest import Said, commanded
from tests.nas.fakes import FakeDisplay, write_job
from tests.nas.test_pipeline import outcome

ROOT = Path(__file__).parents[2]
COMMANDS = (
    "run",
    "train",
    "profile",
    "search",
    "export",
    "devices list",
    "devices report",
    "devices compare",
    "supernets import",
    "supernets evaluate",
    "supernets study",
    "supernets conflicts",
)

# The `nas` script on a quiet machine.
QUIET_NAS = """
import sys
from pathlib import Path
import pytest
from nas.cli import main
from tests.nas.fakes import on_a_quiet_machine
on_a_quiet_machine(pytest.MonkeyPatch(), Path(sys.argv.pop(1)))
main()
"""


# Help


def test_help_answers_without_anything_heavy():
    script = "import atexit, sys; atexit.register(lambda: print(*sys.modules)); from nas.cli import main; main()"
    command = [sys.executable, "-c", script, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    help_text, _, modules = done.stdout.rstrip().rpartition("\n")
    assert all(command.split()[0] in help_text for command in COMMANDS)
    loaded = {name.partition(".")[0] for name in modules.split()}
    assert "typer" in loaded
    assert loaded & {"torch", "ray", "optuna", "onnxruntime", "onnx", "numpy", "pydantic", "sklearn", "yaml"} == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    said = commanded(*command.split(), "--help")
    assert said.code == 0
    assert re.search(rf"Example: nas {command}\b", said.out)
    assert "--json" in said.out


def test_the_examples_in_the_help_can_be_read():
    for command in COMMANDS:
        for example in re.findall(r"Example: nas (.*)", commanded(*command.split(), "--help").out):
            assert commanded(*example.split(), "--help").code == 0


def test_no_command_at_all_shows_the_help():
    said = commanded()
    assert "Commands:" in said.out + said.err


# Whole runs


def test_a_whole_run_measures_this_machine_and_prints_a_table_for_each_device(here, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # a lock of its own
    said = commanded("run", write_job(tmp_path / "job.yaml"), "--jobs", 1)
    assert said.code == 0
    summary = json.loads(Path("runs/little/summary.json").read_text())
    assert said.out.count("most-accurate") == 2 * len(summary["devices"])  # the pick and its file
    for device in summary["devices"]:
        assert f"{device['name']}: {len(device['front'])} networks on the front" in said.out
        for row in device["front"]:
            assert 0.1 < row["latency_ms_measured"] / row["latency_ms_predicted"] < 10
        for made in device["exports"]:
            assert made["file"] in said.out
            assert made["max_abs_diff"] <= 1e-4
            assert made["top1_agreement"] == 1.0
    assert "report: runs/little/report.html" in said.out
    shown = [line.partition("  ")[0] for line in said.err.splitlines()]
    assert shown == ["data", "train", "profile one", "profile four", "search", "export"]


def test_a_run_as_json_prints_the_summary_and_nothing_else(nas, tmp_path, finished):
    said = nas("run", write_job(tmp_path / "job.yaml"), "--out", tmp_path / "run", "--jobs", 1, "--json")
    assert said.code == 0
    assert said.json == json.loads((tmp_path / "run/summary.json").read_text())
    assert outcome(tmp_path / "run") == outcome(finished)


def test_the_stages_one_by_one_end_like_the_whole_run(nas, tmp_path, finished):
    root = tmp_path / "run"
    for i, (stage, key) in enumerate(zip(STAGES, ("supernet", "devices", "search", "devices"), strict=True)):
        options = ["--jobs", 1] if stage == "search" else []
        target = [write_job(tmp_path / "job.yaml"), "--out", root] if stage == "train" else [root]
        said = nas(stage, *target, *options, "--json")
        assert said.code == 0
        assert said.json == json.loads((root / f"{stage}.json").read_text())
        assert key in said.json
        assert [name for name in STAGES if (root / f"{name}.json").exists()] == list(STAGES[: i + 1])
    assert outcome(root) == outcome(finished)


def test_export_prints_the_tables(nas, copied):
    said = nas("export", copied)
    assert said.code == 0
    assert "one: " in said.out
    assert "finished before" in said.err


def test_again_runs_a_stage_again(nas, copied, finished):
    said = nas("profile", copied, "--again")
    assert (said.code, [name for name in STAGES if (copied / f"{name}.json").exists()]) == (0, ["train", "profile"])
    assert not (copied / "summary.json").exists()
    assert "profile one" in said.err
    assert nas("run", "--resume", copied, "--jobs", 1).code == 0
    assert outcome(copied) == outcome(finished)


def test_without_again_a_finished_stage_is_left_alone(nas, copied):
    before = (copied / "profile.json").stat().st_mtime_ns
    said = nas("profile", copied)
    assert (said.code, said.err.split()) == (0, ["profile", "finished", "before"])
    assert (copied / "profile.json").stat().st_mtime_ns == before
    assert (copied / "summary.json").exists()


def test_an_override_goes_into_the_run(nas, tmp_path):
    said = nas("train", write_job(tmp_path / "job.yaml"), "--set", "train.epochs=1", "--set", "seed=3", "--out", "it")
    assert said.code == 0
    job = json.loads(Path("it/job.json").read_text())["job"]
    assert (job["train"]["epochs"], job["seed"]) == (1, 3)


def test_the_demo_replaces_the_demo_before_it_and_nothing_else(nas, monkeypatch):
    begun = []
    monkeypatch.setattr(pipeline, "run", lambda context: begun.append(context) or {})
    assert nas("run", "--demo", "--json") == Said(0, "{}\n", "")
    Path("runs/demo/notes.txt").write_text("of the demo before")
    assert nas("run", "--demo", "--json").code == 0
    assert [path.name for path in Path("runs/demo").iterdir()] == ["job.json"]
    assert [(context.folder.root, context.job.name) for context in begun] == [(Path("runs/demo"), "demo")] * 2
    assert "runs/demo: is there already" in nas("run", "--demo", "--out", "runs/demo").complaint
    Path("runs/demo/job.json").write_text('{"job": {"name": "mine"}}')
    assert "runs/demo: is there already" in nas("run", "--demo").complaint


# Interruptions


def test_ctrl_c_says_how_to_go_on(nas, tmp_path, monkeypatch, finished):
    for display in (FakeDisplay("data"), FakeDisplay("train", 5), FakeDisplay("search", 4)):
        monkeypatch.setattr(progress, "display", lambda display=display: display)
        new = not (tmp_path / "run").exists()
        how = [write_job(tmp_path / "job.yaml"), "--out", tmp_path / "run"] if new else ["--resume", tmp_path / "run"]
        said = nas("run", *how, "--jobs", 1)
        assert said == Said(130, "", f"nas: interrupted; go on with `nas run --resume {tmp_path / 'run'}`\n")
    monkeypatch.undo()


def test_a_run_that_was_killed_ends_as_if_it_was_not(nas, tmp_path, finished):
    root = tmp_path / "run"
    command = [sys.executable, "-c", QUIET_NAS, tmp_path, "run", write_job(tmp_path / "job.yaml"), "--out", root]
    with subprocess.Popen([*command, "--jobs=1"], cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        while not (root / "evaluations.sqlite").exists() and process.poll() is None:
            time.sleep(0.002)
        process.kill()
        complaint = process.stderr.read()
    assert process.returncode == -signal.SIGKILL, complaint
    assert [name for name in STAGES if (root / f"{name}.json").exists()] == ["train", "profile"]
    said = nas("run", "--resume", root, "--jobs", 1)
    assert said.code == 0
    assert said.err.count("finished before") == 2
    assert outcome(root) == outcome(finished)


# How it is not to be used


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "give one of: a job file, --demo, or --resume DIR"),
        (["run", "job.yaml", "--demo"], "give one of"),
        (["run", "--demo", "--resume", "x"], "give one of"),
        (["run", "--resume", "x", "--set", "seed=1"], "so it takes no --out, --set or --skip-bad"),
        (["run", "--resume", "x", "--out", "y"], "so it takes no --out"),
        (["run", "--resume", "x"], "x: is not the folder of a run (it has no job.json)"),
        (["profile", "x"], "x: is not the folder of a run"),
        (["run", "absent.yaml"], "absent.yaml: no such job file"),
    ],
)
def test_wrong_usage_is_refused_in_one_line(nas, arguments, said):
    assert said in nas(*arguments).complaint
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("arguments", [["trian"], ["run", "--job", "2"], ["search", "x", "--jobs", "0"], ["train"]])
def test_wrong_options_are_refused(nas, arguments):
    said = nas(*arguments)
    assert said.code == 2
    assert "Traceback" not in said.err


def test_a_folder_that_is_not_empty_is_refused_and_left_alone(nas, tmp_path):
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    complaint = nas("run", write_job(tmp_path / "job.yaml"), "--out", "mine").complaint
    assert complaint == "nas: mine: is there already; go on with `nas run --resume mine`, or choose another --out"
    assert [path.name for path in Path("mine").iterdir()] == ["notes.txt"]


def test_something_that_broke_is_no_wrong_input(nas, copied, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr("nas.pipeline.run", broken)
    with pytest.raises(RuntimeError, match="a bug of ours"):
        nas("run", "--resume", copied)


def test_a_package_that_is_not_installed_is_named(nas, monkeypatch):
    def absent(*arguments):
        raise ModuleNotFoundError("No module named 'moocore'", name="moocore")

    monkeypatch.setattr("nas.folder.RunFolder.open", absent)
    assert nas("run", "--resume", "x").complaint.startswith("nas: moocore is not installed; install with: pip install")


def test_the_script_ends_with_the_exit_code(tmp_path):
    command = [sys.executable, "-c", "from nas.cli import main; main()", "run"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (
        2,
        "",
        "nas: give one of: a job file, --demo, or --resume DIR\n",
    )


# A stage under another job, and alone


def test_a_finished_search_is_run_anew_under_other_constraints(nas, copied):
    before = json.loads((copied / "search.json").read_text())
    limit = before["devices"][0]["front"][0]["latency_ms_predicted"] * 1.0001
    said = nas("search", copied, "--again", "--jobs", 1, "--set", f'search.constraints=["latency_ms@one <= {limit}"]')
    assert said.code == 0, said.err
    found = json.loads((copied / "search.json").read_text())
    assert [len(device["front"]) > 0 for device in found["devices"]] == [True, True]
    assert all(row["latency_ms_predicted"] <= limit for row in found["devices"][0]["front"])
    assert RunFolder.open(copied).job.search.constraints == (f"latency_ms@one <= {limit}",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("search", "--set", "search.evaluations=12"), "the search stage is finished; add --again"),
        (("search", "--again", "--set", "train.epochs=3"), "this stage takes search.KEY=VALUE alone"),
        (("search", "--again", "--set", "search.evaluation=12"), "unknown key; did you mean 'evaluations'?"),
        (
            ("profile", "--again", "--set", "stem=8"),
            "this stage takes profile.KEY=VALUE, space.precisions, space.precision_per alone",
        ),
        (("export", "--again", "--set", "export.opset=2"), "opset"),
    ],
)
def test_what_a_stage_cannot_take_leaves_the_run_as_it_was(nas, copied, arguments, message):
    verb, *options = arguments
    before = (copied / "job.json").read_text()
    assert message in nas(verb, copied, *options).complaint
    assert (copied / "job.json").read_text() == before
    assert (copied / f"{verb}.json").exists()


def test_two_commands_do_not_work_on_one_run_at_a_time(nas, copied):
    with RunFolder.open(copied).held():
        for command in (("run", "--resume", copied), ("search", copied, "--again")):
            assert "another process is working on this run" in nas(*command).complaint
    assert (copied / "search.json").exists()
    assert nas("run", "--resume", copied).code == 0
