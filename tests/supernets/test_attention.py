"""Attention over shared weights: what it computes, and which part of it fewer heads take."""

import math

import pytest
import torch
from torch import Tensor

from search_spaces import Arch, Layer, network
from supernets.extract import extract
from supernets.proxies import synflow, untrained
from supernets.supernet import FUNCTIONS
from tests.contracts.supernet_contract import images, logits, small_space, stirred


def attention_layer(heads: int, channels: int = 12, size: int = 4) -> Layer:
    shape = (channels, size, size)
    return Layer("mix", "attention", ("q", "k", "v"), shape, shape, groups=heads)


def drawn(channels: int = 12, size: int = 4) -> list[Tensor]:
    """Queries, keys and values of two images."""
    generator = torch.Generator().manual_seed(channels)
    return [torch.randn(2, channels, size, size, generator=generator) for _ in range(3)]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("heads", [1, 2, 3])
def test_each_head_mixes_its_values_by_how_keys_fit_queries(heads, memory_format):
    q, k, v = (x.contiguous(memory_format=memory_format) for x in drawn())
    mixed = FUNCTIONS["attention"](attention_layer(heads), q, k, v)
    wanted = torch.zeros_like(v)
    size = 12 // heads
    for image in range(2):
        for start in range(0, 12, size):
            part = slice(start, start + size)
            queries, keys, values = (x[image, part].flatten(1) for x in (q, k, v))
            shares = torch.softmax(queries.T @ keys / math.sqrt(size), dim=1)
            wanted[image, part] = (values @ shares.T).unflatten(1, (4, 4))
    torch.testing.assert_close(mixed, wanted)


def test_keys_that_are_all_alike_give_the_mean_of_the_values():
    q, k, v = drawn()
    mixed = FUNCTIONS["attention"](attention_layer(3), q, torch.ones_like(k), v)
    torch.testing.assert_close(mixed, v.mean((2, 3), keepdim=True).expand_as(v))


def test_moving_all_pixels_moves_what_they_attend_to():
    """Attention alone knows no places."""
    q, k, v = drawn()
    rolled = FUNCTIONS["attention"](attention_layer(2), *(x.roll((1, 2), (2, 3)) for x in (q, k, v)))
    torch.testing.assert_close(rolled, FUNCTIONS["attention"](attention_layer(2), q, k, v).roll((1, 2), (2, 3)))


def with_heads(arch: Arch, space, heads: int) -> Arch:
    return space.arch({name: heads if name.endswith(".heads") else value for name, value in arch.items})


def test_fewer_heads_are_the_first_ones_of_the_shared_weights():
    """A block of which only the first head still says something computes what the block of one head does."""
    space = small_space("hybrid", depths=[1], resolutions=[16])
    net = stirred(space)
    few, many = (with_heads(space.largest(), space, heads) for heads in (1, 2))
    x = images(space, many)
    assert not torch.allclose(logits(net, x, few), logits(net, x, many))
    with torch.no_grad():
        net.get_parameter("s2.b0.attention.project.weight")[:, 8:] = 0
    torch.testing.assert_close(logits(net, x, few), logits(net, x, many), rtol=1e-4, atol=1e-5)


def test_an_extracted_network_attends_at_any_size():
    """The size of its images is not written into the module."""
    space = small_space("hybrid", resolutions=[16, 20])
    net = stirred(space)
    small, large = (space.arch({**space.largest().values, "resolution": size}) for size in (16, 20))
    x = images(space, large)
    assert torch.equal(logits(extract(net, small), x), logits(net, x, large))


def test_synflow_goes_through_attention_as_through_a_mean():
    """What queries and keys weigh says nothing about the flow."""
    space = small_space("hybrid")
    arch = space.largest()
    candidate = untrained(space, arch, images(space, arch, 4), torch.zeros(4, dtype=torch.long), seed=0)
    wanted = synflow(candidate)
    attending = {name for layer in network(space, arch) if layer.op == "attention" for name in layer.inputs[:2]}
    with torch.no_grad():
        for name in attending:
            candidate.net.get_parameter(f"{name}.weight").mul_(-3.0)
    assert synflow(candidate) == pytest.approx(wanted, rel=1e-12)
    with torch.no_grad():
        candidate.net.get_parameter("s2.b0.attention.v.weight").mul_(-3.0)
    assert synflow(candidate) > wanted
