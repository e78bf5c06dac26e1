"""Sorting channels: the best come first, and the largest network stays what it was."""

import copy

import pytest
import torch

from search_spaces import FAMILIES, network
from supernets.calibrate import resize, resolution
from supernets.channels import channel_orders, reorder
from supernets.recipes import RECIPES
from supernets.supernet import Supernet
from supernets.train import train
from tests.contracts.supernet_contract import archs_of, images, logits, small_space, stirred
from tests.supernets.bars import SETTINGS, bars, space_of


def reordered(net: Supernet) -> Supernet:
    found = copy.deepcopy(net)
    reorder(found.state_dict(), channel_orders(net))
    return found


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    """Sums come in another order."""
    assert float((a - b).abs().max()) <= 1e-4 * float(b.abs().max())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_largest_network_and_all_of_full_width_keep_their_function(family):
    net = stirred(small_space(family))
    after = reordered(net)
    space, largest = net.space, net.space.largest()
    names = {layer.name: layer for layer in network(space, largest)}
    x = images(space, largest)
    kept = 0
    for arch in archs_of(space, 40):
        values = arch.values | {c.name: c.values[-1] for c in space.choices if c.kind not in ("depth", "kernel")}
        wide = space.arch({choice.name: values.get(choice.name, choice.values[-1]) for choice in space.choices})
        if all(names[layer.name].out_shape == layer.out_shape for layer in network(space, wide) if layer.name in names):
            kept += 1
            x_wide = resize(x, resolution(wide))
            close(logits(after, x_wide, wide), logits(net, x_wide, wide))
    assert kept > 0
    close(logits(after, x, largest), logits(net, x, largest))


@pytest.mark.parametrize("family", FAMILIES)
def test_channels_come_in_the_order_of_their_importance_and_stay_there(family):
    net = stirred(small_space(family))
    orders = channel_orders(net)
    moved = [order for pair in orders.values() for order in pair if order is not None]
    assert any(not torch.equal(order, torch.arange(len(order))) for order in moved)
    again = channel_orders(reordered(net))
    for pair in again.values():
        for order in pair:
            assert order is None or torch.equal(order, torch.arange(len(order)))


def test_a_projection_reads_the_weightiest_channels_first():
    net = reordered(stirred(small_space("mobilenet_v3")))
    weight = net.get_parameter("s3.b0.project.weight").detach()
    norms = weight.abs().sum((0, 2, 3))
    assert (norms.diff() <= 1e-6).all()


def test_the_input_and_the_classes_keep_their_places():
    net = stirred(small_space("mobilenet_v3"))
    orders = channel_orders(net)
    assert orders["stem.conv.weight"][1] is None
    assert orders["head.classifier.weight"][0] is None
    assert orders["head.classifier.bias"][0] is None
    assert orders["stem.conv.weight"][0] is not None


@pytest.mark.parametrize("family", ["tiny", "mobilenet_v3"])
def test_gradients_are_reordered_as_weights_are(family):
    # So momenta may be: the training goes on as it would have.
    net = stirred(small_space(family)).train()
    after, orders, largest = reordered(net), channel_orders(net), net.space.largest()
    x = images(net.space, largest, batch=8)
    found = []
    for each in (net, after):
        each(x, largest).square().sum().backward()
        found.append({name: p.grad for name, p in each.named_parameters() if p.grad is not None})
    reorder(found[0], orders)
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        scale = float(gradient.abs().max()) + 1e-3
        assert float((gradient - found[1][name]).abs().max()) <= 1e-2 * scale, name


def test_progressive_shrinking_sorts_before_widths_open(monkeypatch):
    sorted_at = []
    monkeypatch.setattr("supernets.train.channel_orders", lambda net: sorted_at.append(True) or channel_orders(net))
    space, seen = space_of("tiny"), []
    settings = SETTINGS.__class__(recipe="progressive_shrinking", epochs=5, batch=16, layout="fp32", evaluations=1)
    train(space, bars(space), settings, progress=lambda done, total, text: seen.append(len(sorted_at)))
    share = sum(phase.share for phase in RECIPES["progressive_shrinking"][:4])
    assert seen == [0] * round(20 * share) + [1] * round(20 * (1 - share))
