"""Every operation of the vocabulary is known wherever operations are: costs, supernets, extraction, graphs, features."""

import numpy as np
import pytest
import torch

from latency_tables import Device, Graph
from latency_tables.graphs.graph import BUILDERS, build_model
from latency_tables.graphs.ranges import observed_ranges
from latency_tables.measuring.sessions import load_graph
from latency_tables.predicting.features import CLASSES, FEATURES, layer_class, network_features
from search_spaces import FAMILIES, Choice, Slot, Space, costs, network
from search_spaces.family import Family
from search_spaces.layers import OPS, Stack
from supernets.supernet import FUNCTIONS
from tests.contracts.space_contract import check_network
from tests.contracts.supernet_contract import check_supernet, images, stirred

BATCH = 3


def layers_with(op: str, size: int) -> Stack:
    """A little network that has the operation between two convolutions; its windows are cut off at the edge of odd images."""
    stack = Stack("net", (3, size, size), norm_eps=1e-3)
    first = stack.conv("first", 8, kernel=3)
    if op == "linear":
        stack.pool("before")
    elif op in ("max_pool", "avg_pool"):
        stack.window_pool("op", op, kernel=3 if op == "max_pool" else 2, stride=2)
    elif op == "global_pool":
        stack.pool("op")
    elif op == "add":
        stack.binary("op", op, stack.conv("second", 8, source=first), first)
    elif op == "mul":
        stack.pool("pool")
        stack.binary("op", op, first, stack.unary("gate", "hsigmoid"))
    elif op == "attention":
        parts = [stack.conv(part, 8, source=first) for part in "qkv"]
        stack.attention("op", *parts, heads=2)
    elif op == "conv":
        stack.conv("op", 8, kernel=5, groups=8)
    else:
        stack.unary("op", op)
    if op != "linear":
        stack.conv("last", 8)
        stack.pool("pooled")
    stack.linear("classifier", 4)
    return stack


@pytest.fixture(scope="module", autouse=True)
def families_of_one_operation():
    """A family for each operation: one slot, one choice."""

    def slots(settings):
        return (
            Slot(
                "net", ("resolution",), lambda values: tuple(layers_with(settings["op"], values["resolution"]).layers)
            ),
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "operations", Family(dict, lambda settings: (), slots))
        yield


def space_of(op: str) -> Space:
    return Space("operations", {"op": op, "in_channels": 3, "num_classes": 4}, (Choice("resolution", (7, 8)),))


def infer(model, x_BCHW):
    loaded = load_graph(Graph("a", model.SerializeToString()), Device("here", batch=BATCH))
    return loaded.infer({"input": x_BCHW.astype(loaded.feeds["input"].dtype)})[0].astype(np.float64)


@pytest.mark.parametrize("op", OPS)
def test_every_operation_is_known_everywhere(op):
    space = space_of(op)
    layers = network(space, space.largest())
    assert op in {layer.op for layer in layers}
    check_network(space, layers)
    check_supernet(stirred(space), samples=0)
    assert {layer_class(layer) for layer in layers} <= set(CLASSES)
    codes = space.encode([space.largest()])
    counted = dict(zip(FEATURES, network_features(space, codes)[0], strict=True))
    assert sum(count for name, count in counted.items() if name.startswith("layers.")) == len(layers)
    assert costs(space, codes, "macs")[0] > 0


@pytest.mark.parametrize("op", OPS)
def test_every_operation_computes_about_the_same_in_every_precision(op):
    space = space_of(op)
    for arch in (space.smallest(), space.largest()):
        layers, x_BCHW = network(space, arch), images(space, arch, BATCH).numpy()
        wanted = infer(build_model(layers, batch=BATCH), x_BCHW)
        ranges = observed_ranges(layers, None, [x_BCHW])
        for precision, builder in BUILDERS.items():
            found = infer(builder(layers, batch=BATCH, **({"ranges": ranges} if precision == "int8" else {})), x_BCHW)
            assert np.abs(found - wanted).max() < 0.15 * np.abs(wanted).max(), precision


def test_averages_at_the_edge_are_over_the_pixels_that_are_there():
    space = space_of("avg_pool")
    arch = space.smallest()
    layers = network(space, arch)
    pool = next(layer for layer in layers if layer.op == "avg_pool")
    assert (pool.in_shape, pool.out_shape) == ((8, 7, 7), (8, 4, 4))
    x = torch.arange(49.0).reshape(1, 1, 7, 7)
    assert FUNCTIONS["avg_pool"](pool, x)[0, 0, 3].tolist() == [42.5, 44.5, 46.5, 48.0]
