"""Graphs of half precision from trained weights: what they hold, and what goes in and out."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from latency_tables import Device, Graph, LatencyError
from latency_tables.graphs.graph import build_model
from latency_tables.graphs.half_precision import in_half
from latency_tables.measuring.sessions import load_graph
from search_spaces import Layer, define_space, network
from tests.latency_tables.fakes import tiny_space

SPACES = {
    "tiny": tiny_space(resolutions=[16]),
    "mobilenet_v3": define_space("mobilenet_v3", stem="small", resolutions=[32], width=0.5, depths=[1]),
    "hybrid": define_space("hybrid", resolutions=[32], num_classes=10),
}
LAYER = Layer("only.conv", "conv", ("input",), (2, 4, 4), (2, 4, 4), bias=True)


def infer(model: onnx.ModelProto, x_BCHW: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    loaded = load_graph(Graph("a", model.SerializeToString()), Device("here", batch=len(x_BCHW)))
    return loaded.infer({"input": x_BCHW.astype(loaded.feeds["input"].dtype)})[0]


@pytest.mark.parametrize("batch", [None, 64])
@pytest.mark.parametrize("name", SPACES)
def test_it_names_the_class_that_floats_name(name, batch):
    layers = network(SPACES[name], SPACES[name].smallest())
    x_BCHW = np.random.default_rng(0).standard_normal((64, *layers[0].in_shape)).astype(np.float32)
    wanted = infer(build_model(layers, batch=batch), x_BCHW)
    found = infer(in_half(build_model(layers, batch=batch)), x_BCHW)
    assert (found.argmax(1) == wanted.argmax(1)).mean() >= 0.95
    assert np.abs(found - wanted).max() < 0.05 * wanted.std()


def test_with_floats_at_both_ends_it_computes_the_same():
    layers = network(SPACES["tiny"], SPACES["tiny"].smallest())
    half, floats = build_model(layers, batch=4, kind=np.float16), in_half(build_model(layers, batch=4))
    types = [[end.type.tensor_type.elem_type for end in (m.graph.input[0], m.graph.output[0])] for m in (half, floats)]
    assert types == [[TensorProto.FLOAT16] * 2, [TensorProto.FLOAT] * 2]
    x_BCHW = np.random.default_rng(0).standard_normal((4, *layers[0].in_shape)).astype(np.float32)
    np.testing.assert_allclose(infer(floats, x_BCHW), infer(half, x_BCHW), rtol=2e-3)


def test_the_graph_that_it_is_made_of_stays_as_it_is():
    layers = network(SPACES["tiny"], SPACES["tiny"].smallest())
    floats = build_model(layers, batch=1)
    in_half(floats)
    assert floats == build_model(layers, batch=1)


@pytest.mark.parametrize("value", [65505.0, -1e6, float("inf"), float("nan")])
@pytest.mark.parametrize("part", ["weight", "bias"])
def test_a_number_that_half_precision_cannot_hold_names_its_layer(part, value):
    tensors = {"weight": np.ones(LAYER.weight_shape, np.float32), "bias": np.ones(2, np.float32)}
    tensors[part].flat[0] = value
    with pytest.raises(
        LatencyError, match=rf"only.conv.{part} holds .*float16 ends at 65504: build this network in fp32"
    ):
        build_model([LAYER], {"only.conv": (tensors["weight"], tensors["bias"])}, batch=1, kind=np.float16)


def test_the_largest_number_of_half_precision_is_held():
    weights = {"only.conv": (np.full(LAYER.weight_shape, 65504.0, np.float32), np.zeros(2, np.float32))}
    assert build_model([LAYER], weights, batch=1, kind=np.float16)
