"""Supernets on disk: what goes in comes out, and what is broken is refused by name."""

import errno
import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from search_spaces import FAMILIES
from supernets import checkpoint
from supernets.checkpoint import FORMAT, Checkpoint, load_supernet, load_weights, read, save_supernet, write
from supernets.errors import CheckpointError, SupernetError
from supernets.supernet import Supernet
from tests.contracts.supernet_contract import archs_of, images, logits, small_space, stirred

NOTES = {"data": "digits", "seed": 3, "scores": [0.1, None, "ü"], "nested": {"a": 1}}


@pytest.fixture
def space():
    return small_space("tiny")


@pytest.fixture
def saved(tmp_path, space):
    path = tmp_path / "net.safetensors"
    save_supernet(path, stirred(space), NOTES)
    return path


def rewritten(path, tensors=None, **header):
    """The same file with other tensors or header entries; an entry of None goes."""
    with checkpoint.safe_open(path, framework="pt") as file:
        metadata = {**file.metadata(), **header}
    save_file(tensors or load_file(path), path, {name: text for name, text in metadata.items() if text is not None})
    return path


@pytest.mark.parametrize("family", FAMILIES)
def test_a_supernet_comes_back_as_it_was(tmp_path, family):
    net = stirred(small_space(family))
    path = tmp_path / "net.safetensors"
    save_supernet(path, net.train(), NOTES)
    again, notes = load_supernet(path)
    assert notes == NOTES
    assert again.space == net.space
    assert not again.training
    assert list(again.state_dict()) == list(net.state_dict())
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in again.state_dict().items())
    net.eval()
    for arch in archs_of(net.space, 2):
        x = images(net.space, arch)
        assert torch.equal(logits(again, x, arch), logits(net, x, arch))


def test_a_net_held_channels_last_is_saved_as_any_other(tmp_path, space, saved):
    path = tmp_path / "channels_last.safetensors"
    save_supernet(path, stirred(space).to(memory_format=torch.channels_last), NOTES)
    found, wanted = load_file(path), load_file(saved)
    assert list(found) == list(wanted)
    assert all(torch.equal(tensor, wanted[name]) and tensor.is_contiguous() for name, tensor in found.items())


def test_what_was_written_is_read(tmp_path, space):
    tensors = {"a": torch.arange(6.0).view(2, 3).t(), "b": torch.ones((), requires_grad=True)}
    path = tmp_path / "any.safetensors"
    write(path, Checkpoint(space, tensors, NOTES))
    found = read(path, space)
    assert found.space == space
    assert found.notes == NOTES
    assert {name: tensor.tolist() for name, tensor in found.tensors.items()} == {"a": [[0, 3], [1, 4], [2, 5]], "b": 1}


def test_the_file_is_safetensors_that_says_its_format(saved):
    with checkpoint.safe_open(saved, framework="pt") as file:
        header = file.metadata()
    assert header["format"] == FORMAT
    assert json.loads(header["notes"]) == NOTES


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone\.safetensors: no such checkpoint"):
        read(tmp_path / "gone.safetensors")


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        read(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.001, 0.1, 0.5, 0.99, 0.99999])
def test_a_truncated_file_is_refused(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"net\.safetensors: not a readable safetensors file"):
        read(saved)


def test_other_bytes_are_refused(saved):
    saved.write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(CheckpointError, match=r"net\.safetensors: not a readable safetensors file"):
        read(saved)


@pytest.mark.parametrize(("found", "shown"), [("nas.supernet/2", "'nas.supernet/2'"), (None, "None")])
def test_another_format_is_refused(saved, found, shown):
    with pytest.raises(CheckpointError, match=rf"net\.safetensors: wanted format 'nas.supernet/1', found {shown}"):
        read(rewritten(saved, format=found))


@pytest.mark.parametrize(
    "header",
    [
        {"space": None},
        {"notes": None},
        {"space": "{"},
        {"notes": "[1,"},
        {"space": "{}"},
        {"notes": "[1]"},
        {"space": "[]"},
    ],
)
def test_a_broken_header_is_refused(saved, header):
    with pytest.raises(CheckpointError, match=r"net\.safetensors: broken header"):
        read(rewritten(saved, **header))


def test_a_supernet_of_another_space_is_refused(saved, space):
    other = small_space("mobilenet_v3")
    message = rf"net\.safetensors: is a supernet of space {space.id} \(tiny\), not of {other.id}"
    with pytest.raises(CheckpointError, match=message):
        read(saved, other)
    with pytest.raises(CheckpointError, match=message):
        load_supernet(saved, other)
    assert load_supernet(saved, space)[0].space == space


def test_missing_tensors_are_named_up_to_three(saved):
    tensors = load_file(saved)
    gone = ["net.stem.conv.weight", "net.s1.b0.conv1.weight", "net.head.classifier.bias", "net.s2.b0.conv2.weight"]
    for name in gone[:1]:
        tensors.pop(name)
    with pytest.raises(CheckpointError, match=r"net\.safetensors: stem\.conv\.weight is missing$"):
        load_supernet(rewritten(saved, tensors))
    for name in gone[1:]:
        tensors.pop(name)
    with pytest.raises(
        CheckpointError, match=r"stem\.conv\.weight is missing; .*; .* is missing and 1 more$"
    ) as caught:
        load_supernet(rewritten(saved, tensors))
    assert str(caught.value).count("is missing") == 3


def test_extra_tensors_are_named(saved):
    tensors = load_file(saved) | {"net.s9.conv.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"net\.safetensors: s9\.conv\.weight is not of this network"):
        load_supernet(rewritten(saved, tensors))


def test_mis_shaped_tensors_are_named(saved):
    tensors = load_file(saved) | {"net.stem.conv.weight": torch.zeros(8, 1, 5, 5)}
    message = r"net\.safetensors: stem\.conv\.weight has shape \(8, 1, 5, 5\), not \(8, 1, 3, 3\)"
    with pytest.raises(CheckpointError, match=message):
        load_supernet(rewritten(saved, tensors))


def test_refused_tensors_leave_the_net_as_it_was(saved, space):
    net = stirred(space, seed=9)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    tensors = {name.removeprefix("net."): tensor for name, tensor in load_file(saved).items()}
    with pytest.raises(CheckpointError):
        load_weights(net, tensors | {"stem.conv.weight": torch.zeros(1)}, saved)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_every_error_of_a_checkpoint_is_an_error_of_the_package():
    assert issubclass(CheckpointError, SupernetError)


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "failing", [(checkpoint, "save"), (os, "fsync"), (checkpoint.Path, "replace")], ids=["encode", "flush", "rename"]
)
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(saved, space, monkeypatch, failing):
    content = saved.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(*failing, full_disk)
        with pytest.raises(OSError, match="No space left"):
            save_supernet(saved, Supernet(space, 5), {})
    assert saved.read_bytes() == content
    assert [path.name for path in saved.parent.iterdir()] == ["net.safetensors"]


def test_a_write_replaces_the_old_file_and_leaves_nothing_else(saved, space):
    save_supernet(saved, Supernet(space, 5), {"second": True})
    assert load_supernet(saved)[1] == {"second": True}
    assert [path.name for path in saved.parent.iterdir()] == ["net.safetensors"]
