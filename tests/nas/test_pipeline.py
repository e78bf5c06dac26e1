"""The pipeline: what a run leaves behind, and that it leaves the same however often it was interrupted."""

import csv
import hashlib
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from latency_tables import Fingerprint, LatencyError
from nas import pipeline
from nas.errors import JobError
from nas.folder import STAGES, RunFolder
from nas.job import changed_job, job_from_json, job_to_json, read_job
from nas.searching.fronts import front, hypervolume
from search_spaces import Space, arch_cost
from supernets.checkpoint import read as read_checkpoint
from supernets.train import train
from tests.nas.fakes import FakeDisplay, on_a_quiet_machine, open_timed, write_job

# What a stage writes beside its own record.
MADE = {
    "profile": ("tables", "predictors"),
    "search": ("evaluations.sqlite",),
    "export": ("models", "fronts", "evaluations.csv", "report.html"),
}


def run(root: Path, display: FakeDisplay | None = None) -> dict[str, Any]:
    folder = RunFolder.open(root)
    return pipeline.run(pipeline.Run(folder, folder.job, 1, display or FakeDisplay()))


def started(tmp_path: Path, **changes) -> Path:
    """The folder of a new run of the little job."""
    job = read_job(write_job(tmp_path / "job.yaml", **changes))
    return RunFolder.create(tmp_path / "new", job).root


def undone(root: Path, stage: str) -> Path:
    """The folder as it was before a stage began."""
    RunFolder.open(root).reopen(stage)
    for later in STAGES[STAGES.index(stage) :]:
        for name in MADE[later]:
            shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()
    return root


def outcome(root: Path) -> dict[str, Any]:
    """What must not depend on how a run came about."""
    summary = json.loads((root / "summary.json").read_text())
    return {
        "supernet": weights(root),
        "supernet_accuracy": [summary["supernet"][f"{end}_test_accuracy"] for end in ("largest", "smallest")],
        "fronts": {device["name"]: device["front"] for device in summary["devices"]},
        "evaluated": {device["name"]: device["evaluated"] for device in summary["devices"]},
        "hypervolume": [each["history"] for each in summary["search"]["searches"]],
        "controls": [summary["search"]["random"], [device["uniform"] for device in summary["devices"]]],
        "exports": [
            (device["name"], made["pick"], made["arch_id"], made["max_abs_diff"], made["top1_agreement"])
            for device in summary["devices"]
            for made in device["exports"]
        ],
    }


def weights(root: Path) -> dict[str, bytes]:
    """Of the final supernet, bit for bit. Not the file: safetensors writes the keys of its header in a random order."""
    tensors = read_checkpoint(root / "supernet.safetensors").tensors
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def contents(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with its time of writing."""
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


# What a run leaves


def share(value: Any) -> bool:
    return type(value) is float and 0 <= value <= 1


def positive(value: Any) -> bool:
    return type(value) is float and value > 0


def check_types(found: dict[str, Any], wanted: dict[str, type | Callable[[Any], bool]]) -> None:
    for name, kind in wanted.items():
        value = found[name]
        assert type(value) is kind if isinstance(kind, type) else kind(value), (name, value)


def test_the_summary_says_all_that_it_is_to_say(finished):
    summary = json.loads((finished / "summary.json").read_text())
    check_types(summary, {"devices": list, "supernet": dict, "search": dict, "stages": dict, "versions": dict})
    assert [device["name"] for device in summary["devices"]] == ["one", "four"]
    for device in summary["devices"]:
        Fingerprint.from_json(device["fingerprint"])
        shares = dict.fromkeys(("within_5", "within_10"), share)
        check_types(device["predictor"], {"mape": positive, "spearman": float, "n_train": int, "n_test": int, **shares})
        assert device["predictor"]["n_train"] + device["predictor"]["n_test"] == 14
        assert device["front"]
        for row in device["front"]:
            check_types(row, {"arch_id": str, "arch": dict, "val_accuracy": share, "macs": int, "params": int})
            check_types(row, {"latency_ms_predicted": positive, "latency_ms_measured": positive})
            assert share(row["test_accuracy"]) if row["picks"] else row["test_accuracy"] is None
        for made in device["exports"]:
            check_types(made, {"file": str, "sha256": str, "max_abs_diff": float, "top1_agreement": share})
    accuracies = dict.fromkeys(("largest_test_accuracy", "smallest_test_accuracy"), share)
    check_types(summary["supernet"], {"train_seconds": positive, **accuracies})
    check_types(summary["search"], {"evaluations": int, "proposals": int, "hypervolume": dict, "seconds": positive})
    assert list(summary["stages"]) == list(STAGES)
    assert all(map(positive, summary["stages"].values()))
    assert summary["versions"].keys() >= {"python", "torch", "numpy", "onnx", "onnxruntime", "optuna"}
    assert (summary["seed"], summary["name"]) == (0, "little")


def test_a_front_is_what_the_evaluated_networks_make_it(finished):
    summary = json.loads((finished / "summary.json").read_text())
    space = Space.from_json(json.loads((finished / "space.json").read_text()))
    assert summary["search"]["evaluations"] == 10
    for device in summary["devices"]:
        rows = device["evaluated"]
        accuracy = np.array([row["val_accuracy"] for row in rows])
        latency_ms = np.array([row["latency_ms_predicted"] for row in rows])
        # As searched, on 200 images; those of the front were then evaluated on all of them.
        searched = {rows[i]["arch_id"] for i in front(accuracy, latency_ms)}
        assert all(share(row["val_accuracy"]) for row in device["front"])
        assert searched & {row["arch_id"] for row in device["front"]}
        points = [(row["latency_ms_predicted"], row["val_accuracy"]) for row in device["front"]]
        assert points == sorted(points)
        assert len({accuracy for _, accuracy in points}) == len(points)
        assert device["hypervolume"]["mean"] >= hypervolume(accuracy, latency_ms, float(latency_ms.max())) - 0.2
        for row in device["front"]:
            cost = arch_cost(space, space.arch(row["arch"]))
            assert (row["arch_id"], row["macs"], row["params"]) == (space.arch(row["arch"]).id, cost.macs, cost.params)
            assert row["latency_ms_low"] <= row["latency_ms_predicted"] <= row["latency_ms_high"]


def test_the_picks_are_the_ends_and_the_knee_of_the_front(finished):
    for device in json.loads((finished / "summary.json").read_text())["devices"]:
        picked = {pick: i for i, row in enumerate(device["front"]) for pick in row["picks"]}
        assert sorted(picked) == ["fastest", "knee", "most-accurate"]
        assert picked["fastest"] == 0
        assert picked["most-accurate"] == len(device["front"]) - 1
        files = {made["pick"]: made["arch_id"] for made in device["exports"]}
        assert files == {pick: device["front"][i]["arch_id"] for pick, i in picked.items()}


def test_the_files_are_those_that_the_summary_names(finished):
    for device in json.loads((finished / "summary.json").read_text())["devices"]:
        for made in device["exports"]:
            content = (finished / made["file"]).read_bytes()
            assert (hashlib.sha256(content).hexdigest(), len(content)) == (made["sha256"], made["bytes"])
        with (finished / "fronts" / f"{device['name']}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["arch_id"] for row in rows] == [row["arch_id"] for row in device["front"]]
        assert [float(row["val_accuracy"]) for row in rows] == [row["val_accuracy"] for row in device["front"]]
    assert "little" in (finished / "report.html").read_text()
    assert [path.name for path in finished.rglob(".*")] == [], "no temporary file is left"


def test_the_folder_holds_the_resolved_job_and_what_each_stage_ran_on(finished):
    folder = RunFolder.open(finished)
    assert job_from_json(json.loads((finished / "summary.json").read_text())["config"]) == folder.job
    assert job_to_json(folder.job)["devices"][1]["batch"] == 4
    for stage in STAGES:
        assert folder.result(stage)["versions"]["python"]


# Interruptions


@pytest.mark.parametrize(("stage", "at"), [("data", 5), ("train", 1), ("train", 7)])
def test_a_run_interrupted_in_training_ends_as_if_it_was_not(quiet_machine, finished, tmp_path, stage, at, monkeypatch):
    monkeypatch.setattr(pipeline, "train_supernet", partial(train, checkpoint_s=0.0))
    root = started(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(root, FakeDisplay(stage, at))
    assert RunFolder.open(root).stages() == {}
    display = FakeDisplay()
    run(root, display)
    assert display.shown == ["data", "train", "profile one", "profile four", "search", "export"]
    assert outcome(root) == outcome(finished)


@pytest.mark.parametrize(
    ("stage", "at", "before"),
    [
        ("profile one", 1, 1),
        ("profile four", 2, 1),
        ("search", 1, 2),
        ("search", 6, 2),
        ("search", 10, 2),
        ("export", 1, 3),
        ("export", 6, 3),
    ],
)
def test_a_run_interrupted_later_ends_as_if_it_was_not(quiet_machine, finished, copied, stage, at, before):
    undone(copied, STAGES[before])
    kept = contents(copied)
    with pytest.raises(KeyboardInterrupt):
        run(copied, FakeDisplay(stage, at))
    assert list(RunFolder.open(copied).stages()) == list(STAGES[:before])
    display = FakeDisplay()
    run(copied, display)
    assert display.finished_before == list(STAGES[:before])
    assert outcome(copied) == outcome(finished)
    assert contents(copied).items() >= kept.items(), "what finished stages wrote is not written again"


def test_a_search_that_goes_on_evaluates_only_what_is_left(quiet_machine, copied, monkeypatch):
    undone(copied, "search")
    with pytest.raises(KeyboardInterrupt):
        run(copied, FakeDisplay("search", 6))
    scored = []
    score = pipeline.Evaluator.score
    monkeypatch.setattr(pipeline.Evaluator, "score", lambda self, *asked: scored.append(asked) or score(self, *asked))
    run(copied)
    asked = [
        (row["arch_id"], 200) for row in json.loads((copied / "search.json").read_text())["devices"][0]["evaluated"]
    ]
    found = [(arch.id, images) for arch, images in scored]
    assert len(found) == len(set(found))
    assert len(set(asked) & set(found)) == 4, "six of ten were there"


def test_a_run_killed_before_its_report_was_written_writes_it(quiet_machine, finished, copied):
    for name in ("summary.json", "report.html"):
        (copied / name).unlink()
    display = FakeDisplay()
    run(copied, display)
    assert display.shown == []
    assert outcome(copied) == outcome(finished)
    assert (copied / "report.html").stat().st_size > 10_000


def test_a_finished_run_is_left_as_it_is(quiet_machine, copied):
    before, display = contents(copied), FakeDisplay()
    assert run(copied, display) == json.loads((copied / "summary.json").read_text())
    assert display.finished_before == list(STAGES)
    assert contents(copied) == before


def test_a_stage_run_again_forgets_those_after_it_and_no_evaluation(quiet_machine, finished, copied, monkeypatch):
    folder = RunFolder.open(copied)
    folder.reopen("profile")
    assert list(folder.stages()) == ["train"]
    assert not folder.summary.exists()
    monkeypatch.setattr(pipeline.Evaluator, "score", lambda self, *asked: pytest.fail("evaluated again"))
    run(copied)
    assert outcome(copied) == outcome(finished)


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_stage_out_of_order_says_what_to_run_first(quiet_machine, tmp_path, stage):
    root = started(tmp_path)
    folder = RunFolder.open(root)
    with pytest.raises(JobError, match=rf"the train stage has not finished; run `nas run --resume {root}` first"):
        pipeline.run_stage(pipeline.Run(folder, folder.job, 1, FakeDisplay()), stage)
    assert list(root.iterdir()) == [root / "job.json"]


def test_a_search_before_the_profile_says_so(quiet_machine, copied):
    folder = RunFolder.open(undone(copied, "profile"))
    with pytest.raises(JobError, match=rf"the profile stage has not finished; run `nas profile {copied}` first"):
        pipeline.run_stage(pipeline.Run(folder, folder.job, 1, FakeDisplay()), "search")


# What is found out before the training, not after it


def test_a_device_that_this_machine_lacks_is_refused_before_anything_is_read(tmp_path):
    root = started(tmp_path, devices=[{"name": "one"}, {"name": "gpu", "provider": "NoSuchExecutionProvider"}])
    display = FakeDisplay()
    with pytest.raises(LatencyError, match="device gpu: this onnxruntime has no provider NoSuchExecutionProvider"):
        run(root, display)
    assert display.shown == []


@pytest.mark.parametrize("version", [{"opset": 13}, {"opset": 99}, {"ir_version": 99}])
def test_an_opset_that_cannot_be_built_is_refused_before_anything_is_read(tmp_path, version):
    display = FakeDisplay()
    with pytest.raises(LatencyError, match=f"{next(iter(version))} must be"):
        run(started(tmp_path, export=version), display)
    assert display.shown == []


# Rare results


def test_a_machine_on_which_all_networks_take_the_same_time_has_no_rank_correlation(copied, monkeypatch, tmp_path):
    undone(copied, "profile")
    on_a_quiet_machine(monkeypatch, tmp_path, lambda graph, device: lambda: 10.0)
    summary = run(copied)
    assert [device["predictor"]["spearman"] for device in summary["devices"]] == [None, None]
    assert summary["devices"][0]["predictor"]["mape"] == pytest.approx(0.0, abs=1e-9)
    assert "NaN" not in (copied / "summary.json").read_text()
    assert [len(device["front"]) for device in summary["devices"]] == [1, 1]
    assert len(summary["devices"][0]["exports"]) == 3


def test_a_machine_that_is_slower_at_export_than_it_was_for_the_profile_is_told(
    quiet_machine, copied, monkeypatch, tmp_path
):
    undone(copied, "export")
    steady = FakeDisplay()
    shifts = [device["canary_shift"] for device in run(copied, steady)["devices"]]
    assert shifts == pytest.approx([0.0, 0.0])
    assert steady.warnings == []
    undone(copied, "export")
    on_a_quiet_machine(monkeypatch, tmp_path, lambda graph, device: lambda: 1.5 * open_timed(graph, device)())
    display = FakeDisplay()
    shifts = [device["canary_shift"] for device in run(copied, display)["devices"]]
    assert shifts == pytest.approx([0.5, 0.5])
    assert [text.split(":")[0] for text in display.warnings] == [
        "one is 50% slower than when it was profiled",
        "four is 50% slower than when it was profiled",
    ]


def test_a_device_with_an_empty_front_exports_nothing(quiet_machine, copied):
    undone(copied, "export")
    searched = json.loads((copied / "search.json").read_text())
    searched["devices"][1]["front"] = []
    (copied / "search.json").write_text(json.dumps(searched))
    summary = run(copied)
    assert [len(device["exports"]) for device in summary["devices"]] == [3, 0]
    assert summary["devices"][1]["front"] == []


def test_a_fixed_batch_is_exported_for_each_device(quiet_machine, copied):
    undone(copied, "export")
    document = json.loads((copied / "job.json").read_text())
    document["job"]["export"] |= {"dynamic_batch": False, "picks": ["most-accurate"]}
    (copied / "job.json").write_text(json.dumps(document))
    summary = run(copied)
    exports = [made for device in summary["devices"] for made in device["exports"]]
    assert [made["file"] for made in exports] == [f"models/{name}-most-accurate/model.onnx" for name in ("one", "four")]
    assert [made["top1_agreement"] for made in exports] == [1.0, 1.0]


def test_evaluations_of_another_supernet_are_not_mixed_in(quiet_machine, copied, tmp_path):
    other = started(tmp_path, seed=1)
    folder = RunFolder.open(other)
    pipeline.run_stage(pipeline.Run(folder, folder.job, 1, FakeDisplay()), "train")
    RunFolder.open(copied).reopen("search")
    assert weights(other) != weights(copied), "another seed gives other weights"
    shutil.copy(other / "supernet.safetensors", copied)
    with pytest.raises(JobError, match="input `supernet` changed since the search began"):
        run(copied)


def test_the_front_is_measured_as_soon_as_it_is_found_where_a_job_asks_for_it(quiet_machine, copied):
    undone(copied, "search")
    folder = RunFolder.open(copied)
    folder.change(changed_job(folder.job, "search", ["search.measure_front=true"]))
    told = []
    watch = SimpleNamespace(point=lambda *row: None, volume=lambda *row: None, measured=lambda *row: told.append(row))
    pipeline.run_stage(pipeline.Run(folder, folder.job, 1, FakeDisplay(), watch=watch), "search")
    rows = [
        (d["name"], r["arch_id"], r["latency_ms_measured"])
        for d in folder.result("search")["devices"]
        for r in d["front"]
    ]
    assert told == rows
    assert all(ms > 0 for _, _, ms in rows)
