"""Starting weights: from our files, from plain networks, and from what does not fit."""

import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from search_spaces import FAMILIES
from supernets.checkpoint import save_supernet
from supernets.errors import CheckpointError, TrainError
from supernets.extract import extract
from supernets.start import load_start
from supernets.supernet import Supernet
from supernets.train import train
from tests.contracts.supernet_contract import images, logits, small_space, stirred
from tests.supernets.bars import SETTINGS, Outage, bars, interrupt, same, space_of


@pytest.mark.parametrize("family", FAMILIES)
def test_a_supernet_is_taken_whole(tmp_path, family):
    net, path = stirred(small_space(family)), tmp_path / "net.safetensors"
    save_supernet(path, net, {})
    found = Supernet(net.space, 7)
    assert load_start(found, path)
    assert same(found, net)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plain_largest_network_keeps_its_function(tmp_path, family):
    net, path = stirred(small_space(family)), tmp_path / "plain.safetensors"
    largest = net.space.largest()
    save_file(extract(net, largest).state_dict(), path)
    found = Supernet(net.space, 7).eval()
    assert load_start(found, path)
    x = images(net.space, largest)
    assert torch.equal(logits(found, x, largest), logits(net, x, largest))


def test_of_a_training_the_average_is_taken(tmp_path):
    space, path = space_of("tiny"), tmp_path / "train.safetensors"
    state = train(space, bars(space), SETTINGS, path=path)
    found = Supernet(space, 7)
    load_start(found, path)
    assert same(found, state.average)
    assert not same(found, state.net)


@pytest.mark.parametrize("plain", [True, False])
def test_for_other_classes_the_classifier_is_new(tmp_path, plain):
    net, path = stirred(small_space("tiny", num_classes=3)), tmp_path / "net.safetensors"
    if plain:
        save_file(extract(net, net.space.largest()).state_dict(), path)
    else:
        save_supernet(path, net, {})
    fresh, found = (Supernet(small_space("tiny", num_classes=7), 5) for _ in range(2))
    assert not load_start(found, path)
    for name, tensor in found.state_dict().items():
        if ".transforms." not in name:
            wanted = (fresh if name.startswith("head.classifier") else net).state_dict()[name]
            assert torch.equal(tensor, wanted), name


def test_wrong_tensors_are_named(tmp_path):
    net, path = stirred(small_space("tiny")), tmp_path / "plain.safetensors"
    tensors = extract(net, net.space.largest()).state_dict()
    del tensors["stem.conv.weight"], tensors["head.classifier.bias"]
    save_file(tensors | {"more.weight": torch.zeros(2), "s1.b0.conv1.weight": torch.zeros(3)}, path)
    wanted = (
        "stem.conv.weight is missing; head.classifier.bias is missing; more.weight is not of this network and 1 more"
    )
    with pytest.raises(CheckpointError, match=re.escape(wanted)):
        load_start(Supernet(net.space), path)


def test_another_space_and_files_that_are_none_are_refused(tmp_path):
    path, space = tmp_path / "net.safetensors", small_space("tiny")
    with pytest.raises(CheckpointError, match=r"train\.start: there is no file"):
        load_start(Supernet(space), path)
    path.write_bytes(b"\x80\x04 no such thing")
    with pytest.raises(CheckpointError, match="is not a readable safetensors file"):
        load_start(Supernet(space), path)
    save_supernet(path, Supernet(small_space("tiny", stem=16)), {})
    with pytest.raises(
        CheckpointError, match=rf"another space, .*, not of {space.id}; only the number of classes and exits may"
    ):
        load_start(Supernet(space), path)


@pytest.mark.parametrize("classes", [4, 6])
def test_the_start_is_the_frozen_teacher_where_it_knows_the_classes(tmp_path, classes):
    space, path = space_of("tiny"), tmp_path / "start.safetensors"
    start = stirred(small_space("tiny", num_classes=classes))
    save_supernet(path, start, {})
    settings = replace(SETTINGS, recipe="progressive_shrinking", epochs=5, start=str(path))
    state = train(space, bars(space), settings)
    assert state.teacher is not None
    assert same(state.teacher, start) == (classes == 4)


def test_training_starts_from_the_given_weights_and_goes_on_from_its_checkpoint(tmp_path):
    space, path, saved = space_of("tiny"), tmp_path / "start.safetensors", tmp_path / "train.safetensors"
    start = stirred(space)
    save_supernet(path, start, {})
    settings = replace(SETTINGS, start=str(path), epochs=1)
    still = train(space, bars(space), replace(settings, learning_rate=1e-8, weight_decay=0.0))
    for parameter, wanted in zip(still.net.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(parameter, wanted, atol=1e-5, rtol=0)
    whole = train(space, bars(space), settings)
    with pytest.raises(Outage):
        train(space, bars(space), settings, path=saved, checkpoint_s=0, progress=interrupt)
    moved = path.rename(tmp_path / "elsewhere.safetensors")
    pieces = train(space, bars(space), replace(settings, start=str(moved)), path=saved)
    assert same(pieces.average, whole.average)
    save_supernet(moved, Supernet(space, 9), {})
    with pytest.raises(TrainError, match="was trained with other settings or data"):
        train(space, bars(space), replace(settings, start=str(moved)), path=saved)
