"""Elastic operations and the nets made of them: which weights an architecture uses, and how."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from search_spaces import FAMILIES, NETWORK_INPUT, Layer, SpaceError, network
from supernets.calibrate import resolution
from supernets.elastic import ElasticBatchNorm2d, ElasticConv2d, ElasticLinear
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

NAN = float("nan")


def conv_layer(out: int, into: int, kernel: int, stride: int = 1, groups: int = 1, size: int = 9) -> Layer:
    shape = (out, -(-size // stride), -(-size // stride))
    return Layer("conv", "conv", (NETWORK_INPUT,), (into, size, size), shape, kernel, stride, groups)


def stirred_conv(out: int = 6, into: int = 4, kernels: tuple[int, ...] = (3, 5, 7), bias: bool = False):
    conv = ElasticConv2d(out, into, kernels, bias=bias)
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
    return conv


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_keeps_the_contract(family):
    check_supernet(stirred(small_space(family)))


@pytest.mark.parametrize("family", FAMILIES)
def test_it_keeps_the_contract_with_early_exits(family):
    net = stirred(small_space(family, exits=["s1"]))
    check_supernet(net, samples=0)
    plain = Supernet(small_space(family), seed=3).state_dict()
    drawn = Supernet(net.space, seed=3).state_dict()
    assert all(torch.equal(drawn[name], tensor) for name, tensor in plain.items()), (
        "exits change what others begin with"
    )
    assert all(name.startswith("exit.s1.") for name in drawn.keys() - plain.keys())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_net_held_channels_last_keeps_the_contract(family):
    check_supernet(stirred(small_space(family)).to(memory_format=torch.channels_last), samples=1)


# Kernels


def test_a_smaller_kernel_is_the_centre_of_the_larger_one_times_a_matrix():
    conv = stirred_conv()
    weight, _ = conv.sliced(conv_layer(6, 4, kernel=5))
    matrix = conv.transforms["7to5"]
    for o, i in np.ndindex(6, 4):
        centre = conv.weight[o, i, 1:6, 1:6].reshape(25)
        by_hand = torch.stack([sum(matrix[p, q] * centre[q] for q in range(25)) for p in range(25)])
        torch.testing.assert_close(weight[o, i].reshape(25), by_hand)


def test_the_smallest_kernel_goes_through_every_size_above_it():
    conv = stirred_conv()
    weight, _ = conv.sliced(conv_layer(6, 4, kernel=3))
    five = torch.einsum("pq,oiq->oip", conv.transforms["7to5"], conv.weight[:, :, 1:6, 1:6].flatten(2)).unflatten(
        2, (5, 5)
    )
    three = torch.einsum("pq,oiq->oip", conv.transforms["5to3"], five[:, :, 1:4, 1:4].flatten(2)).unflatten(2, (3, 3))
    torch.testing.assert_close(weight, three)


def test_before_training_a_smaller_kernel_is_the_centre_itself():
    conv = ElasticConv2d(4, 2, (3, 7), bias=False)
    torch.nn.init.normal_(conv.weight)
    torch.testing.assert_close(conv.sliced(conv_layer(4, 2, kernel=3))[0], conv.weight[:, :, 2:5, 2:5])


def test_the_largest_kernel_is_the_weight_itself():
    conv = stirred_conv()
    weight, _ = conv.sliced(conv_layer(6, 4, kernel=7))
    assert weight.data_ptr() == conv.weight.data_ptr()
    assert torch.equal(weight, conv.weight)


def test_a_small_kernel_teaches_the_matrices_above_it_and_no_others():
    conv = stirred_conv(kernels=(1, 3, 5, 7))
    conv(torch.randn(2, 4, 9, 9), conv_layer(6, 4, kernel=3)).sum().backward()
    assert {name for name, matrix in conv.transforms.items() if matrix.grad is not None} == {"7to5", "5to3"}


# Widths


@pytest.mark.parametrize(("out", "into", "stride"), [(6, 4, 1), (3, 4, 2), (2, 1, 1), (5, 3, 2)])
def test_a_narrower_convolution_takes_the_first_channels(out, into, stride):
    conv = stirred_conv(bias=True)
    x = torch.randn(2, into, 9, 9)
    wanted = F.conv2d(x, conv.weight[:out, :into], conv.bias[:out], stride=stride, padding=3)
    assert torch.equal(conv(x, conv_layer(out, into, 7, stride)), wanted)


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_the_memory_format_of_the_weight_changes_no_number(kernel):
    conv = stirred_conv()
    wanted, _ = conv.sliced(conv_layer(4, 3, kernel))
    found, _ = conv.to(memory_format=torch.channels_last).sliced(conv_layer(4, 3, kernel))
    assert torch.equal(found, wanted)


def test_a_narrower_depthwise_convolution_takes_the_first_filters():
    conv = stirred_conv(into=1)
    x = torch.randn(2, 4, 9, 9)
    wanted = torch.cat([F.conv2d(x[:, c : c + 1], conv.weight[c : c + 1], padding=3) for c in range(4)], dim=1)
    torch.testing.assert_close(conv(x, conv_layer(4, 4, 7, groups=4)), wanted, rtol=1e-4, atol=1e-4)


def test_batch_norm_takes_the_first_channels_and_changes_no_others():
    norm = ElasticBatchNorm2d(6)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = 3 + 2 * torch.randn(8, 4, 5, 5)
    mean, var = norm.running(4)
    y = norm(x, mean, var, batch=True, momentum=1.0)
    by_hand = (x - x.mean((0, 2, 3), keepdim=True)) / torch.sqrt(
        x.var((0, 2, 3), keepdim=True, correction=0) + norm.eps
    )
    torch.testing.assert_close(y, by_hand * norm.weight[:4].view(-1, 1, 1) + norm.bias[:4].view(-1, 1, 1))
    torch.testing.assert_close(norm.running_mean, torch.cat([x.mean((0, 2, 3)), torch.zeros(2)]))
    torch.testing.assert_close(norm.running_var, torch.cat([x.var((0, 2, 3), correction=1), torch.ones(2)]))


def test_a_linear_layer_takes_the_first_features():
    linear = ElasticLinear(5, 8)
    torch.nn.init.normal_(linear.weight)
    torch.nn.init.normal_(linear.bias)
    x = torch.randn(3, 6, 1, 1)
    layer = Layer("classifier", "linear", (NETWORK_INPUT,), (6, 1, 1), (5, 1, 1), bias=True)
    assert torch.equal(linear(x, layer), F.linear(x[:, :, 0, 0], linear.weight[:, :6], linear.bias))


# Whole nets


def keep_only(net: Supernet, arch) -> Supernet:
    """A copy in which everything that the architecture should not touch is not a number."""
    poisoned, kept = copy.deepcopy(net), copy.deepcopy(net)
    with torch.no_grad():
        for tensor in poisoned.state_dict().values():
            tensor.fill_(NAN)
        for layer in network(net.space, arch):
            if not layer.weight_shape:
                continue
            target, source = poisoned.get_submodule(layer.name), kept.get_submodule(layer.name)
            out, into = layer.weight_shape[:2]
            span = slice(None)
            if layer.op == "conv" and layer.kernel < source.kernels[0]:
                # All that any smaller kernel sees of the largest one is the centre that the first transform reads.
                edge = (source.kernels[0] - source.kernels[1]) // 2
                span = slice(edge, -edge)
                for name, matrix in source.transforms.items():
                    if int(name.partition("to")[2]) >= layer.kernel:
                        target.transforms[name].copy_(matrix)
            part = (slice(out), slice(into), span, span) if layer.op == "conv" else (slice(out), slice(into))
            target.weight[part] = source.weight[part]
            if layer.bias:
                target.bias[:out] = source.bias[:out]
            if layer.norm:
                norm, wanted = poisoned.norm(layer), kept.norm(layer)
                for name in ("weight", "bias", "running_mean", "running_var"):
                    getattr(norm, name)[:out] = getattr(wanted, name)[:out]
    return poisoned


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_outside_an_archs_slice_do_not_reach_its_output(family):
    net = stirred(small_space(family))
    for arch in archs_of(net.space, 6, seed=3):
        x = images(net.space, arch)
        assert torch.equal(logits(keep_only(net, arch), x, arch), logits(net, x, arch))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_inside_an_archs_slice_reaches_its_output(family):
    net = stirred(small_space(family))
    arch = archs_of(net.space, 1, seed=4)[-1]
    own = keep_only(net, arch)
    net.train()(images(net.space, arch, batch=8), arch).square().sum().backward()
    for (name, parameter), mask in zip(net.named_parameters(), own.parameters(), strict=True):
        if not mask.isfinite().any():
            assert parameter.grad is None, name
            continue
        assert (parameter.grad[mask.isnan()] == 0).all(), name
        # Of relu networks a few filters are dead on a few images.
        assert (parameter.grad[mask.isfinite()] != 0).float().mean() > 0.2, name


@pytest.mark.parametrize("family", FAMILIES)
def test_training_an_arch_moves_the_statistics_of_its_own_channels_only(family):
    net = stirred(small_space(family))
    before = copy.deepcopy(net)
    arch = net.space.smallest()
    mine = keep_only(net, arch)
    logits(net.train(), images(net.space, arch, batch=8), arch)
    for (name, buffer), was, mask in zip(net.named_buffers(), before.buffers(), mine.buffers(), strict=True):
        assert torch.equal(buffer[mask.isnan()], was[mask.isnan()]), name
        assert (buffer[mask.isfinite()] != was[mask.isfinite()]).all(), name


def change(arch, space, **values):
    """The same architecture but for these kinds of choices, all of them at one value."""
    everything = {choice.name: choice.values[-1] for choice in space.choices} | arch.values
    return space.arch({name: values.get(name.rpartition(".")[2], value) for name, value in everything.items()})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lesser_depth_drops_whole_blocks_and_keeps_the_others(family):
    space = small_space(family)
    net = stirred(space)
    deep = space.largest()
    shallow = change(deep, space, depth=1)
    blocks = {layer.name.rpartition(".b1.")[0] for layer in network(space, deep) if ".b1." in layer.name}
    assert blocks == {f"s{stage}" for stage in range(1, len(blocks) + 1)}
    deep_names = [layer.name for layer in network(space, deep)]
    assert [layer.name for layer in network(space, shallow)] == [name for name in deep_names if ".b1." not in name]
    x = images(space, deep)
    wanted = logits(net, x, shallow)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if ".b1." in name:
                parameter.fill_(NAN)
    assert torch.equal(logits(net, x, shallow), wanted)
    assert logits(net, x, deep).isnan().any()


@pytest.mark.parametrize("family", FAMILIES)
def test_another_resolution_runs_the_same_weights_over_another_size(family):
    space = small_space(family)
    net = stirred(space)
    low, high = (change(space.largest(), space, resolution=size) for size in space.settings["resolutions"])
    assert (resolution(low), resolution(high)) == tuple(space.settings["resolutions"])
    assert logits(net, images(space, low), low).shape == logits(net, images(space, high), high).shape
    for small, large in zip(network(space, low), network(space, high), strict=True):
        assert small.weight_shape == large.weight_shape
        if small.weight_shape:
            assert torch.equal(net.weights(small)[0], net.weights(large)[0])
    assert network(space, low)[0].in_shape[1:] == (resolution(low),) * 2


@pytest.mark.parametrize("family", FAMILIES)
def test_statistics_that_are_given_are_used_and_not_kept(family):
    net = stirred(small_space(family))
    arch = net.space.smallest()
    x = images(net.space, arch)
    first, second = (random_stats(net.space, arch, seed) for seed in (5, 6))
    kept = copy.deepcopy(first)
    outputs = [logits(net, x, arch, stats) for stats in (None, first, second, first, None)]
    assert torch.equal(outputs[0], outputs[4])
    assert torch.equal(outputs[1], outputs[3])
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert not torch.equal(outputs[a], outputs[b])
    for name, pair in kept.items():
        assert all(map(torch.equal, pair, first[name]))


@pytest.mark.parametrize("family", FAMILIES)
def test_training_mode_normalises_by_the_batch_even_where_statistics_are_given(family):
    net = stirred(small_space(family)).train()
    arch = net.space.smallest()
    x = images(net.space, arch, batch=8)
    given, kept = (random_stats(net.space, arch, 5) for _ in range(2))
    with_stats, without = copy.deepcopy(net), copy.deepcopy(net)
    assert torch.equal(logits(with_stats, x, arch, given), logits(without, x, arch))
    assert all(torch.equal(a, b) for a, b in zip(with_stats.buffers(), without.buffers(), strict=True))
    for name, pair in kept.items():
        assert all(map(torch.equal, pair, given[name]))
    alone, together = logits(copy.deepcopy(net), x[:4], arch), logits(copy.deepcopy(net), x, arch)[:4]
    assert not torch.allclose(alone, together)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_seed_decides_the_weights(family):
    space = small_space(family)
    weights = [Supernet(space, seed).state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    assert any(not torch.equal(tensor, weights[2][name]) for name, tensor in weights[0].items())


@pytest.mark.parametrize("family", FAMILIES)
def test_making_a_net_leaves_torchs_own_generator_alone(family):
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    Supernet(small_space(family))
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize("family", FAMILIES)
def test_signals_neither_vanish_nor_explode_in_a_new_net(family):
    space = small_space(family)
    net = Supernet(space).train()
    for arch in (space.smallest(), space.largest()):
        deviation = logits(net, images(space, arch, batch=16), arch).std().item()
        assert 0.05 < deviation < 20


def test_an_arch_of_another_space_is_refused():
    net = stirred(small_space("tiny"))
    other = small_space("tiny", num_classes=3)
    with pytest.raises(SpaceError, match=f"belongs to space {other.id}, not to {net.space.id}"):
        net(images(other, other.largest()), other.largest())
