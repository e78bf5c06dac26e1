"""Batch-norm statistics of one architecture, its accuracy, and images at its resolution."""

import copy

import pytest
import torch
from torch.nn import functional as F

from search_spaces import FAMILIES, network
from supernets.calibrate import accuracy, calibrate, evaluating, resize, resolution
from supernets.errors import SupernetError
from tests.contracts.supernet_contract import (
    archs_of,
    check_calibration,
    images,
    logits,
    random_stats,
    small_space,
    stirred,
)


@pytest.mark.parametrize("family", FAMILIES)
def test_statistics_are_those_that_torch_gathers(family):
    net = stirred(small_space(family), seed=5)
    for arch in archs_of(net.space, 5, seed=6):
        check_calibration(net, arch)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_calibration_changes_nothing_in_the_net(family, training):
    net = stirred(small_space(family)).train(training)
    before = copy.deepcopy(net.state_dict())
    arch = net.space.largest()
    batches = [images(net.space, arch, 6, seed) for seed in range(2)]
    stats = calibrate(net, arch, batches)
    assert net.training == training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert not any(tensor.requires_grad for pair in stats.values() for tensor in pair)
    again = calibrate(net, arch, batches)
    assert all(torch.equal(a, b) for name in stats for a, b in zip(stats[name], again[name], strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_batch_norm_of_the_arch_gets_statistics_and_no_other(family):
    net = stirred(small_space(family))
    for arch in archs_of(net.space, 3):
        stats = calibrate(net, arch, [images(net.space, arch, 8)])
        wanted = {layer.name: layer.out_shape[0] for layer in network(net.space, arch) if layer.norm}
        assert {name: len(mean) for name, (mean, _) in stats.items()} == wanted
        assert {name: len(var) for name, (_, var) in stats.items()} == wanted


@pytest.mark.parametrize("family", FAMILIES)
def test_a_calibrated_net_normalises_its_calibration_images(family):
    net = stirred(small_space(family))
    arch = net.space.largest()
    x = images(net.space, arch, 16)
    stats = calibrate(net, arch, [x])
    # The statistics keep the unbiased variance; the batch is normalised by the biased one.
    torch.testing.assert_close(logits(net, x, arch, stats), logits(net.train(), x, arch), rtol=0.1, atol=0.1)


def test_no_batches_give_no_statistics_but_an_error():
    net = stirred(small_space("tiny"))
    with pytest.raises(SupernetError, match="calibration needs at least one batch"):
        calibrate(net, net.space.smallest(), [])


@pytest.mark.parametrize("with_stats", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_accuracy_counts_the_images_that_are_right(family, with_stats):
    net = stirred(small_space(family))
    arch = net.space.smallest()
    stats = random_stats(net.space, arch, 3) if with_stats else None
    batches = [images(net.space, arch, count, seed=count) for count in (7, 4, 1)]
    best = [logits(net, x, arch, stats).argmax(1) for x in batches]
    wrong = [(y + 1) % net.space.settings["num_classes"] for y in best]
    assert accuracy(net, arch, stats, zip(batches, best, strict=True)) == 1.0
    assert accuracy(net, arch, stats, zip(batches, wrong, strict=True)) == 0.0
    # Batches count by their images: 4 of 12 are right.
    assert accuracy(net, arch, stats, zip(batches, [wrong[0], best[1], wrong[2]], strict=True)) == 4 / 12
    mixed = torch.cat([best[0][:2], wrong[0][2:]])
    assert accuracy(net, arch, stats, [(batches[0], mixed)]) == 2 / 7


@pytest.mark.parametrize("family", FAMILIES)
def test_accuracy_is_that_of_evaluation_mode_at_the_archs_resolution(family):
    net = stirred(small_space(family))
    arch = net.space.smallest()
    x = images(net.space, net.space.largest(), 9)
    y = logits(net, resize(x, resolution(arch)), arch).argmax(1)
    before = copy.deepcopy(net.state_dict())
    assert accuracy(net.train(), arch, None, [(x, y)]) == 1.0
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_comes_back_also_after_an_error(training):
    net = stirred(small_space("tiny")).train(training)
    with evaluating(net):
        assert not any(module.training for module in net.modules())
    assert {module.training for module in net.modules()} == {training}
    with pytest.raises(ZeroDivisionError), evaluating(net):
        1 / 0  # noqa: B018
    assert {module.training for module in net.modules()} == {training}


def test_images_of_the_right_size_are_left_as_they_are():
    x = torch.rand(2, 3, 8, 8)
    assert resize(x, 8) is x


@pytest.mark.parametrize("shape", [(12, 12), (8, 12), (12, 8), (4, 4)])
def test_other_images_are_resized_as_torch_does_with_antialiasing(shape):
    x = torch.rand(2, 3, *shape)
    wanted = F.interpolate(x, (8, 8), mode="bilinear", align_corners=False, antialias=True)
    assert torch.equal(resize(x, 8), wanted)
    # A flat image stays flat, so what is resized keeps its brightness.
    torch.testing.assert_close(resize(torch.full((1, 1, *shape), 0.7), 8), torch.full((1, 1, 8, 8), 0.7))
