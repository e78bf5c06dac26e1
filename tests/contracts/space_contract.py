"""What every family's spaces keep, whatever they build: one suite for all of them."""

import json
from collections import Counter
from math import prod

import numpy as np

from search_spaces import (
    COSTS,
    NETWORK_INPUT,
    Arch,
    Layer,
    Space,
    arch_cost,
    costs,
    crossover,
    exits,
    mutate,
    network,
    slot_sizes,
    slots,
    with_exits,
)
from search_spaces.precision import PRECISIONS

SAMPLES = 24


def check_space(space: Space) -> None:
    """Every law that the rest of the system relies on, for one space."""
    rng = np.random.default_rng(0)
    codes = space.sample(rng, SAMPLES)
    archs = [space.smallest(), space.largest(), *space.decode(codes)]
    check_encoding(space, archs)
    check_evolution(space, rng)
    check_choices(space)
    for arch in archs:
        check_network(space, network(space, arch))
        check_exits(space, arch)
    check_costs(space, archs)


def check_encoding(space: Space, archs: list[Arch]) -> None:
    codes = space.encode(archs)
    assert space.decode(codes) == archs
    np.testing.assert_array_equal(space.canonical(codes), codes)
    assert len({arch.id for arch in archs}) == len(set(archs)) == len({network(space, arch) for arch in archs})
    assert Space.from_json(json.loads(json.dumps(space.to_json()))) == space
    for arch in archs:
        assert space.arch_from_json(json.loads(json.dumps(arch.to_json()))) == arch
    assert 1 <= space.size <= prod(map(int, space.cardinalities))


def check_evolution(space: Space, rng: np.random.Generator) -> None:
    mothers, fathers = space.sample(rng, SAMPLES), space.sample(rng, SAMPLES)
    for codes in (mutate(space, mothers, rng), crossover(space, mothers, fathers, rng)):
        np.testing.assert_array_equal(space.canonical(codes), codes)


def check_choices(space: Space) -> None:
    """Each choice decides something: some slot reads it, and its values are ordered from cheap to dear."""
    read = {name for slot in slots(space) for name in slot.choices}
    assert read == set(space.columns)
    assert len(slot_sizes(space)) == len(slots(space))
    names = [slot.name for slot in slots(space)]
    assert len(set(names)) == len(names)
    for choice in space.choices:
        rank = PRECISIONS.index if choice.kind == "precision" else float
        assert list(choice.values) == sorted(choice.values, key=rank), choice.name


def check_network(space: Space, layers: tuple[Layer, ...]) -> None:
    """Names are unique, shapes chain, nothing is dead, and the end has one number a class."""
    shapes = {NETWORK_INPUT: layers[0].in_shape}
    uses: Counter[str] = Counter()
    for layer in layers:
        assert layer.name not in shapes, f"{layer.name} is there twice"
        assert layer.inputs, layer
        for name in layer.inputs:
            assert name in shapes, f"{layer.name} reads {name}, which is not before it"
        assert layer.in_shape == shapes[layer.inputs[0]], layer
        assert layer.out_shape == expected_shape(layer), layer
        for name in layer.inputs[1:]:
            second = (layer.in_shape[0], 1, 1) if layer.op == "mul" else layer.in_shape
            assert shapes[name] == second, layer
        uses.update(layer.inputs)
        shapes[layer.name] = layer.out_shape
    assert all(uses[layer.name] for layer in layers[:-1])
    assert layers[0].in_shape[0] == space.settings["in_channels"]
    assert layers[-1].out_shape == (space.settings["num_classes"], 1, 1)


def check_exits(space: Space, arch: Arch) -> None:
    """Each reads what its stage puts out, all fit together, and the network is the same without."""
    layers, found = with_exits(space, arch), exits(space, arch)
    wanted = space.settings.get("exits", [])
    assert [each.stage for each in found] == wanted
    own = {layer for each in found for layer in each.layers}
    assert tuple(layer for layer in layers if layer not in own) == network(space, arch)
    shapes = {NETWORK_INPUT: layers[0].in_shape}
    for layer in layers:
        assert layer.name not in shapes
        assert layer.in_shape == shapes[layer.inputs[0]]
        assert layer.out_shape == expected_shape(layer)
        shapes[layer.name] = layer.out_shape
    for each in found:
        stage = [layer.name for layer in network(space, arch) if layer.name.startswith(f"{each.stage}.")]
        assert each.layers[0].inputs == (each.reads,) == (stage[-1],)
        assert shapes[each.output] == (space.settings["num_classes"], 1, 1)


def expected_shape(layer: Layer) -> tuple[int, int, int]:
    """The output shape, worked out from the operation alone."""
    channels, height, width = layer.in_shape
    if layer.op == "conv":
        assert channels % layer.groups == layer.out_shape[0] % layer.groups == 0
        return (layer.out_shape[0], -(-height // layer.stride), -(-width // layer.stride))
    if layer.op == "linear":
        assert (height, width) == (1, 1)
        return (layer.out_shape[0], 1, 1)
    if layer.op in ("max_pool", "avg_pool"):
        return (channels, -(-height // layer.stride), -(-width // layer.stride))
    return (channels, 1, 1) if layer.op == "global_pool" else layer.in_shape


def check_costs(space: Space, archs: list[Arch]) -> None:
    codes = space.encode(archs)
    for metric in COSTS:
        found = costs(space, codes, metric)
        assert found.tolist() == [getattr(arch_cost(space, arch), metric) for arch in archs]
        assert (found > 0).all()
        assert found[0] == found.min(), f"the first values are not the cheapest in {metric}"
        assert found[1] == found.max(), f"the last values are not the dearest in {metric}"
