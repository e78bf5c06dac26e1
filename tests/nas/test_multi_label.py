"""Images with any number of labels through the whole chain: what is learnt, searched, exported, and how it is told."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score

from nas import pipeline
from nas.errors import JobError
from nas.folder import RunFolder
from nas.job import job_to_json, read_job
from nas.web.drafts import new_form
from supernets.batches import Batches
from supernets.calibrate import resize
from supernets.dataset import load
from tests.nas.conftest import commanded
from tests.nas.fakes import LITTLE, FakeDisplay, on_a_quiet_machine, write_job
from tests.nas.made_up_run import Page
from tests.supernets.mosaics import DIGITS, write_mosaics

IMAGES = 600
# Of a network that knows nothing: how common a digit is among four.
CHANCE = 1 - 0.9**4


def mosaic_job(root: Path, **changes) -> Path:
    """A job file over a Parquet file of mosaics beside it."""
    write_mosaics(root / "mosaics.parquet", IMAGES)
    data = {"kind": "parquet", "path": "mosaics.parquet", "channels": 1, "task": "multi_label"}
    train = LITTLE["train"] | {"epochs": 4, "batch": 16, "augment": {"shift_px": 1, "mirror": False}}
    return write_job(
        root / "job.yaml",
        name="mosaics",
        data=data | {"validation_fraction": 0.2} | changes,
        space=LITTLE["space"] | {"resolutions": [12, 16], "channels": [48]},
        train=train,
        devices=[{"name": "one"}],
    )


@pytest.fixture(scope="module")
def mosaic_run(tmp_path_factory) -> Path:
    """The folder of a finished run."""
    root = tmp_path_factory.mktemp("mosaics")
    with pytest.MonkeyPatch.context() as patch:
        on_a_quiet_machine(patch, root)
        folder = RunFolder.create(root / "run", read_job(mosaic_job(root)))
        pipeline.run(pipeline.Run(folder, folder.job, 1, FakeDisplay()))
    return root / "run"


@pytest.fixture(scope="module")
def summary(mosaic_run):
    return json.loads((mosaic_run / "summary.json").read_text())


def test_the_digits_of_mosaics_are_learnt_by_the_largest_and_the_smallest_network(summary):
    assert summary["data"]["task"] == "multi_label"
    assert summary["config"]["data"]["task"] == "multi_label"
    assert summary["supernet"]["largest_test_accuracy"] > CHANCE + 0.2
    assert summary["supernet"]["smallest_test_accuracy"] > CHANCE + 0.15
    assert all(0 <= row["val_accuracy"] <= 1 for device in summary["devices"] for row in device["front"])


def test_an_exported_file_finds_the_labels_that_it_was_tested_on(mosaic_run, summary):
    folder = RunFolder.open(mosaic_run)
    dataset = load(folder.job.source, folder.cache)
    (device,) = summary["devices"]
    made = next(each for each in device["exports"] if each["pick"] == "most-accurate")
    assert made["top1_agreement"] == 1.0
    session = onnxruntime.InferenceSession(mosaic_run / made["file"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["nas.task"] == "multi_label"
    assert json.loads(metadata["nas.classes"]) == list(map(str, range(DIGITS)))
    row = next(row for row in device["front"] if row["arch_id"] == made["arch_id"])
    ((x_BCHW, labels_BK),) = Batches.of(dataset.test, dataset)
    sized = resize(x_BCHW, json.loads(metadata["nas.preprocessing"])["size_px"]).contiguous()
    (logits,) = session.run(None, {"input": sized.numpy()})
    precision = average_precision_score(labels_BK.numpy(), 1 / (1 + np.exp(-logits.astype(np.float64))))
    assert precision == pytest.approx(row["test_accuracy"], abs=1e-6)


def test_the_script_of_an_export_says_all_labels_that_are_likelier_than_not(mosaic_run, tmp_path):
    folder = mosaic_run / "models/one-most-accurate"
    told = json.loads((folder / "numbers.json").read_text())
    run = RunFolder.open(mosaic_run)
    dataset = load(run.job.source, run.cache)
    files = [tmp_path / f"{i}.png" for i in range(20)]
    for file, pixels in zip(files, dataset.test.pixels, strict=False):
        Image.fromarray(pixels[0]).save(file)
    ran = subprocess.run([sys.executable, folder / "predict.py", *files], capture_output=True, text=True, check=True)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    ((x_BCHW, _),) = Batches.of(dataset.test, dataset, len(files))
    (logits,) = session.run(None, {"input": resize(x_BCHW, session.get_inputs()[0].shape[2]).contiguous().numpy()})
    for line, row in zip(ran.stdout.splitlines(), logits, strict=True):
        likely = {name for name, logit in zip(dataset.classes, row, strict=True) if logit > 0}
        assert {part.split()[0] for part in line.split(": ")[1].split(", ")} == (likely or {"none"})
    assert any(row.max() > 0 for row in logits)
    assert told["data"]["task"] == "multi_label"
    assert told["largest"]["forgotten"] <= sum(each["forgotten"] for each in told["test"]["by_class"])
    assert "mean average precision" in (folder / "card.md").read_text()


def test_the_report_says_what_its_numbers_are(mosaic_run):
    page = Page((mosaic_run / "report.html").read_text())
    assert "test mean average precision" in page.text
    assert "Mean average precision against latency on one" in page.text
    assert page.plots["pareto-0"]["layout"]["yaxis"]["title"]["text"] == "Validation mean average precision (%)"
    # But for the objective's name in the job and in the facts of the search.
    assert page.text.replace("- accuracy\n", "").replace("accuracy, latency_ms", "").count("ccuracy") == 0


def test_an_evaluation_has_the_precision_of_every_class(mosaic_run):
    said = commanded("supernets", "evaluate", mosaic_run, "--arch", "front", "--json")
    assert said.code == 0, said
    assert said.json["task"] == "multi_label"
    searched = json.loads((mosaic_run / "search.json").read_text())["devices"][0]["front"]
    assert [row["accuracy"] for row in said.json["networks"]] == [row["val_accuracy"] for row in searched]
    for row in said.json["networks"]:
        assert row["accuracy"] == pytest.approx(np.mean(row["average_precision"]))
        assert "recall" not in row
    assert sum(said.json["support"]) > 2 * said.json["images"]
    said = commanded("supernets", "evaluate", mosaic_run, "--arch", "smallest")
    assert "average precision of each class (images)" in said.out
    assert "accuracy" not in said.out


def test_a_job_says_its_task_and_refuses_others(tmp_path):
    path = mosaic_job(tmp_path)
    assert read_job(path).data.many_labels
    with pytest.raises(JobError, match=r"export\.pair: takes images of one class each"):
        read_job(path, ["export.pair=true"])
    assert job_to_json(read_job(write_job(tmp_path / "little.yaml")))["data"]["task"] == "single_label"
    with pytest.raises(JobError, match=r"data\.task: input should be 'single_label' or 'multi_label', not 'many'"):
        read_job(path, ["data.task=many"])


def test_lists_without_the_task_are_one_line_that_names_it(tmp_path):
    said = commanded("train", mosaic_job(tmp_path, task="single_label"), "--out", tmp_path / "run")
    assert "holds lists of labels; set data.task to multi_label" in said.complaint


def test_the_form_of_a_submission_offers_the_tasks():
    (field,) = [each for each in new_form("run").fields if each.path == "data.task"]
    assert (field.kind, field.options, field.default) == ("choice", ("single_label", "multi_label"), "single_label")
    assert "any number of them" in field.help
