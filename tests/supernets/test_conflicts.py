"""Cosines between gradients of sub-networks: of one with itself 1, and over nothing but what two share."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from search_spaces import FAMILIES, network
from supernets.batches import Batches
from supernets.conflicts import (
    LARGEST_RANDOM,
    LARGEST_SMALLEST,
    OTHER_IMAGES,
    OVERALL,
    PAIRS,
    Conflict,
    conflicts,
    cosines,
    gradient,
    training_batches,
)
from tests.contracts.supernet_contract import archs_of, images, small_space, stirred
from tests.supernets.bars import SETTINGS, bars, space_of


def batch_for(space, n=4):
    return images(space, space.largest(), n), torch.arange(n) % 4


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_agrees_with_itself_in_each_of_its_layers_and_with_its_opposite_in_none(family):
    net = stirred(small_space(family))
    for arch in archs_of(net.space, 0):
        one = gradient(net, arch, *batch_for(net.space))
        found = cosines(one, one)
        weighted = {layer.name for layer in network(net.space, arch) if layer.weight_shape}
        # A layer whose output is of no matter has no gradient; no other layer is left out.
        assert set(found) <= weighted | {OVERALL}
        assert len(found) > 0.8 * len(weighted)
        assert found == pytest.approx(dict.fromkeys(found, 1.0))
        opposite = cosines(one, {name: -each for name, each in one.items()})
        assert opposite == pytest.approx(dict.fromkeys(found, -1.0))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_is_that_of_training_and_leaves_the_net_as_it_was(family):
    net = stirred(small_space(family))
    before = copy.deepcopy(net.state_dict())
    x, y = batch_for(net.space)
    found = gradient(net, net.space.largest(), x, y)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    F.cross_entropy(net.train()(x, net.space.largest()), y).backward()
    wanted = {name: parameter.grad for name, parameter in net.named_parameters() if parameter.grad is not None}
    assert list(found) == list(wanted)
    for name, each in found.items():
        torch.testing.assert_close(each, wanted[name])


def test_weights_that_only_one_network_has_do_not_count():
    one = {"a.weight": torch.tensor([[3.0, 4.0], [9.0, 9.0]]), "b.weight": torch.ones(2)}
    other = {"a.weight": torch.tensor([[4.0, 3.0], [0.0, 0.0]]), "c.weight": torch.ones(2)}
    assert cosines(one, other) == pytest.approx({OVERALL: 24 / 25, "a": 24 / 25})
    assert cosines(other, one) == cosines(one, other)


def test_parameters_of_one_layer_count_together():
    one = {"a.weight": torch.ones(3), "a_norm.bias": torch.ones(1), "a.transforms.5to3": torch.ones(1)}
    other = {**one, "a_norm.bias": -torch.ones(1)}
    assert cosines(one, other) == pytest.approx({OVERALL: 3 / 5, "a": 3 / 5})


def test_every_kind_of_pair_is_counted_over_batches():
    space = space_of("tiny")
    batches = list(training_batches(bars(space), SETTINGS, 3))
    heard = []
    found = conflicts(stirred(space), batches, networks=2, progress=heard.append)
    overall = {each.pair: len(each.cosines) for each in found if each.layer == OVERALL}
    assert list(overall.items()) == list(zip(PAIRS, (3, 6, 3, 2), strict=True))
    assert heard == [1, 2, 3]
    assert all(-1.0001 <= cosine <= 1.0001 for each in found for cosine in each.cosines)
    again = conflicts(stirred(space), batches, networks=2)
    assert again == found
    assert conflicts(stirred(space), batches, networks=2, seed=1) != found


def test_a_space_of_one_network_has_no_conflict_beyond_that_of_its_images():
    alone = space_of("tiny", resolutions=[12], widths=[1.0], depths=[2], expands=[1.0], kernels=[3])
    batch = next(training_batches(bars(alone), SETTINGS, 1))
    found = {each.pair: each for each in conflicts(stirred(alone), [batch, batch], 1) if each.layer == OVERALL}
    for pair in (LARGEST_SMALLEST, LARGEST_RANDOM, OTHER_IMAGES):
        assert found[pair].mean == pytest.approx(1.0)
        assert found[pair].negative == 0.0


def test_a_conflict_tells_mean_deviation_and_the_share_below_zero():
    found = Conflict(LARGEST_SMALLEST, OVERALL, (0.5, -0.5, 0.25, 0.0))
    assert (found.mean, found.negative) == (0.0625, 0.25)
    assert found.std == pytest.approx(0.3698, abs=1e-4)


def test_batches_are_the_first_of_a_training_with_their_labels():
    dataset = bars(space_of("tiny"))
    plain = replace(SETTINGS, augment=replace(SETTINGS.augment, shift_px=0, mirror=False))
    everything, labels = next(iter(Batches.of(dataset.train, dataset)))
    for x, y in training_batches(dataset, plain, 2):
        assert len(x) == len(y) == SETTINGS.batch
        for image, label in zip(x, y, strict=True):
            same = (everything == image).flatten(1).all(1)
            assert label in labels[same]
