"""What architectures cost: laws over populations, and against networks walked by hand."""

from math import prod

import numpy as np
import pytest

from search_spaces import COSTS, NETWORK_INPUT, Layer, Space, arch_cost, costs, network
from search_spaces.cost import peak_activation_bytes
from tests.search_spaces.spaces import ENUMERABLE, all_codes, enumerable, families


def alive_bytes(layers: tuple[Layer, ...]) -> int:
    """The most alive at once, asking of every tensor at every step whether it is there and still read, and by whom."""
    sizes = {NETWORK_INPUT: prod(layers[0].in_shape), **{layer.name: prod(layer.out_shape) for layer in layers}}
    born = {NETWORK_INPUT: -1, **{layer.name: i for i, layer in enumerate(layers)}}
    reads = {name: [i for i, layer in enumerate(layers) if name in layer.inputs] for name in sizes}

    def alive(name: str, now: int) -> int:
        if born[name] == now:
            return layers[now].element_bytes * sizes[name]
        there = born[name] < now <= max(reads[name])
        return layers[reads[name][0]].element_bytes * sizes[name] if there else 0

    return max(
        sum(alive(name, now) for name in sizes)
        + (4 * layer.groups * prod(layer.in_shape[1:]) ** 2 if layer.op == "attention" else 0)
        for now, layer in enumerate(layers)
    )


def fp32_families() -> dict[str, Space]:
    return {name: space for name, space in families().items() if "precisions" not in space.settings}


@pytest.mark.parametrize("name", families())
def test_the_peak_of_a_population_is_what_is_alive_at_once_in_its_networks(name):
    space = families()[name]
    codes = space.sample(np.random.default_rng(0), 60)
    by_hand = [alive_bytes(network(space, arch)) for arch in space.decode(codes)]
    np.testing.assert_array_equal(costs(space, codes, "peak_activation_bytes"), by_hand)


@pytest.mark.parametrize("name", ENUMERABLE)
def test_the_peak_of_every_network_of_a_small_space_is_what_is_alive_at_once(name):
    space = enumerable(name)
    codes = all_codes(space)
    by_hand = [alive_bytes(network(space, arch)) for arch in space.decode(codes)]
    np.testing.assert_array_equal(costs(space, codes, "peak_activation_bytes"), by_hand)


def test_a_shortcut_is_alive_until_it_is_added():
    shape, wide = (2, 4, 4), (6, 4, 4)
    one, three = 4 * prod(shape), 4 * prod(wide)
    layers = (
        Layer("a", "conv", (NETWORK_INPUT,), shape, wide),
        Layer("b", "relu", ("a",), wide, wide),
        Layer("c", "conv", ("b",), wide, shape),
        Layer("d", "add", ("c", NETWORK_INPUT), shape, shape),
    )
    assert peak_activation_bytes(layers) == alive_bytes(layers) == one + 2 * three
    plain = (*layers[:3], Layer("d", "relu", ("c",), shape, shape))
    assert peak_activation_bytes(plain) == 2 * three
    assert peak_activation_bytes(()) == 0


@pytest.mark.parametrize("name", fp32_families())
def test_the_peak_is_between_the_largest_activation_and_all_of_them(name):
    space = families()[name]
    for arch in space.decode(space.sample(np.random.default_rng(1), 20)):
        layers = network(space, arch)
        cost = arch_cost(space, arch)
        largest = max(layer.activation_bytes + layer.scratch_bytes for layer in layers)
        assert largest < cost.peak_activation_bytes < 4 * prod(layers[0].in_shape) + cost.activation_bytes


@pytest.mark.parametrize("name", fp32_families())
def test_a_folded_network_has_one_number_less_a_normalised_channel(name):
    """Scale and shift of a batch norm become one bias."""
    space = families()[name]
    for arch in space.decode(space.sample(np.random.default_rng(1), 20)):
        normalised = sum(layer.out_shape[0] for layer in network(space, arch) if layer.norm)
        cost = arch_cost(space, arch)
        assert cost.weight_bytes == 4 * (cost.params - normalised)


@pytest.mark.parametrize("metric", COSTS)
@pytest.mark.parametrize("name", families())
def test_a_population_costs_what_its_networks_cost(name, metric):
    space = families()[name]
    codes = space.sample(np.random.default_rng(2), 40)
    found = costs(space, codes, metric)
    assert found.dtype == np.int64
    assert found.tolist() == [COSTS[metric].of(network(space, arch)) for arch in space.decode(codes)]
    assert found.tolist() == [getattr(arch_cost(space, arch), metric) for arch in space.decode(codes)]
    assert costs(space, codes[:0], metric).shape == (0,)
