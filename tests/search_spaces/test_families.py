"""What the families build: networks, slots and their costs."""

import numpy as np
import pytest

from search_spaces import (
    FAMILIES,
    Choice,
    Space,
    SpaceError,
    arch_cost,
    costs,
    define_space,
    network,
    slot_configs,
    slot_index,
    slot_sizes,
    slots,
)
from tests.contracts.space_contract import check_space
from tests.search_spaces.spaces import ENUMERABLE, all_codes, enumerable, families


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_keeps_the_contract(family):
    check_space(define_space(family))


@pytest.mark.parametrize("name", families())
def test_spaces_far_from_the_defaults_keep_the_contract(name):
    check_space(families()[name])


@pytest.mark.parametrize("name", ENUMERABLE)
def test_every_arch_of_a_small_space_builds_its_own_network(name):
    space = enumerable(name)
    archs = space.decode(all_codes(space))
    assert len({network(space, arch) for arch in archs}) == len(set(archs)) == space.size


@pytest.mark.parametrize("name", families())
def test_archs_are_equal_exactly_when_their_networks_are(name):
    space = families()[name]
    rng = np.random.default_rng(5)
    raw = rng.integers(0, space.cardinalities, size=(150, len(space.choices))).astype(np.int16)
    # The same rows with other values where nothing is active: other codes, the same networks.
    noise = rng.integers(0, space.cardinalities, size=raw.shape).astype(np.int16)
    archs = space.decode(np.concatenate([raw, np.where(space.active(raw), raw, noise)]))
    networks = {arch: network(space, arch) for arch in archs}
    assert len(set(networks.values())) == len(networks) == len(np.unique(space.canonical(raw), axis=0))
    assert archs[:150] == archs[150:]


def test_the_largest_mobilenet_v3_costs_what_is_published():
    # The OFA paper's repository gives 7.66 M parameters for the full network of width 1.0.
    space = define_space("mobilenet_v3")
    cost = arch_cost(space, space.largest())
    assert cost.macs == 566_170_656
    assert cost.params == 7_664_760


@pytest.mark.parametrize("family", FAMILIES)
def test_a_hundred_thousand_architectures_are_costed_at_once(family):
    space = define_space(family)
    codes = space.sample(np.random.default_rng(0), 100_000)
    macs = costs(space, codes, "macs")
    assert macs.shape == (100_000,)
    assert macs.dtype == np.int64
    for row in (0, 50_000, 99_999):
        assert macs[row] == arch_cost(space, space.decode(codes[row : row + 1])[0]).macs
    low, high = arch_cost(space, space.smallest()).macs, arch_cost(space, space.largest()).macs
    assert low <= macs.min() < macs.max() <= high


@pytest.mark.parametrize("name", families())
def test_a_slot_index_finds_the_configuration_of_each_row(name):
    space = families()[name]
    codes = space.sample(np.random.default_rng(1), 30)
    for slot, size in zip(slots(space), slot_sizes(space), strict=True):
        configs = list(slot_configs(space, slot))
        assert len(configs) == size
        for row, index in zip(codes, slot_index(space, slot, codes), strict=True):
            wanted = {n: space.choices[space.columns[n]].values[row[space.columns[n]]] for n in slot.choices}
            assert configs[index] == wanted


def test_an_arch_of_another_space_builds_nothing():
    tiny, mobilenet = define_space("tiny"), define_space("mobilenet_v3")
    with pytest.raises(SpaceError, match=f"belongs to space {tiny.id}, not to {mobilenet.id}"):
        network(mobilenet, tiny.largest())


def test_a_space_file_of_a_family_that_is_not_here_builds_nothing():
    space = Space("vision_transformer", {}, (Choice("depth", (1, 2)),))
    with pytest.raises(SpaceError, match="unknown family 'vision_transformer'; known are tiny, mobilenet_v3"):
        network(space, space.smallest())


def test_a_space_file_that_lacks_a_choice_of_its_family_builds_nothing():
    tiny = define_space("tiny")
    space = Space("tiny", tiny.settings, tuple(choice for choice in tiny.choices if choice.name != "s2.width"))
    with pytest.raises(SpaceError, match=r"the space has no choice 's2.width', which family tiny needs"):
        network(space, space.smallest())
