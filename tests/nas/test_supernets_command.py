"""`nas supernets`: what a user types, what is printed and what is left on the disk."""

import io
import json
import shutil

import pytest
import torch
from rich.console import Console

from nas import supernet_study
from nas.job import read_job
from nas.supernet_report import evaluation_tables
from search_spaces import define_space
from supernets.checkpoint import load_supernet
from supernets.published import source_names
from supernets.supernet import Supernet
from tests.nas.conftest import commanded
from tests.nas.fakes import write_job
from tests.supernets.drawn_state import drawn_state

NAME = "ofa_proxyless_d12_e3_k3_w0.3"
SETTINGS = ("--set", "num_classes=4", "--set", "resolutions=[32]")


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A file as it may be downloaded."""
    wanted = Supernet(define_space(NAME, num_classes=4)).state_dict()
    sources = source_names(define_space(NAME, num_classes=4), wanted)
    shapes = {sources[name]: tuple(tensor.shape) for name, tensor in wanted.items()}
    path = tmp_path_factory.mktemp("released") / NAME
    torch.save({"state_dict": drawn_state(shapes, 0)}, path)
    return path


def test_a_released_file_becomes_a_supernet(released, tmp_path):
    out = tmp_path / "supernet.safetensors"
    said = commanded("supernets", "import", released, "--as", NAME, *SETTINGS, "--out", out, "--json")
    assert said.code == 0, said
    space = define_space(
        "proxyless", depths=[1, 2], expands=[3], kernels=[3], width=0.3, num_classes=4, resolutions=[32]
    )
    net, notes = load_supernet(out, space)
    assert said.json["space"] == space.id
    assert said.json["notes"] == notes
    assert notes["published"]["name"] == NAME
    assert net.state_dict()["stem.conv.weight"].shape == (16, 3, 3, 3)


def test_what_was_made_is_told_in_words(released, tmp_path):
    out = tmp_path / "supernet.safetensors"
    said = commanded("supernets", "import", released, "--as", NAME, *SETTINGS, "--out", out)
    assert said.code == 0, said
    assert NAME in said.out
    assert "architectures" in said.out
    assert "SHA-256" in said.out
    again = commanded("supernets", "import", released, "--as", NAME, *SETTINGS, "--out", out)
    assert "is there already; name another file with --out" in again.complaint


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        (NAME, (), "its classifier has 4 classes, the space asks for 1000; import it with num_classes=4"),
        ("ofa_mbv3_d12_e3_k3_w0.3", SETTINGS, "looks like a checkpoint of proxyless, not of mobilenet_v3"),
        ("ofa_proxyless_d12_e3_k3_w0.5", SETTINGS, "is no checkpoint of ofa_proxyless_d12_e3_k3_w0.5: "),
        ("ofa_proxyless", (), "or a published name such as ofa_mbv3_d234_e346_k357_w1.2"),
        ("tiny", (), "no published checkpoint has family tiny"),
    ],
)
def test_what_does_not_fit_is_one_line(released, tmp_path, name, settings, said):
    done = commanded("supernets", "import", released, "--as", name, *settings, "--out", tmp_path / "out")
    assert said in done.complaint
    assert not (tmp_path / "out").exists()


def test_a_job_takes_a_published_name(tmp_path):
    path = write_job(tmp_path / "job.yaml", space={"family": NAME, "resolutions": [32]})
    job = read_job(path)
    assert job.space_for(4).family == "proxyless"
    assert json.dumps(dict(job.space)) == json.dumps({"family": NAME, "resolutions": [32]})


# How good trained supernets are


def evaluated(*arguments):
    said = commanded("supernets", "evaluate", *arguments, "--json")
    assert said.code == 0, said
    return said.json


def test_fronts_have_the_accuracies_that_the_run_found_itself(finished):
    found = evaluated(finished, "--arch", "front")
    assert found["split"] == "validation"
    fronts = json.loads((finished / "search.json").read_text())["devices"]
    known = {row["arch_id"]: row["val_accuracy"] for device in fronts for row in device["front"]}
    assert {row["arch_id"]: row["accuracy"] for row in found["networks"]} == known


def test_what_was_exported_has_the_test_accuracy_of_its_onnx_file(finished):
    found = evaluated(finished, "--arch", "front", "--split", "test")
    fronts = json.loads((finished / "export.json").read_text())["devices"]
    known = {row["arch_id"]: row["test_accuracy"] for device in fronts for row in device["front"] if row["picks"]}
    accuracies = {row["arch_id"]: row["accuracy"] for row in found["networks"] if row["arch_id"] in known}
    # Another runtime may round an image over the edge.
    assert accuracies == pytest.approx(known, abs=0.005)
    assert found["images"] == sum(found["support"])
    for row in found["networks"]:
        right = sum(r * n for r, n in zip(row["recall"], found["support"], strict=True) if r is not None)
        assert right / found["images"] == pytest.approx(row["accuracy"])


def test_checkpoints_and_supernets_elsewhere_are_evaluated_on_the_images_of_a_run(finished, tmp_path):
    whole = evaluated(finished)
    assert [row["name"] for row in whole["networks"]] == ["largest", "median", "smallest"]
    # A checkpoint is judged by the average of its weights: what the training gives.
    assert evaluated(finished / "train.safetensors")["networks"] == whole["networks"]
    elsewhere = shutil.copy(finished / "supernet.safetensors", tmp_path)
    assert evaluated(elsewhere, "--images-of", finished)["networks"] == whole["networks"]
    refused = commanded("supernets", "evaluate", elsewhere)
    assert "is not the folder of a run (it has no job.json)" in refused.complaint


def test_the_nested_chain_is_named_from_its_smallest_network_to_its_largest(finished):
    ends, chain = (evaluated(finished, *args)["networks"] for args in ((), ("--arch", "nested")))
    assert [row["name"] for row in chain] == [f"nested {i}" for i in range(1, len(chain) + 1)]
    assert [chain[i]["arch_id"] for i in (0, -1)] == [ends[i]["arch_id"] for i in (-1, 0)]
    assert sorted(row["macs"] for row in chain) == [row["macs"] for row in chain]


def test_an_architecture_is_found_by_its_id_or_refused(finished):
    (row,) = evaluated(finished, "--arch", "largest")["networks"]
    by_id = evaluated(finished, "--arch", row["arch_id"], "--arch", "largest")["networks"]
    assert [{**each, "name": "largest"} for each in by_id] == [row]
    refused = commanded("supernets", "evaluate", finished, "--arch", "0123456789ab")
    assert "evaluated no architecture 0123456789ab; its search.json has those that it did" in refused.complaint
    refused = commanded("supernets", "evaluate", finished, "--arch", "larges")
    assert (
        "'larges' is none of largest, median, smallest, nested, front, nor the id of an architecture"
        in refused.complaint
    )


def test_evaluations_and_conflicts_are_printed_as_tables(finished):
    said = commanded("supernets", "evaluate", finished)
    assert said.code == 0, said
    for wanted in ("ECE", "NLL", "median", "recall of each class"):
        assert wanted in said.out
    said = commanded("supernets", "conflicts", finished, "--archs", 1, "--batches", 2)
    assert said.code == 0, said
    for wanted in ("all weights", "largest-smallest", "2 batches of 64"):
        assert wanted in said.out


def test_of_many_classes_the_worst_are_shown_whatever_they_are_called():
    recall = [0.5 if k == 7 else 1.0 for k in range(14)]
    row = {"name": "", "arch_id": "a", "macs": 1, "accuracy": 0.9, "calibration_error": 0.1, "nll": 1.0}
    document = {
        "images": 28,
        "split": "test",
        "task": "single_label",
        "classes": ["[/b]" if k == 7 else f"class {k}" for k in range(14)],
        "support": [2] * 13 + [0],
        "networks": [{**row, "recall": [*recall[:13], None]}],
    }
    printed = io.StringIO()
    console = Console(file=printed, width=200)
    for table in evaluation_tables(document):
        console.print(table)
    text = printed.getvalue()
    assert "recall of each class (images), the 10 worst of 14 classes" in text
    assert "[/b] (2)" in text
    assert "50.0%" in text
    assert "class 13" not in text


def test_conflicts_are_told_overall_and_layer_by_layer(finished):
    said = commanded("supernets", "conflicts", finished, "--archs", 2, "--batches", 2, "--json")
    assert said.code == 0, said
    overall = {row["pair"]: row for row in said.json["overall"]}
    assert {pair: row["cosines"] for pair, row in overall.items()} == {
        "largest-smallest": 2,
        "largest-random": 4,
        "random-random": 2,
        "largest, other images": 1,
    }
    assert {row["layer"] for row in said.json["layers"]} >= {"stem.conv", "s1.b0.conv1"}
    for row in said.json["overall"] + said.json["layers"]:
        assert -1 <= row["mean"] <= 1
        assert 0 <= row["negative"] <= 1


def test_a_study_is_printed_and_kept(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(supernet_study, "RESAMPLES", 100)
    monkeypatch.setattr(supernet_study, "_epoch_seconds", lambda trained, arch, seed: 5.0)
    out = tmp_path / "study"
    asked = ("supernets", "study", finished, "--archs", 3, "--budget", "20s", "--out", out)
    said = commanded(*asked)
    assert said.code == 0, said
    for wanted in ("order by supernet against order alone: Kendall", "order by macs", "a tenth", "3 networks"):
        assert wanted in said.out
    kept = json.loads((out / "study.json").read_text())
    assert commanded(*asked, "--json").json == kept
    assert kept["result"]["alone_passes"] == 1


def test_a_study_without_the_time_for_an_epoch_of_each_is_refused(finished, tmp_path):
    said = commanded("supernets", "study", finished, "--archs", 3, "--budget", "0.001s", "--out", tmp_path / "study")
    assert "one epoch of each of 3 networks takes " in said.complaint
    assert "give a --budget of that or more, or fewer --archs" in said.complaint
    assert not (tmp_path / "study").exists()
