"""Early exits through the whole chain: trained with the supernet, and handed over with the networks that are picked."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from latency_tables.device import Device
from nas import pipeline
from nas.folder import RunFolder
from nas.job import read_job
from nas.run_tables import exports_table
from nas.specialising import early_exits
from nas.specialising.chain import Thresholds
from nas.specialising.early_exits import refusal
from nas.terminal import print_result
from search_spaces import define_space
from supernets.dataset import load
from tests.nas.fakes import FakeDisplay, on_a_quiet_machine, write_job
from tests.nas.made_up_run import example

TWO_STAGES = {
    "space__channels": [16, 32],
    "space__strides": [2, 2],
    "space__resolutions": [8],
    "space__expands": [1.0],
    "space__kernels": [3],
}


@pytest.fixture(scope="module")
def with_exits(tmp_path_factory) -> Path:
    """The folder of a finished run whose space has an exit. Not to be written to but by exports elsewhere."""
    root = tmp_path_factory.mktemp("exits")
    with pytest.MonkeyPatch.context() as patch:
        on_a_quiet_machine(patch, root)
        unsearched = {"search__controls": False, "search__evaluations": 4}
        settings = {"space__exits": ["s1"], "train__exits": "joint", "devices": [{"name": "one"}]}
        job = read_job(write_job(root / "job.yaml", **TWO_STAGES, **settings, **unsearched))
        folder = RunFolder.create(root / "run", job)
        pipeline.run(pipeline.Run(folder, job, 1, FakeDisplay()))
    return root / "run"


def half(said, latency_ms, wanted, below_ms):
    """Of little networks no exit is worth it; half of the images leave here."""
    return Thresholds((float(np.median(said[0].sure_N)),), 1.0)


def opened(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_nothing_of_exits_is_handed_over_unasked(with_exits):
    assert not list(with_exits.glob("models/*/exits.onnx"))
    assert "exits" not in json.loads((with_exits / "models/one-knee/numbers.json").read_text())


@pytest.mark.parametrize("kind", ["outputs", "if"])
def test_a_network_is_handed_over_with_its_exits(nas, with_exits, monkeypatch, kind):
    monkeypatch.setattr(early_exits, "cheapest", half)
    said = nas("export", with_exits, "--pick", "most-accurate", "--exits", kind, "--out", "out", "--json")
    assert said.code == 0, said.err
    folder = Path("out/one-most-accurate")
    told = json.loads((folder / "numbers.json").read_text())["exits"]
    (entry,) = (each for device in said.json["devices"] if device["name"] == "one" for each in device["exports"])
    assert entry["exits"]["test_accuracy"] == told["test"]["accuracy"]
    s1, end = told["exits"]
    assert (s1["stage"], end["stage"], end["threshold"]) == ("s1", "end", None)
    assert s1["share"] + end["share"] == pytest.approx(1)
    assert s1["cut_ms"] < end["cut_ms"]
    words = (folder / "card.md").read_text()
    assert "## Early exits" in words
    assert "goes on only where" in words if kind == "if" else "an output for each exit" in words
    about = {each.key: each.value for each in onnx.load(folder / "exits.onnx").metadata_props}
    assert json.loads(about["nas.exits"])["exits"][0] == {key: s1[key] for key in ("stage", "output", "threshold")}

    # Whoever runs the files finds what the numbers say.
    run = RunFolder.open(with_exits)
    dataset = load(run.job.source, cache=run.cache)
    how = json.loads(about["nas.preprocessing"])
    assert dataset.test.pixels.shape[-1] == how["size_px"]
    mean, std = (np.reshape(how[key], (-1, 1, 1)) for key in ("mean", "std"))
    x_BCHW = ((dataset.test.pixels * how["scale"] - mean) / std).astype(np.float32)
    answered = READ[kind](opened(folder / "exits.onnx"), x_BCHW, s1)
    left_N, classes_N = (np.array(each) for each in zip(*answered, strict=True))
    assert (left_N == 0).mean() == pytest.approx(s1["share"])
    assert (classes_N == dataset.test.labels).mean() == pytest.approx(told["test"]["accuracy"])


def read_outputs(session, x_BCHW, s1):
    logits, exit_logits = session.run(["logits", s1["output"]], {"input": x_BCHW})
    odds = np.exp(exit_logits.astype(np.float64))
    sure_B = (odds / odds.sum(1, keepdims=True)).max(1)
    early_B = sure_B >= s1["threshold"]
    return zip((~early_B).astype(int), np.where(early_B, exit_logits.argmax(1), logits.argmax(1)), strict=True)


def read_branching(session, x_BCHW, s1):
    for x_CHW in x_BCHW:
        logits, left_at = session.run(["logits", "exit"], {"input": x_CHW[None]})
        yield int(left_at[0]), int(logits[0].argmax())


READ = {"outputs": read_outputs, "if": read_branching}


def test_batches_and_integers_have_no_graph_with_exits():
    space = define_space("tiny", exits=["s1"], precisions=["int8", "fp32"])
    assert "an image leaves by itself, and this device takes 4" in refusal(Device("four", batch=4), space.largest())
    assert "it is in int8, and graphs with exits are in fp32" in refusal(Device("one"), space.smallest())
    assert refusal(Device("one"), space.largest()) is None


def test_where_no_exit_pays_that_is_said_and_none_is_written(nas, with_exits, monkeypatch):
    monkeypatch.setattr(early_exits, "cheapest", lambda *_: None)
    said = nas("export", with_exits, "--pick", "knee", "--exits", "if", "--out", "out")
    assert said.code == 0, said.err
    assert "with no thresholds are its exits as accurate as the whole of it in less time; no exits.onnx" in said.err
    assert not list(Path("out").glob("*/exits.onnx"))


def test_a_graph_that_leaves_elsewhere_is_not_handed_over(nas, with_exits, monkeypatch):
    monkeypatch.setattr(early_exits, "cheapest", half)
    built = early_exits.branching_model

    def swapped(layers, exits, thresholds, *args, **settings):
        return built(layers, exits, [1.0 - each for each in thresholds], *args, **settings)

    monkeypatch.setattr(early_exits, "branching_model", swapped)
    said = nas("export", with_exits, "--pick", "most-accurate", "--exits", "if", "--out", "out")
    assert "set export.exits to outputs" in said.complaint


def test_exits_of_a_network_that_was_trained_alone_are_trained_with_it(nas, with_exits, monkeypatch):
    monkeypatch.setattr(early_exits, "cheapest", half)
    said = nas("export", with_exits, "--pick", "fastest", "--exits", "outputs", "--finetune", 1, "--out", "out")
    assert said.code == 0, said.err
    assert json.loads(Path("out/one-fastest/numbers.json").read_text())["exits"]["check"]["max_abs_diff"] < 1e-4


def test_exits_need_a_space_that_has_them_and_images_of_one_class(nas, copied, tmp_path):
    assert (
        "export.exits is about early exits, and the space has none"
        in nas("export", copied, "--again", "--exits", "if").complaint
    )
    assert "export.exits" in nas("export", copied, "--again", "--exits", "both").complaint
    job = write_job(tmp_path / "job.yaml", train__exits="joint")
    assert "train.exits is about early exits, and the space has none; set space.exits" in nas("run", job).complaint
    job = write_job(tmp_path / "job.yaml", **TWO_STAGES, space__exits=["s3"])
    assert "space: exits must list stages of s1, in this order, not ['s3']" in nas("run", job).complaint


def test_reports_and_terminals_tell_what_is_expected(capsys):
    summary = example(devices=1)
    (device,) = summary["devices"]
    device["exports"][0]["exits"] = {"kind": "if", "test_accuracy": 0.876, "latency_ms": 0.1234}
    print_result(summary, RunFolder(Path("runs/one")))
    assert "/exits.onnx: test 87.6% in 0.123 ms, as is expected of images that may leave" in capsys.readouterr().out
    assert "0.123 ms expected with early exits" in exports_table("one", device["exports"])
