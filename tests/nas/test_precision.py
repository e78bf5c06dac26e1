"""Precision through the whole chain: a run that was trained in fp32 is profiled, searched and exported with integers."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from nas.folder import RunFolder
from nas.searching.sensitivity import Sensitivity
from nas.specialising.checks import MAX_ABS_DIFF
from nas.specialising.workshop import Workshop
from search_spaces import float_space, precision_of

PRECISE = "space.precisions=[int8, fp32]"


@pytest.fixture
def precise(nas, copied):
    """The finished run, profiled anew with precisions and searched."""
    assert nas("profile", copied, "--again", "--set", PRECISE).code == 0
    said = nas("search", copied, "--jobs", 1)
    assert said.code == 0, said.err
    return RunFolder.open(copied)


def test_a_run_trained_in_fp32_is_searched_and_exported_with_integers(nas, finished, precise):
    space, before = precise.space, RunFolder.open(finished).space
    assert float_space(space) == before
    assert space.settings["precisions"] == ["int8", "fp32"]
    found = precise.result("search")["devices"][0]
    assert {row["precision"] for row in found["evaluated"]} == {"fp32", "int8", "mixed"}
    with_integers = [row for row in found["front"] if row["precision"] != "fp32"]
    assert with_integers
    row = with_integers[-1]
    assert precision_of(space.arch(row["arch"])) == row["precision"]
    said = nas("export", precise.root, "--pick", row["arch_id"], "--pick", "most-accurate", "--also", "fp16")
    assert said.code == 0, said.err
    assert f"one-{row['arch_id']}: no model.fp16.onnx, since it has 8-bit integers" in said.err
    folder = precise.root / "models" / f"one-{row['arch_id']}"
    document = json.loads((folder / "numbers.json").read_text())
    assert document["precision"] == row["precision"]
    assert document["also"] == {}
    assert document["check"]["max_abs_diff"] > MAX_ABS_DIFF
    assert document["check"]["top1_agreement"] > 0.9
    assert abs(document["check"]["in_fp32"] - document["test"]["accuracy"]) < 0.1
    card = (folder / "card.md").read_text()
    assert "in 8-bit integers" in card
    assert "the same network in fp32" in card
    model = onnx.load(folder / "model.onnx")
    assert "QuantizeLinear" in {node.op_type for node in model.graph.node}
    assert {each.key: each.value for each in model.metadata_props}["nas.precision"] == row["precision"]
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    size = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    assert session.run(None, {"input": np.zeros((2, 1, size, size), np.float32)})[0].shape == (2, 10)
    report = (precise.root / "report.html").read_text()
    assert "Circles compute in fp32, triangles in int8, pentagons in both." in report


def test_precisions_that_are_none_leave_the_run_as_it_was(nas, copied):
    before = {name: (copied / name).read_text() for name in ("job.json", "space.json", "tables/one.json")}
    said = nas("profile", copied, "--again", "--set", "space.precisions=[int4]")
    assert "precisions must list fp32, and what else of int8, fp32 is wanted" in said.complaint
    assert {name: (copied / name).read_text() for name in before} == before


def test_the_same_precisions_keep_what_was_measured(nas, precise):
    before = precise.table("one").read_bytes()
    assert nas("profile", precise.root, "--again", "--set", PRECISE).code == 0
    assert json.loads(precise.table("one").read_bytes())["space"] == json.loads(before)["space"]


def networks_of(folder: Path) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("models/*/numbers.json"))}


def test_a_network_is_trained_alone_before_it_goes_out(nas, copied):
    said = nas("export", copied, "--again", "--finetune", 1, "--pick", "most-accurate")
    assert said.code == 0, said.err
    found = networks_of(copied)["one-most-accurate"]
    (tuning,) = found["tunings"]
    assert tuning["after"] >= tuning["before"]
    assert (tuning["epochs"], tuning["integers"]) == (1, False)
    assert found["check"]["max_abs_diff"] <= MAX_ABS_DIFF
    assert "trained alone for 1 epoch, in floats" in (copied / "models/one-most-accurate/card.md").read_text()
    assert not list(copied.glob("finetune-*"))


def test_integers_that_lose_too_much_are_trained_for_and_refused_if_that_is_not_enough(nas, precise, monkeypatch):
    """What they lose is made up: these networks lose nothing."""
    row = next(each for each in precise.result("search")["devices"][0]["front"] if each["precision"] != "fp32")
    asked = ("export", precise.root, "--pick", row["arch_id"], "--max-drop", "1%", "--finetune", 1)
    scores = iter([0.9, 0.8, 0.85])
    monkeypatch.setattr(Workshop, "_score", lambda self, arch, weights: next(scores))
    complaint = nas(*asked).complaint
    assert "loses 10.00 points of accuracy on validation images in integers, and 5.00 after it was trained" in complaint
    assert "export.max_drop allows 1.00" in complaint
    assert row["arch_id"] in complaint
    assert not list(precise.root.glob(f"models/*{row['arch_id']}"))
    scores = iter([0.9, 0.8, 0.895])
    said = nas(*asked)
    assert said.code == 0, said.err
    tunings = networks_of(precise.root)[f"one-{row['arch_id']}"]["tunings"]
    assert [each["integers"] for each in tunings] == [False, True]
    scores = iter([0.9, 0.895])
    assert nas(*asked, "--again").code == 0
    assert [each["integers"] for each in networks_of(precise.root)[f"one-{row['arch_id']}"]["tunings"]] == [False]


def test_precisions_are_mixed_by_what_the_networks_lose(nas, precise, monkeypatch):
    asked = []
    monkeypatch.setattr(Sensitivity, "__call__", lambda self, arch: asked.append(arch) or measured(self, arch))
    settings = ("search.sampler=guided_mixed", "search.evaluations=24", "search.population=4", "search.controls=false")
    said = nas("search", precise.root, "--again", "--jobs", 1, *(each for set_ in settings for each in ("--set", set_)))
    assert said.code == 0, said.err
    assert asked
    assert all(precision_of(arch) == "fp32" for arch in asked)


measured = Sensitivity.__call__


def test_without_precisions_there_is_nothing_to_mix(nas, copied):
    complaint = nas("search", copied, "--again", "--set", "search.sampler=guided_mixed").complaint
    assert "guided_mixed mixes precisions, and the space has none; set space.precisions" in complaint
