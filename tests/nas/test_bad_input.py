"""Bad input: one clear line on standard error, exit code 2, nothing half-written, finished work kept."""

import errno
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from latency_tables.table import load as load_table
from nas import pipeline
from nas.folder import STAGES, RunFolder
from nas.job import read_job
from search_spaces import canonical_json, files
from tests.nas.conftest import commanded
from tests.nas.fakes import FakeDisplay, write_job
from tests.nas.test_pipeline import contents, outcome, undone
from tests.supernets.pictures import rows, write_folder, write_parquet

COUNTS = {"cat": 24, "dog": 24, "owl": 24}


def folder_job(tmp_path: Path, **changes) -> Path:
    """The little job on a folder of images."""
    data = {"kind": "folder", "path": str(tmp_path / "images"), "channels": 1, "validation_fraction": 0.3}
    train = {"epochs": 1, "batch": 16, "layout": "fp32", "evaluations": 1}
    return write_job(tmp_path / "job.yaml", data=data, train=train, **changes)


def assert_no_trace(tmp_path: Path) -> None:
    assert not (tmp_path / "run").exists()


# The job


REFUSED = [
    ({"trian": {}}, "trian: unknown key; did you mean 'train'?"),
    ({"train__epoch": 3}, "train.epoch: unknown key; did you mean 'epochs'?"),
    ({"space__widhts": [1.0]}, "space: family tiny has no setting 'widhts'; did you mean 'widths'?"),
    ({"search__constraints": ["latency <= 5"]}, "did you mean 'latency_ms'?"),
    ({"data": {"kind": "folder", "path": "absent"}}, "absent does not exist"),
    ({"data": {"kind": "parquet", "path": "absent.parquet"}}, "absent.parquet does not exist"),
    ({"export": {"opset": 13}}, "opset must be 14"),
]
# A machine may train for devices that it is not, but not measure them.
NO_DEVICE = (
    {"devices": [{"name": "gpu", "provider": "NoSuchExecutionProvider"}]},
    "device gpu: this onnxruntime has no",
)


@pytest.mark.parametrize(
    ("command", "changes", "said"),
    [*(("run", *each) for each in [*REFUSED, NO_DEVICE]), *(("train", *each) for each in REFUSED)],
)
def test_a_job_that_cannot_be_run_is_refused_without_a_trace(nas, tmp_path, command, changes, said):
    assert said in nas(command, write_job(tmp_path / "job.yaml", **changes), "--out", tmp_path / "run").complaint
    assert_no_trace(tmp_path)


def test_a_device_that_this_machine_lacks_cannot_be_measured_and_the_training_is_kept(copied, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # a lock of its own
    undone(copied, "profile")
    set_job(copied, lambda job: job.update(NO_DEVICE[0]))
    before = contents(copied)
    assert NO_DEVICE[1] in commanded("profile", copied).complaint
    assert contents(copied) == before


def test_a_folder_that_was_there_and_empty_is_there_and_empty_afterwards(nas, tmp_path):
    (tmp_path / "run").mkdir()
    job = write_job(tmp_path / "job.yaml", data={"kind": "folder", "path": "absent"})
    assert "does not exist" in nas("run", job, "--out", tmp_path / "run").complaint
    assert list((tmp_path / "run").iterdir()) == []


def test_a_run_that_fails_when_it_goes_on_is_kept(nas, tmp_path):
    write_folder(tmp_path / "images", COUNTS)
    folder = RunFolder.create(tmp_path / "run", read_job(folder_job(tmp_path)))
    before = contents(folder.root)
    shutil.rmtree(tmp_path / "images")
    assert "does not exist" in nas("run", "--resume", folder.root).complaint
    assert contents(folder.root) == before


# The images


def test_a_class_without_an_image_is_refused(nas, tmp_path):
    write_folder(tmp_path / "images", {**COUNTS, "fox": 0})
    complaint = nas("train", folder_job(tmp_path), "--out", tmp_path / "run").complaint
    assert f"the class folder {tmp_path / 'images/fox'} has no image" in complaint
    assert_no_trace(tmp_path)


def test_an_image_that_cannot_be_read_is_named_and_can_be_skipped(nas, tmp_path):
    write_folder(tmp_path / "images", COUNTS)
    bad = tmp_path / "images/dog/broken.png"
    bad.write_bytes(b"\x89PNG and then nothing of the kind")
    (tmp_path / "images/owl/empty.png").write_bytes(b"")
    job = folder_job(tmp_path)
    complaint = nas("run", job, "--out", tmp_path / "run", "--jobs", 1).complaint
    assert f"bad image {bad}" in complaint
    assert_no_trace(tmp_path)
    said = nas("run", job, "--out", tmp_path / "run", "--jobs", 1, "--skip-bad", "--json")
    assert said.code == 0
    assert said.json["data"]["skipped"] == 2
    assert sum(said.json["data"][split] for split in ("train", "validation", "test")) == sum(COUNTS.values())


def test_labels_out_of_range_are_refused_with_their_row(nas, tmp_path):
    write_parquet(tmp_path / "images.parquet", [*rows(30), *((picture, 7) for picture, _ in rows(1, seed=9))])
    data = {"kind": "parquet", "path": "images.parquet", "classes": ["cat", "dog", "owl"], "channels": 1}
    complaint = nas("train", write_job(tmp_path / "job.yaml", data=data), "--out", tmp_path / "run").complaint
    assert "row 30 of" in complaint
    assert "has label 7; labels go from 0 to 2" in complaint
    assert_no_trace(tmp_path)


# Constraints


def test_a_constraint_that_nothing_can_meet_is_a_result_that_names_the_closest(nas, copied, finished):
    undone(copied, "search")
    set_job(copied, lambda job: job["search"].update(constraints=["latency_ms@four <= 0.001"]))
    said = nas("run", "--resume", copied, "--jobs", 1)
    assert said.code == 0
    assert "no architecture meets the constraints on four; closest is" in said.err
    one, four = json.loads((copied / "summary.json").read_text())["devices"]
    assert [len(one["exports"]), len(four["exports"]), four["front"]] == [3, 0, []]
    assert four["closest"]["missed"][0]["text"] == "latency_ms@four <= 0.001"
    assert four["closest"]["missed"][0]["value"] > 0.001
    undone(copied, "search")
    set_job(copied, lambda job: job["search"].update(constraints=[]))
    assert nas("run", "--resume", copied, "--jobs", 1).code == 0
    assert outcome(copied) == outcome(finished)


def set_job(root: Path, change: Callable) -> None:
    document = json.loads((root / "job.json").read_text())
    change(document["job"])
    (root / "job.json").write_text(json.dumps(document))


# Files of another run


@pytest.fixture(scope="module")
def stranger(tmp_path_factory) -> Path:
    """The folder of a run of another space, trained and no more."""
    root = tmp_path_factory.mktemp("stranger")
    folder = RunFolder.create(root / "run", read_job(write_job(root / "job.yaml", space__kernels=[3], train__epochs=1)))
    pipeline.run_stage(pipeline.Run(folder, folder.job, 1, FakeDisplay()), "train")
    return folder.root


@pytest.mark.parametrize("stage", ["search", "export"])
def test_a_supernet_of_another_space_is_refused(nas, copied, stranger, stage):
    undone(copied, stage)
    shutil.copy(stranger / "supernet.safetensors", copied)
    before = contents(copied)
    complaint = nas(stage, copied).complaint
    mine, other = (RunFolder.open(root).space.id for root in (copied, stranger))
    assert f"supernet.safetensors: is a supernet of space {other} (tiny), not of {mine}" in complaint
    assert contents(copied).items() >= before.items()


def test_a_checkpoint_of_another_space_or_other_settings_is_refused(nas, copied, stranger, tmp_path):
    for name, said in (("stranger", "is a supernet of space"), ("finished", "was trained with other settings or data")):
        job = write_job(tmp_path / "job.yaml", train__epochs=3)
        folder = RunFolder.create(tmp_path / name, read_job(job))
        shutil.copy((stranger if name == "stranger" else copied) / "train.safetensors", folder.root)
        assert said in nas("run", "--resume", folder.root).complaint


def other_protocol(path: Path) -> None:
    table = load_table(path)
    document = json.loads(canonical_json(table.to_json()))
    type(table)(table.space, table.device, table.fingerprint, document["protocol"] + 1, table.entries).save(path)


@pytest.mark.parametrize("stage", ["profile", "search"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: shutil.copy(path.with_name("four.json"), path), "device: the table is of four"),
        (other_protocol, "protocol: measured by version"),
        (lambda path: path.write_bytes(path.read_bytes()[:500]), "not a whole latency table"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b"1", b"2", 1)), "digest: the content was changed"),
    ],
)
def test_a_table_that_is_not_the_one_wanted_is_refused(nas, copied, stage, change, said):
    undone(copied, "search")
    if stage == "profile":
        RunFolder.open(copied).reopen("profile")
    path = copied / "tables/one.json"
    change(path)
    before = contents(copied)
    complaint = nas(stage, copied).complaint
    assert f"{path}: {said}" in complaint
    assert contents(copied).items() >= before.items()


# Files that are not whole


@pytest.mark.parametrize(
    ("name", "command", "said"),
    [
        ("job.json", "run", "job.json: cannot be read"),
        ("train.json", "run", "train.json: cannot be read"),
        ("search.json", "export", "search.json: cannot be read"),
        ("space.json", "search", "space.json: cannot be read"),
        ("predictors/four.json", "search", "predictors/four.json"),
        ("supernet.safetensors", "search", "supernet.safetensors: not a readable safetensors file"),
        ("evaluations.sqlite", "search", "evaluations.sqlite: cannot be"),
    ],
)
@pytest.mark.parametrize("left", [0.01, 0.5])
def test_a_file_cut_short_is_named(nas, copied, name, command, said, left):
    if command != "run":
        RunFolder.open(copied).reopen(command)
    path = copied / name
    path.write_bytes(path.read_bytes()[: int(left * path.stat().st_size)])
    complaint = nas(command, *(["--resume"] if command == "run" else []), copied).complaint
    assert said in complaint


def test_a_broken_record_of_a_stage_can_be_removed_as_it_says(nas, copied, finished):
    (copied / "search.json").write_text('{"devices": []}')
    complaint = nas("run", "--resume", copied).complaint
    assert f"remove it, and go on with `nas run --resume {copied}`" in complaint
    (copied / "search.json").unlink()
    assert nas("run", "--resume", copied, "--jobs", 1).code == 0
    assert outcome(copied) == outcome(finished)


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.update(format="nas.run/99"),
        lambda document: document.pop("job"),
        lambda document: document["job"].update(trian=1),
        lambda document: document["job"].pop("space"),
    ],
)
def test_a_job_record_of_another_kind_is_refused(nas, copied, change):
    document = json.loads((copied / "job.json").read_text())
    change(document)
    (copied / "job.json").write_text(json.dumps(document))
    assert f"{copied / 'job.json'}: " in nas("run", "--resume", copied).complaint


# Disk full


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 256 KiB, where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk; the other tests of full disks do without")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_fills_up_while_images_are_read_leaves_nothing(nas, tmp_path, small_disk):
    (small_disk / "others").write_bytes(bytes(200_000))
    complaint = nas("train", write_job(tmp_path / "job.yaml"), "--out", small_disk / "run").complaint
    assert "cannot be written: No space left on device" in complaint
    assert [path.name for path in small_disk.iterdir()] == ["others"]


def full(*arguments) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_disk_that_fills_up_later_keeps_what_is_finished(nas, copied, finished, monkeypatch, stage):
    undone(copied, stage)
    before = contents(copied)
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        complaint = nas("run", "--resume", copied, "--jobs", 1).complaint
    assert f"nas: {copied}/" in complaint
    assert "cannot be written: No space left on device" in complaint
    assert contents(copied).items() >= before.items()
    assert [path.name for path in copied.rglob(".*")] == [], "no temporary file is left"
    assert nas("run", "--resume", copied, "--jobs", 1).code == 0
    assert outcome(copied) == outcome(finished)


def test_a_disk_that_is_full_from_the_start_leaves_nothing(nas, tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "fsync", full)
    complaint = nas("run", write_job(tmp_path / "job.yaml"), "--out", tmp_path / "run").complaint
    assert complaint == f"nas: {tmp_path / 'run/job.json'} cannot be written: No space left on device"
    assert_no_trace(tmp_path)


def test_a_disk_that_numpy_finds_full_is_called_full(nas, tmp_path, monkeypatch):
    def cut_short(*arguments, **options):
        raise OSError("8192 requested and 100 written")

    monkeypatch.setattr(pipeline, "load", cut_short)
    complaint = nas("run", write_job(tmp_path / "job.yaml"), "--out", tmp_path / "run").complaint
    assert "cannot be written: 8192 requested and 100 written" in complaint
    assert_no_trace(tmp_path)


@pytest.mark.parametrize("out", ["/proc/run", "{tmp_path}/job.yaml/run", "x" * 300])
def test_a_folder_that_cannot_be_made_is_named(nas, tmp_path, out):
    out = out.replace("{tmp_path}", str(tmp_path))
    complaint = nas("run", write_job(tmp_path / "job.yaml"), "--out", out).complaint
    assert complaint.startswith(f"nas: {out}: the folder cannot be made: ")
