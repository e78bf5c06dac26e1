"""Merged convolutions: the nearest in least squares, and networks that have them."""

import pytest
import torch
from torch.nn import functional as F

from search_spaces import FAMILIES, define_space, network
from search_spaces.mergers import mergers
from supernets.calibrate import calibrate
from supernets.merging import Plain, fitted, loss, merged_supernet, refitted, rises
from supernets.supernet import Supernet
from tests.contracts.supernet_contract import (
    archs_of,
    check_supernet,
    images,
    logits,
    random_stats,
    small_space,
    stirred,
)

SIDE, MARGIN = 24, 8


def linear_net(kernels=(3, 3), strides=(1, 1), groups=1):
    """Two convolutions without norm, bias or activation, and a classifier."""
    layers = [
        [f"conv{i}", "conv", {"out": 6, "kernel": kernel, "stride": stride, "groups": groups, "norm": False}]
        for i, (kernel, stride) in enumerate(zip(kernels, strides, strict=True))
    ]
    body = {"name": "body", "norm_eps": 1e-5, "layers": layers}
    head = {"name": "head", "norm_eps": 1e-5, "layers": [["pool", "global_pool"], ["out", "linear", {"out": 3}]]}
    space = define_space("fixed", num_classes=3, in_channels=6, resolutions=[SIDE], slots=[body, head])
    return Supernet(space, seed=3).eval()


def with_margin(batch, seed=0):
    """Images that are 0 near their borders, where padding is not that of one large convolution."""
    x_BCHW = torch.zeros(batch, 6, SIDE, SIDE)
    inner = SIDE - 2 * MARGIN
    drawn = torch.randn(batch, 6, inner, inner, generator=torch.Generator().manual_seed(seed))
    x_BCHW[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN] = drawn
    return x_BCHW


def product(first, second, stride, groups):
    """The kernel of two convolutions in a row: what the second makes of a pixel that the first spreads out."""
    (o1, i1, k1, _), k2 = first.shape, second.shape[-1]
    dense = torch.zeros(o1, 6, k1, k1)
    for o in range(o1):
        start = o // (o1 // groups) * i1
        dense[o, start : start + i1] = first[o]
    size = k1 + stride * (k2 - 1)
    spread = torch.zeros(o1, 6, size, size, k2, k2)
    for row in range(k2):
        for column in range(k2):
            spread[:, :, stride * row : stride * row + k1, stride * column : stride * column + k1, row, column] = dense
    grouped = torch.zeros(second.shape[0], o1, k2, k2)
    for o in range(second.shape[0]):
        start = o // (second.shape[0] // groups) * second.shape[1]
        grouped[o, start : start + second.shape[1]] = second[o]
    return torch.einsum("oqkl,qiyxkl->oiyx", grouped, spread)


@pytest.mark.parametrize(
    ("kernels", "strides", "groups"),
    [((3, 3), (1, 1), 1), ((3, 3), (2, 1), 1), ((1, 3), (2, 2), 1), ((3, 1), (1, 2), 2)],
)
def test_without_activations_the_nearest_convolution_is_the_product_of_those_it_replaces(kernels, strides, groups):
    net = linear_net(kernels, strides, groups)
    arch = net.space.largest()
    plain = Plain.of(net, arch, {})
    found = [each for each in mergers(plain.layers) if each.conv.name == "body.conv0_merged"]
    whole = max(found, key=lambda each: each.conv.kernel)
    weights = [plain.weights[f"body.conv{i}"][0] for i in (0, 1)]
    wanted = product(*weights, strides[0], groups)
    assert whole.conv.weight_shape == tuple(wanted.shape)
    assert whole.conv.kernel == kernels[0] + strides[0] * (kernels[1] - 1)
    assert whole.conv.stride == strides[0] * strides[1]
    # Pixels whose windows lie at the borders see zeros alone.
    weight, bias = fitted(plain, [whole], [with_margin(96)])[whole]
    torch.testing.assert_close(weight, wanted, atol=2e-3 * float(wanted.abs().max()), rtol=0)
    assert float(bias.abs().max()) < 1e-3
    x_BCHW = with_margin(2, seed=1)
    torch.testing.assert_close(
        plain.replaced({whole: (weight, bias)}).logits(x_BCHW), plain.logits(x_BCHW), atol=1e-3, rtol=0
    )
    middle = F.conv2d(
        plain.values(x_BCHW, [whole.source])[whole.source], wanted, None, whole.conv.stride, whole.conv.kernel // 2
    )
    torch.testing.assert_close(middle, plain.values(x_BCHW, [whole.last])[whole.last], atol=1e-4, rtol=1e-4)


def tiny_case(batch=32):
    net = stirred(small_space("tiny", resolutions=[12], depths=[2], kernels=[3]))
    arch = net.space.largest()
    x_BCHW = images(net.space, arch, batch)
    stats = calibrate(net, arch, [x_BCHW])
    return net, arch, stats, Plain.of(net, arch, stats), x_BCHW


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plain_network_computes_what_the_supernet_computes(family):
    net = stirred(small_space(family))
    for arch in archs_of(net.space, 1):
        stats = random_stats(net.space, arch, 2)
        x_BCHW = images(net.space, arch)
        torch.testing.assert_close(
            Plain.of(net, arch, stats).logits(x_BCHW), logits(net, x_BCHW, arch, stats), atol=1e-3, rtol=1e-3
        )


def test_the_nearest_convolution_is_nearer_than_the_product_that_drops_activations():
    _, _, _, plain, x_BCHW = tiny_case()
    found = [
        each for each in mergers(plain.layers) if each.conv.name == "s1.b1.conv1_merged" and each.last == "s1.b1.conv2"
    ]
    whole = max(found, key=lambda each: each.conv.kernel)
    (first, first_bias), (second, second_bias) = (plain.weights[f"s1.b1.{name}"] for name in ("conv1", "conv2"))
    dropped = F.conv2d(first.transpose(0, 1), second.flip(2, 3), padding=2).transpose(0, 1)
    dropped_bias = second_bias + second.sum((2, 3)) @ first_bias
    assert dropped.shape == whole.conv.weight_shape
    kernels = fitted(plain, found, [x_BCHW])
    aim = plain.values(x_BCHW, [whole.last])[whole.last]

    def error(merger, kernel):
        conv, read = merger.conv, plain.values(x_BCHW, [merger.source])[merger.source]
        return float((F.conv2d(read, *kernel, conv.stride, conv.kernel // 2) - aim).square().mean())

    errors = [error(merger, kernels[merger]) for merger in sorted(found, key=lambda each: each.conv.kernel)]
    assert errors == sorted(errors, reverse=True), "a smaller kernel is no nearer"
    assert errors[-1] < 0.5 * error(whole, (dropped, dropped_bias))


def test_a_merged_supernet_computes_what_was_fitted_and_keeps_the_other_weights():
    net, arch, stats, plain, x_BCHW = tiny_case()
    found = mergers(plain.layers)
    first = next(each for each in found if each.last == "s1.b0.add")
    other = next(each for each in found if each.start >= first.end and each.last.endswith("add"))
    kernels = refitted(plain, [other, first], [x_BCHW])
    made = merged_supernet(net, arch, stats, kernels, [x_BCHW])
    own = made.space.largest()
    fresh = images(net.space, arch, 4, seed=9)
    torch.testing.assert_close(logits(made, fresh, own), plain.replaced(kernels).logits(fresh), atol=1e-3, rtol=1e-3)
    assert {each.conv.name for each in kernels} <= {layer.name for layer in network(made.space, own)}
    # By the statistics of the images that it was made with, batch norm changes nothing.
    again = calibrate(made, own, [x_BCHW])[first.conv.name]
    torch.testing.assert_close(again[0], made.norm(first.conv).running_mean, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(again[1], made.norm(first.conv).running_var, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("family", ["tiny", "mobilenet_v3"])
def test_a_merged_network_keeps_the_contract_of_supernets(family):
    net = stirred(small_space(family))
    arch = net.space.largest()
    x_BCHW = images(net.space, arch, 16)
    stats = calibrate(net, arch, [x_BCHW])
    plain = Plain.of(net, arch, stats)
    chosen = [max(mergers(plain.layers), key=lambda each: each.conv.weights)]
    check_supernet(merged_supernet(net, arch, stats, fitted(plain, chosen, [x_BCHW]), [x_BCHW]), samples=0)


def test_mergers_that_are_made_together_make_up_for_those_before_them():
    _, _, _, plain, x_BCHW = tiny_case()
    found = mergers(plain.layers)
    first = next(each for each in found if each.last == "s1.b0.add" and each.conv.kernel == 1)
    later = [each for each in found if each.start >= first.end and each.last == "s2.b0.add"]
    other = max(later, key=lambda each: each.conv.kernel)
    chosen = [first, other]
    aim = plain.values(x_BCHW, [other.last])[other.last]

    def error(kernels):
        made = plain.replaced(kernels)
        return float((made.values(x_BCHW, [other.conv.name])[other.conv.name] - aim).square().mean())

    alone, together = fitted(plain, chosen, [x_BCHW]), refitted(plain, chosen, [x_BCHW])
    assert error(together) < error(alone)
    for merger, kernel in refitted(plain, chosen, [x_BCHW]).items():
        assert all(torch.equal(a, b) for a, b in zip(kernel, together[merger], strict=True))


def test_parts_that_follow_each_other_at_once_are_merged_together():
    net = stirred(small_space("mobilenet_v3"))
    arch = net.space.largest()
    x_BCHW = images(net.space, arch, 8)
    stats = calibrate(net, arch, [x_BCHW])
    plain = Plain.of(net, arch, stats)
    found = mergers(plain.layers)
    first, other = next((a, b) for a in found for b in found if b.source == a.last)
    kernels = refitted(plain, [first, other], [x_BCHW])
    made = merged_supernet(net, arch, stats, kernels, [x_BCHW])
    torch.testing.assert_close(
        logits(made, x_BCHW, made.space.largest()), plain.replaced(kernels).logits(x_BCHW), atol=1e-3, rtol=1e-3
    )


@pytest.mark.parametrize("family", ["tiny", "mobilenet_v3"])
def test_what_a_merger_adds_to_the_loss_is_that_of_the_whole_network(family):
    net = stirred(small_space(family))
    arch = net.space.largest()
    x_BCHW, labels = images(net.space, arch, 6), torch.arange(6) % 4
    plain = Plain.of(net, arch, random_stats(net.space, arch, 1))
    kernels = fitted(plain, mergers(plain.layers)[::7], [x_BCHW])
    batches = [(x_BCHW[:4], labels[:4]), (x_BCHW[4:], labels[4:])]
    found = rises(plain, kernels, batches)
    assert set(found) == set(kernels)
    for merger, rise in found.items():
        alone = loss(plain.replaced({merger: kernels[merger]}), batches)
        assert rise == pytest.approx(alone - loss(plain, batches), abs=1e-5)


def test_a_loss_is_a_mean_over_images():
    _, _, _, plain, x_BCHW = tiny_case(7)
    labels = torch.arange(7) % 4
    whole = loss(plain, [(x_BCHW, labels)])
    assert loss(plain, [(x_BCHW[:5], labels[:5]), (x_BCHW[5:], labels[5:])]) == pytest.approx(whole, rel=1e-5)
