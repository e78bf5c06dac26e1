"""Which parts of a network one convolution could take the place of, and the network that has it."""

from dataclasses import replace

import numpy as np
import pytest

from search_spaces import FAMILIES, SpaceError, define_space, fixed_space, network, network_by_slot
from search_spaces.mergers import KERNEL, convolutions, merged, mergers, without_overlap
from tests.contracts.space_contract import check_network
from tests.contracts.supernet_contract import SMALL
from tests.search_spaces.spaces import families

NEVER = {"attention", "linear", "max_pool"}


def parts(layers):
    """By what they take the place of, the kernels that mergers have."""
    found = {}
    for merger in mergers(layers):
        names = tuple(layer.name for layer in layers[merger.start : merger.end])
        found.setdefault(names, []).append(merger.conv.kernel)
    return found


def tiny(**settings):
    space = define_space(
        "tiny",
        **{
            "resolutions": [16],
            "channels": [16, 32],
            "strides": [1, 2],
            "depths": [2],
            "widths": [1.0],
            "expands": [1.0],
        }
        | settings,
    )
    return network(space, space.largest())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_merger_leaves_a_network_that_fits_together(family):
    space = define_space(family, **SMALL[family])
    rng = np.random.default_rng(2)
    for arch in (space.smallest(), space.largest(), *space.decode(space.sample(rng, 2))):
        layers, by_slot = network(space, arch), network_by_slot(space, arch)
        found = mergers(layers)
        for merger in found[::9]:
            part = layers[merger.start : merger.end]
            own = fixed_space(merged(by_slot, [merger]))
            after = network(own, own.largest())
            check_network(own, after)
            assert len(after) == len(layers) - len(part) + 1
            assert convolutions(after) == convolutions(layers) - convolutions(part) + 1 < convolutions(layers)
            assert not NEVER & {layer.op for layer in part}
            assert merger.conv.kernel <= KERNEL
            outside = [layer for layer in layers if layer not in part]
            inner = {layer.name for layer in part[:-1]}
            assert not any(name in inner for layer in outside for name in layer.inputs)
        assert found or family == "hybrid"


def test_a_sum_belongs_to_a_part_that_holds_both_of_its_terms():
    names = [set(names) for names in parts(tiny())]
    assert {"s1.b1.conv1", "s1.b1.act1", "s1.b1.conv2"} in names
    assert {"s1.b1.conv1", "s1.b1.act1", "s1.b1.conv2", "s1.b1.add"} in names
    for part in names:
        if "s2.b0.add" in part:
            assert {"s2.b0.conv2", "s2.b0.shortcut"} <= part
        if "s1.b1.add" in part:
            assert "s1.b1.conv1" in part
        assert not any(name.endswith("act2") for name in part) or len({name.rpartition(".")[0] for name in part}) > 1


def test_a_kernel_is_as_large_as_the_window_of_its_part_or_smaller():
    found = parts(tiny(kernels=[3]))
    assert found["s1.b1.conv1", "s1.b1.act1", "s1.b1.conv2"] == [1, 3, 5]  # 3 + 1 (3 - 1)
    assert found["s2.b0.conv1", "s2.b0.act1", "s2.b0.conv2"] == [3, 5, 7]  # 3 + 2 (3 - 1), stride 2: none of 1
    assert found["s1.b0.conv1", "s1.b0.act1", "s1.b0.conv2"] == [1, 3, 5]


def test_a_gate_is_merged_with_the_convolutions_around_it():
    space = define_space("mobilenet_v3", **SMALL["mobilenet_v3"])
    found = parts(network(space, space.largest()))
    assert any(any("se.mul" in name for name in part) and any("se.pool" in name for name in part) for part in found)


def test_parts_of_two_mergers_have_no_layer_in_common():
    space = families()["tiny"]
    found = mergers(network(space, space.largest()))
    first, other = found[0], next(each for each in found if each.start >= found[0].end)
    assert without_overlap([other, first]) == (first, other)
    with pytest.raises(ValueError, match="share layers"):
        without_overlap([first, first])
    own = fixed_space(merged(network_by_slot(space, space.largest()), [other, first]))
    check_network(own, network(own, own.largest()))


def test_a_part_that_spans_slots_belongs_to_the_one_in_which_it_began():
    space = families()["tiny"]
    layers, by_slot = network(space, space.largest()), network_by_slot(space, space.largest())
    spanning = next(each for each in mergers(layers) if each.last == "s2.b0.add" and each.conv.name.startswith("s1.b1"))
    after = merged(by_slot, [spanning])
    assert [layer.name for layer in after["s1.b1"]] == ["s1.b1.conv1_merged"]
    assert [layer.name for layer in after["s2.b0"]] == ["s2.b0.act2"]


def test_a_slot_with_two_epsilons_cannot_be_spelled_out():
    space = families()["mobilenet_v3"]
    by_slot = network_by_slot(space, space.largest())
    changed = replace(by_slot["stem"][0], norm_eps=0.1)
    with pytest.raises(SpaceError, match="norms of different epsilon"):
        fixed_space({**by_slot, "stem": (changed, *by_slot["stem"][1:])})
