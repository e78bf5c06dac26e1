"""Exports as folders: what lies in one, that its script says what we say, and that none is there in part."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import yaml
from PIL import Image

from nas.errors import JobError
from nas.folder import RunFolder
from nas.specialising import folders, model_file
from nas.specialising.card import card, plain
from nas.specialising.folders import check_free, replaced
from supernets.batches import Batches
from supernets.calibrate import resize
from supernets.dataset import Dataset, Images, load
from supernets.decoding import decode
from tests.nas.conftest import commanded

FILES = ["arch.json", "card.md", "model.onnx", "numbers.json", "predict.py"]


@pytest.fixture(scope="module")
def numbers(finished):
    return json.loads((finished / "models/one-knee/numbers.json").read_text())


@pytest.fixture(scope="module")
def digits(finished) -> Dataset:
    folder = RunFolder.open(finished)
    return load(folder.job.source, cache=folder.cache)


def predicted(folder: Path, *images: Path, python: Path = Path(sys.executable)) -> dict[str, str]:
    """What the script of an export prints of each image."""
    command = [python, folder / "predict.py", *images]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder.parent, env={})
    return dict(line.split(": ", 1) for line in ran.stdout.splitlines())


def own_answers(folder: Path, images: Images, dataset: Dataset) -> list[str]:
    """What the model says of decoded images that go the way of the run, as the script prints it."""
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    ((x_BCHW, _),) = Batches.of(images, dataset)
    (logits_BK,) = session.run(None, {"input": resize(x_BCHW, session.get_inputs()[0].shape[2]).contiguous().numpy()})
    shares_BK = np.exp(logits_BK) / np.exp(logits_BK).sum(1, keepdims=True)
    return [f"{dataset.classes[row.argmax()]} {row.max():.1%}" for row in shares_BK]


def test_an_export_is_a_folder_with_all_that_is_needed(finished):
    found = sorted(path for path in (finished / "models").iterdir())
    assert [path.name for path in found] == [
        f"{d}-{p}" for d in ("four", "one") for p in ("fastest", "knee", "most-accurate")
    ]
    assert all(sorted(path.name for path in folder.iterdir()) == FILES for folder in found)
    arch = json.loads((finished / "models/one-knee/arch.json").read_text())
    space = RunFolder.open(finished).space
    assert (arch["format"], arch["space"]) == ("nas.arch/1", space.to_json())
    assert space.arch_from_json(arch["arch"]).id == arch["arch_id"]


def test_the_numbers_are_of_the_file_beside_them(finished, numbers, digits):
    for folder in (finished / "models").iterdir():
        told = json.loads((folder / "numbers.json").read_text())
        session = onnxruntime.InferenceSession(folder / "model.onnx")
        size = session.get_inputs()[0].shape[2]
        logits = [
            session.run(None, {"input": resize(x, size).contiguous().numpy()})[0]
            for x, _ in Batches.of(digits.test, digits)
        ]
        right = np.concatenate(logits).argmax(1) == digits.test.labels
        test, largest = told["test"], told["largest"]
        assert test["accuracy"] == pytest.approx(right.mean())
        assert test["images"] == len(right) == sum(each["images"] for each in test["by_class"])
        for k, each in enumerate(test["by_class"]):
            assert each["score"] == pytest.approx(right[digits.test.labels == k].mean())
        assert sum(each["forgotten"] for each in test["by_class"]) == largest["forgotten"]
        assert largest["test_accuracy"] + largest["change"] == pytest.approx(test["accuracy"])
        assert largest["gained"] - largest["forgotten"] == round(largest["change"] * test["images"])
        assert largest["forgotten"] + largest["gained"] <= largest["disagreement"] * test["images"] + 1e-9
        assert 0 <= test["calibration_error"] <= 1
        assert told["file"]["bytes"] == (folder / "model.onnx").stat().st_size
    measured = numbers["measurement"]
    assert measured["p50"] <= measured["p95"] <= measured["p99"]
    assert measured["footprint"].keys() == {"model_bytes", "load_ms", "first_run_ms", "peak_bytes"}
    assert numbers["latency_ms"]["measured"] == measured["p50"] / 1e3
    assert numbers["controls"].keys() == {
        "hypervolume",
        "hypervolume_random",
        "uniform_hypervolume",
        "uniform_val_accuracy",
    }


def test_the_largest_network_forgets_nothing(nas, copied):
    largest = RunFolder.open(copied).space.largest().id
    fronts = json.loads((copied / "search.json").read_text())["devices"]
    fronts[0]["front"].append(
        {**fronts[0]["front"][-1], "arch_id": largest, "arch": RunFolder.open(copied).space.largest().values}
    )
    document = json.loads((copied / "search.json").read_text()) | {"devices": fronts}
    (copied / "search.json").write_text(json.dumps(document))
    assert nas("export", copied, "--pick", largest, "--out", "out").code == 0
    told = json.loads(Path(f"out/one-{largest}/numbers.json").read_text())["largest"]
    assert (told["forgotten"], told["gained"], told["change"]) == (0, 0, 0.0)
    assert told["disagreement"] == 0.0


def test_the_card_has_its_front_matter_and_every_part(finished, numbers):
    text = (finished / "models/one-knee/card.md").read_text()
    assert text == card(numbers)
    _, front, body = text.split("---\n", 2)
    told = yaml.safe_load(front)
    assert (told["license"], told["library_name"], told["metrics"]) == ("unknown", "onnx", ["accuracy"])
    (result,) = told["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == pytest.approx(numbers["test"]["accuracy"], abs=1e-6)
    parts = [line[3:] for line in body.splitlines() if line.startswith("## ")]
    assert parts == ["Data", "Results", "What it forgets", "Latency", "How it was found", "Limits", "Licence"]
    for word in (
        "Unknown: nobody named one",
        "random search",
        "uniform scaling",
        "p99",
        "sandwich",
        numbers["arch_id"],
    ):
        assert word in body


def test_a_card_of_a_limit_says_whether_it_holds_and_names_a_licence(numbers):
    asked = {**numbers, "pick": "latency_ms <= 3", "license": "apache-2.0"}
    assert "`latency_ms <= 3`, by prediction. **As measured it does not.**" in card({**asked, "as_asked": False})
    assert "As measured it does." in card({**asked, "as_asked": True})
    assert "`apache-2.0`, as the job says." in card({**asked, "as_asked": None})


def test_a_card_says_where_the_machine_was_not_as_it_should_be(numbers):
    calm = {**numbers, "measurement": {**numbers["measurement"], "disturbed": False}, "canary_shift": 0.0}
    disturbed = {**numbers, "measurement": {**numbers["measurement"], "disturbed": True}, "canary_shift": -0.25}
    assert "disturbed all the while" in card(disturbed)
    assert "The machine was 25% faster than when it was profiled" in card(disturbed)
    assert "**The machine was" not in card(calm)


def test_names_of_classes_break_out_of_no_card(numbers):
    evil = "| <script>alert(1)</script>\n## [x](http://y) `*_&"
    classes = [{**each, "class": evil} for each in numbers["test"]["by_class"]]
    text = card({**numbers, "test": {**numbers["test"], "by_class": classes}})
    assert "<script" not in text
    assert "[x](" not in text
    assert plain(evil) in text
    lines = [line for line in text.splitlines() if "script" in line]
    assert all(line.replace("\\|", "").count("|") == 6 for line in lines if line.startswith("|"))


# The script


def test_the_script_says_of_stored_images_and_of_others_what_we_say(finished, digits, tmp_path):
    stored = digits.test.pixels[:24]
    files = [tmp_path / f"{i}.png" for i in range(len(stored))]
    for file, pixels in zip(files, stored, strict=True):
        Image.fromarray(pixels[0]).save(file)
    rng = np.random.default_rng(0)
    others = {
        "wide.png": Image.fromarray(rng.integers(0, 256, (37, 90, 3), dtype=np.uint8)),
        "large.jpg": Image.fromarray(stored[3][0]).resize((201, 200)),
        "palette.gif": Image.fromarray(stored[4][0]).convert("P"),
        "deep.png": Image.fromarray(stored[5][0].astype(np.uint16) << 8),
    }
    for name, image in others.items():
        image.save(tmp_path / name)
        files.append(tmp_path / name)
    for name in ("fastest", "most-accurate"):
        folder = finished / f"models/one-{name}"
        pixels = np.stack([decode(file, digits.test.pixels.shape[-1], 1).pixels for file in files])
        wanted = own_answers(folder, Images(pixels, np.zeros(len(pixels), np.int64)), digits)
        found = predicted(folder, *files)
        assert list(found) == [str(file) for file in files]
        assert list(found.values()) == wanted


def test_the_script_takes_a_model_of_a_fixed_batch(nas, copied, digits, tmp_path):
    options = ("--set", "export.dynamic_batch=false", "--json")
    said = nas("export", copied, "--pick", "knee", "--out", "out", *options)
    files = [Path(made["file"]) for device in said.json["devices"] for made in device["exports"]]
    assert files == [Path(f"out/{name}-knee/model.onnx").absolute() for name in ("one", "four")]
    assert onnxruntime.InferenceSession(files[1]).get_inputs()[0].shape[0] == 4
    Image.fromarray(digits.test.pixels[0][0]).save(tmp_path / "a.png")
    (found,) = predicted(files[1].parent, tmp_path / "a.png").values()
    free = own_answers(copied / "models/four-knee", Images(digits.test.pixels[:1], digits.test.labels[:1]), digits)
    assert [found] == free


def test_what_is_no_image_is_one_line(finished, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    command = [sys.executable, finished / "models/one-knee/predict.py", tmp_path / "text.png"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"{tmp_path / 'text.png'}: cannot be read (")
    assert ran.stderr.count("\n") == 1


# Whole or not at all


class FullDisk:
    """Writes like `write_bytes` until the file of this name comes."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, path: Path, content: bytes) -> None:
        if path.name == self.name:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        path.write_bytes(content)


def there(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["model.onnx", "arch.json", "card.md", "predict.py"])
def test_a_full_disk_is_one_line_and_leaves_what_was_there(nas, copied, monkeypatch, name):
    before = there(copied / "models")
    for module in (folders, model_file):
        monkeypatch.setattr(module, "write_bytes", FullDisk(name))
    said = nas("export", copied, "--again")
    assert said.complaint == f"nas: {copied}/models/one-fastest cannot be written: No space left on device"
    assert there(copied / "models") == before
    monkeypatch.undo()


def test_a_run_replaces_its_own_exports(nas, copied):
    (copied / "models/one-knee/note.txt").write_text("of the export before")
    assert nas("export", copied, "--again", "--set", "export.license=mit").code == 0
    assert sorted(path.name for path in (copied / "models/one-knee").iterdir()) == FILES
    assert json.loads((copied / "models/one-knee/numbers.json").read_text())["license"] == "mit"
    assert not [path for path in (copied / "models").iterdir() if path.name.startswith(".")]


def test_a_folder_that_a_kill_left_aside_comes_back(tmp_path):
    (tmp_path / ".a.old").mkdir()
    (tmp_path / ".a.old/card.md").write_text("before")
    (tmp_path / ".a.part").mkdir()
    with pytest.raises(OSError, match="nothing"), replaced(tmp_path / "a"):
        raise OSError(errno.EIO, "nothing")
    assert there(tmp_path) == {"a/card.md": b"before"}


def test_exports_elsewhere_leave_the_run_alone_and_replace_only_when_told_to(nas, copied):
    before = there(copied)
    said = nas("export", copied, "--pick", "latency_ms<=1000", "--out", "out")
    assert said.code == 0
    folders = [Path(f"out/{name}-latency_ms-at-most-1000") for name in ("one", "four")]
    assert said.out.split() == [str((folder / "model.onnx").absolute()) for folder in folders]
    told = json.loads((folders[0] / "numbers.json").read_text())
    assert (told["pick"], told["as_asked"]) == ("latency_ms<=1000", True)
    assert there(copied) == before
    again = nas("export", copied, "--pick", "latency_ms<=1000", "--out", "out")
    assert f"{folders[0].absolute()}: is there already; replace it with --force" in again.complaint
    assert nas("export", copied, "--pick", "latency_ms<=1000", "--out", "out", "--force").code == 0


def test_a_folder_that_is_no_export_is_never_replaced(tmp_path):
    (tmp_path / "one-knee").mkdir()
    for force in (False, True):
        with pytest.raises(JobError, match="one-knee: is there already and is no export"):
            check_free([tmp_path / "other", tmp_path / "one-knee"], force)


def test_picks_on_the_command_line_replace_those_of_the_job(nas, copied):
    said = nas("export", copied, "--again", "--pick", "accuracy>=1%", "--pick", "knee")
    assert said.code == 0
    exports = json.loads((copied / "summary.json").read_text())["devices"][0]["exports"]
    assert [made["pick"] for made in exports] == ["accuracy>=1%", "knee"]
    assert exports[0]["file"] == "models/one-accuracy-at-least-0.01/model.onnx"
    assert "accuracy>=1%" in (copied / "report.html").read_text().replace("&gt;", ">")
    assert commanded("export", copied).out.count("models/one-knee/model.onnx") == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("--again", "--pick", "latency_ms <= 1e-6"),
            "no network of the front of one meets 'latency_ms <= 1e-6'; closest is",
        ),
        (("--again", "--pick", "latency <= 3"), "export.picks: constraint 'latency <= 3': unknown quantity"),
        (("--again", "--out", "x"), "--out leaves the run as it is, so it takes no --again"),
        (("--force",), "--force replaces exports in the folder that --out names"),
        (("--pick", "knee"), "the export stage is finished; add --again"),
    ],
)
def test_wrong_options_are_one_line(nas, copied, options, said):
    assert said in nas("export", copied, *options).complaint
