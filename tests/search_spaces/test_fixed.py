"""A network spelled out layer by layer: the same as that of the space that it was taken from, and strictly read."""

import copy
import json
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import (
    FAMILY_NAMES,
    Space,
    SpaceError,
    arch_cost,
    define_space,
    fixed_space,
    is_family,
    network,
    network_by_slot,
)
from tests.contracts.space_contract import check_network
from tests.search_spaces.spaces import families

SLOTS = [
    {
        "name": "a",
        "norm_eps": 1e-3,
        "layers": [
            ["conv1", "conv", {"out": 8, "kernel": 3, "stride": 2}],
            ["act", "relu"],
            ["conv2", "conv", {"out": 8, "groups": 2, "norm": False, "bias": True}],
            ["add", "add", {"reads": ["conv2", "act"]}],
        ],
    },
    {"name": "b", "norm_eps": 1e-5, "layers": [["pool", "global_pool"], ["out", "linear", {"out": 4}]]},
]


def fixed(slots, **settings):
    return define_space("fixed", **{"num_classes": 4, "resolutions": [9], "slots": slots} | settings)


@pytest.mark.parametrize("name", [name for name, space in families().items() if "precisions" not in space.settings])
def test_a_network_spelled_out_is_the_network_itself(name):
    space = families()[name]
    for arch in (space.smallest(), space.largest(), *space.decode(space.sample(np.random.default_rng(4), 4))):
        found = fixed_space(network_by_slot(space, arch))
        again = Space.from_json(json.loads(json.dumps(found.to_json())))
        assert again == found
        assert again.size == 1
        assert network(again, again.largest()) == network(space, arch)
        assert arch_cost(found, found.largest()) == arch_cost(space, arch)
        check_network(again, network(again, again.largest()))


def test_what_is_left_out_has_its_default_and_shapes_follow():
    layers = network(fixed(SLOTS), fixed(SLOTS).largest())
    assert [(layer.name, layer.inputs, layer.out_shape) for layer in layers] == [
        ("a.conv1", ("input",), (8, 5, 5)),
        ("a.act", ("a.conv1",), (8, 5, 5)),
        ("a.conv2", ("a.act",), (8, 5, 5)),
        ("a.add", ("a.conv2", "a.act"), (8, 5, 5)),
        ("b.pool", ("a.add",), (8, 1, 1)),
        ("b.out", ("b.pool",), (4, 1, 1)),
    ]
    assert (layers[0].norm, layers[0].norm_eps, layers[2].norm, layers[2].bias) == (True, 1e-3, False, True)


def test_no_job_searches_a_space_of_one_network():
    assert not is_family("fixed")
    assert "fixed" not in FAMILY_NAMES


def test_it_may_compute_in_integers():
    space = fixed(SLOTS, precisions=["int8", "fp32"])
    assert {layer.precision for layer in network(space, space.smallest())} == {"int8"}


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ((), None, "slots must be a list"),
        ((), [], "slots must be a list"),
        ((0,), [], "slot 0 must be an object"),
        ((0, "name"), "a b", "slot 0: a name is letters"),
        ((0, "name"), "b", "two slots are named 'b'"),
        ((0, "norm_eps"), 0, "norm_eps must be a number"),
        ((0, "layers"), {}, "layers must be a list"),
        ((0, "layers", 0), ["conv1"], r"must be \[name, operation\]"),
        ((0, "layers", 0), ["conv1", "conv", 3], r"must be \[name, operation\]"),
        ((0, "layers", 0, 0), 3, "a name is letters"),
        ((0, "layers", 0, 1), "convolution", "operation must be one of conv,"),
        ((0, "layers", 0, 1), [], "operation must be one of conv,"),
        ((0, "layers", 0, 2, "out"), True, "out must be a whole number"),
        ((0, "layers", 0, 2), {}, "out must be a whole number"),
        ((0, "layers", 0, 2, "kernel"), 2, "kernel must be odd"),
        ((0, "layers", 0, 2, "dilation"), 2, "takes no option 'dilation'"),
        ((0, "layers", 2, 2, "groups"), 3, "do not split into 3 groups"),
        ((0, "layers", 2, 2, "norm"), 1, "norm must be true or false"),
        ((1, "layers", 0, 0), "out", "two layers are named 'b.out'"),
        ((0, "layers", 3, 2, "reads"), ["conv2"], "reads must name 2 of the layers"),
        ((0, "layers", 3, 2, "reads"), ["conv2", ""], "reads two of one shape"),
        ((0, "layers", 3, 2, "reads"), ["conv2", "pool"], "reads must name 2 of the layers"),
        ((0, "layers", 3, 2, "reads"), ["conv2", {}], "reads must name 2 of the layers"),
        ((0, "layers", 3, 1), "mul", "multiplies"),
        ((1, "layers", 0, 1), "relu", "reads a pooled activation"),
        ((1, "layers", 1, 2, "out"), 5, "must put out one value a class"),
    ],
)
def test_a_network_that_cannot_be_is_refused_in_one_line(path, value, said):
    document = {"slots": copy.deepcopy(SLOTS)}
    place = document
    *way, leaf = ("slots", *path)
    for part in way:
        place = place[part]
    place[leaf] = value
    with pytest.raises(SpaceError, match=said) as caught:
        fixed(document["slots"])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 9)
    | st.floats(allow_nan=False)
    | st.sampled_from(["a", "conv", "", "act"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["out", "kernel", "reads"]), inner),
    max_leaves=4,
)
PLACES = [(0,), (0, "name"), (0, "norm_eps"), (0, "layers"), (1, "layers", 1), (1, "layers", 1, 1), (0, "layers", 0, 2)]


@given(st.sampled_from(PLACES), JSON)
def test_whatever_stands_in_a_network_is_read_or_refused(path, value):
    slots = copy.deepcopy(SLOTS)
    place = slots
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    with suppress(SpaceError):
        space = fixed(slots)
        check_network(space, network(space, space.largest()))


def test_more_than_one_size_is_refused():
    with pytest.raises(SpaceError, match="resolutions must list one whole number"):
        fixed(SLOTS, resolutions=[8, 9])
