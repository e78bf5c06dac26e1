"""Training on Ray: as in this process, and nothing left behind."""

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from nas import training
from nas.errors import JobError
from nas.service.orphans import descendants
from nas.training import train_on_ray
from supernets import checkpoint
from supernets.errors import TrainError
from supernets.train import train
from tests.supernets.bars import SETTINGS, Outage, bars, interrupt, same, space_of

STEPS = 3
TWO = replace(SETTINGS, epochs=1, threads=1, workers=2)


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
    except OSError:  # it has ended
        return b""


def gone(processes: set[int], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while (left := processes & descendants(os.getpid())) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not left


def after_some_steps(path, settings):
    """The checkpoint of a training in this process that went down after `STEPS`."""

    def stop(done, total, text):
        if done == STEPS:
            raise Outage

    space = space_of("tiny")
    with pytest.raises(Outage):
        train(space, bars(space), settings, path=path, checkpoint_s=0, progress=stop)
    return checkpoint.read(path)


def test_workers_train_as_this_process_would_until_one_of_them_dies_and_one_alone_goes_on(
    tmp_path, monkeypatch, capsys
):
    """One test for all, as starting Ray takes seconds, and starting a worker nearly as long."""
    monkeypatch.setattr(training, "CALL_S", 0.0)  # one step a call
    space, path = space_of("tiny"), tmp_path / "train.safetensors"
    before, started, said = descendants(os.getpid()), set(), []

    def kill_one(done, total, text):
        said.append((done, total, text.partition(" ")[0]))
        if done == STEPS:
            started.update(descendants(os.getpid()) - before)
            workers = [pid for pid in started if command(pid).startswith(b"ray::_Worker")]
            assert len(workers) == 2
            os.kill(max(workers), signal.SIGKILL)

    with pytest.raises(JobError, match=r"^a worker of the training died, .*; go on with --resume, .*$"):
        train_on_ray(space, bars(space), TWO, path=path, checkpoint_s=0, progress=kill_one)
    assert said == [(0, 4, "waiting"), *((done, 4, "loss") for done in range(1, STEPS + 1))]
    assert not sys.modules["ray"].is_initialized()
    assert gone(started, within_s=10)
    assert capsys.readouterr().out == ""

    found, wanted = checkpoint.read(path), after_some_steps(tmp_path / "alone.safetensors", replace(TWO, workers=1))
    assert found.notes["identity"] == wanted.notes["identity"]
    assert found.notes["step"] == STEPS
    assert found.tensors.keys() == wanted.tensors.keys()
    for name, tensor in wanted.tensors.items():  # rounding grows at each step
        assert name.startswith("momentum.") or float((tensor - found.tensors[name]).abs().max()) < 5e-4, name

    alone = train(space, bars(space), replace(TWO, workers=1), path=path)
    assert alone.step == 4
    finished = train_on_ray(space, bars(space), TWO, path=path, progress=interrupt)
    assert same(finished.average, alone.average)
    assert finished.history == alone.history


def test_what_cannot_train_is_refused_before_ray_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "RaySession", None)
    space, path = space_of("tiny"), tmp_path / "train.safetensors"
    with pytest.raises(TrainError, match=r"an image for each of 65 train\.workers"):
        train_on_ray(space, bars(space), replace(TWO, batch=64, workers=65))
    after_some_steps(path, replace(TWO, workers=1))
    with pytest.raises(TrainError, match="was trained with other settings or data"):
        train_on_ray(space, bars(space), replace(TWO, learning_rate=0.04), path=path)
