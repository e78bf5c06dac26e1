"""Precision as a choice: the same networks, and what each part of them computes in."""

import numpy as np
import pytest

from search_spaces import (
    Space,
    SpaceError,
    arch_cost,
    define_space,
    float_arch,
    float_codes,
    float_space,
    in_precision,
    network,
    quantised,
)
from tests.search_spaces.spaces import families

BOTH = ["int8", "fp32"]
FAMILIES = ("tiny", "mobilenet_v3", "proxyless", "resnet50", "hybrid")


def precise(family: str = "tiny", per: str = "stage", **settings) -> Space:
    return define_space(family, precisions=BOTH, precision_per=per, **settings)


@pytest.mark.parametrize("per", ["network", "stage", "block"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_architecture_is_the_same_network_as_in_the_space_without_precision(family, per):
    space, plain = precise(family, per), define_space(family)
    assert float_space(space) == plain
    for arch in space.decode(space.sample(np.random.default_rng(0), 10)):
        same = float_arch(space, arch)
        assert plain.arch_from_json(same.to_json()) == same
        assert in_precision(network(space, arch), "fp32") == network(plain, same)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_stage_computes_in_what_its_choice_says(family):
    space = precise(family)
    for arch in space.decode(space.sample(np.random.default_rng(1), 5)):
        for layer in network(space, arch):
            assert layer.precision == arch.values[f"{layer.name.split('.')[0]}.precision"]


def test_a_block_that_is_left_out_has_no_precision():
    space = precise(per="block")
    smallest = space.smallest()
    assert [name for name in smallest.values if name.startswith("s1.") and "precision" in name] == ["s1.b0.precision"]
    assert space.size == sum(
        2 ** (2 + sum(depths)) * ways
        for depths, ways in _ways(define_space("tiny"))
    )  # fmt: skip


def _ways(space: Space) -> list[tuple[tuple[int, ...], int]]:
    """Depths of the stages, and in how many ways `tiny` builds networks of these: widths, expands and kernels a block."""
    blocks = {depth: 3 * 3 * (6 if depth == 2 else 1) for depth in (1, 2)}
    return [
        ((a, b, c), 3 * blocks[a] * blocks[b] * blocks[c])
        for a in (1, 2) for b in (1, 2) for c in (1, 2)
    ]  # fmt: skip


def test_the_ends_of_the_space_are_the_cheapest_and_the_dearest_precision():
    space = precise()
    assert {layer.precision for layer in network(space, space.smallest())} == {"int8"}
    assert not quantised(network(space, space.largest()))
    assert quantised(network(space, space.smallest()))


def test_the_codes_of_a_network_in_fp32_are_those_of_its_float_architecture():
    space = precise(per="block")
    codes = space.sample(np.random.default_rng(2), 20)
    raised = space.decode(float_codes(space, codes))
    for arch, high in zip(space.decode(codes), raised, strict=True):
        assert float_arch(space, arch) == float_arch(space, high)
        assert not quantised(network(space, high))


def test_integers_take_a_quarter_of_the_memory():
    space = precise(per="network")
    low, high = (space.arch({**space.largest().values, "precision": name}) for name in BOTH)
    small, large = arch_cost(space, low), arch_cost(space, high)
    assert (small.macs, small.params) == (large.macs, large.params)
    assert small.activation_bytes == large.activation_bytes / 4
    assert small.peak_activation_bytes == large.peak_activation_bytes / 4
    assert large.weight_bytes / 4 < small.weight_bytes < large.weight_bytes / 3


def test_fp32_alone_is_the_space_as_it_was():
    assert define_space("tiny", precisions=["fp32"], precision_per="block") == define_space("tiny")
    assert all("precisions" in space.settings for name, space in families().items() if "a precision" in name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precisions": ["int4"]}, "precisions must list fp32, and what else of int8, fp32 is wanted"),
        ({"precisions": ["int8"]}, "precisions must list fp32"),
        ({"precisions": ["fp32", "int8"]}, "in this order"),
        ({"precisions": []}, "precisions must list"),
        ({"precisions": "int8"}, "precisions must list"),
        ({"precision_per": "layer"}, "precision_per must be one of network, stage, block"),
    ],
)
def test_settings_of_precision_that_cannot_be_are_refused(settings, message):
    with pytest.raises(SpaceError, match=message):
        define_space("tiny", **settings)
