"""Attention in ONNX graphs and in what latencies depend on."""

import numpy as np
import onnx
import pytest

from latency_tables import Device, Graph
from latency_tables.graphs.graph import BUILDERS, build_model, profiling_model
from latency_tables.graphs.quantise import quantised_model
from latency_tables.graphs.ranges import observed_ranges
from latency_tables.measuring.sessions import load_graph
from latency_tables.predicting.features import FEATURES, network_features
from latency_tables.predicting.learned import LearnedPredictor
from search_spaces import Layer, define_space, in_precision, network
from tests.latency_tables.latencies import latencies, planned

SPACE = define_space("hybrid", resolutions=[16], channels=[16, 32], widths=[0.5, 1.0], heads=[1, 2], head_channels=8)
SHAPE = (12, 4, 5)


def attention(heads: int) -> list[Layer]:
    """Three convolutions of the input and the attention over them."""
    parts = [Layer(part, "conv", ("input",), SHAPE, SHAPE) for part in "qkv"]
    return [*parts, Layer("mix", "attention", ("q", "k", "v"), SHAPE, SHAPE, groups=heads)]


def infer(model: onnx.ModelProto, x_BCHW: np.ndarray) -> np.ndarray:
    loaded = load_graph(Graph("a", model.SerializeToString()), Device("here", batch=len(x_BCHW)))
    return loaded.infer({"input": x_BCHW})[0]


def mixed(heads: int, q_BCHW: np.ndarray, k_BCHW: np.ndarray, v_BCHW: np.ndarray) -> np.ndarray:
    """By the definition, head by head and pixel by pixel."""
    found, size = np.empty_like(v_BCHW), v_BCHW.shape[1] // heads
    for b, head in np.ndindex(len(v_BCHW), heads):
        part = slice(head * size, (head + 1) * size)
        queries, keys, values = (x[b, part].reshape(size, -1) for x in (q_BCHW, k_BCHW, v_BCHW))
        out = np.empty_like(values)
        for pixel in range(values.shape[1]):
            weights = np.exp(queries[:, pixel] @ keys / np.sqrt(size))
            out[:, pixel] = values @ (weights / weights.sum())
        found[b, part] = out.reshape(found[b, part].shape)
    return found


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("heads", [1, 3, 12])
def test_onnx_runtime_computes_attention_by_its_definition(heads, batch):
    rng = np.random.default_rng(heads)
    weights = {part: (rng.standard_normal((12, 12, 1, 1)).astype(np.float32) / 3, None) for part in "qkv"}
    x_BCHW = rng.standard_normal((2, *SHAPE)).astype(np.float32)
    model = build_model(attention(heads), weights, batch=batch)
    onnx.checker.check_model(model, full_check=True)
    parts = [np.einsum("oi,bihw->bohw", weights[part][0][:, :, 0, 0], x_BCHW.astype(np.float64)) for part in "qkv"]
    np.testing.assert_allclose(infer(model, x_BCHW), mixed(heads, *parts), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", BUILDERS)
def test_graphs_of_every_precision_are_valid(precision):
    model = onnx.load_from_string(profiling_model(SPACE, SPACE.largest(), 2, precision))
    onnx.checker.check_model(model, full_check=True)
    assert sum(node.op_type == "Softmax" for node in model.graph.node) == 4


def test_integers_around_attention_compute_about_what_floats_compute():
    layers = network(SPACE, SPACE.largest())
    x_BCHW = np.random.default_rng(0).standard_normal((8, *layers[0].in_shape)).astype(np.float32)
    wanted = infer(build_model(layers, batch=8), x_BCHW)
    found = infer(
        quantised_model(in_precision(layers, "int8"), batch=8, ranges=observed_ranges(layers, None, [x_BCHW])), x_BCHW
    )
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.95


def test_what_is_inside_of_attention_stays_in_floats():
    """The shares of a softmax are too uneven for 255 steps."""
    model = quantised_model(in_precision(attention(3), "int8"), batch=1)
    made = {output: node.op_type for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.op_type in ("Softmax", "MatMul"):
            assert not {made[name] for name in node.input} & {"QuantizeLinear", "DequantizeLinear"}


# Predictors


def test_attention_is_a_feature_of_its_own():
    codes = SPACE.encode([SPACE.largest()])
    found = dict(zip(FEATURES, network_features(SPACE, codes)[0], strict=True))
    layers = [layer for layer in network(SPACE, SPACE.largest()) if layer.op == "attention"]
    assert found["layers.attention"] == len(layers) == 4
    assert found["macs.attention"] == sum(layer.macs for layer in layers)


def test_a_predictor_fitted_before_attention_was_a_feature_still_predicts():
    space = define_space("hybrid", resolutions=[16], attention_stages=0)
    codes = planned(space, 30)
    now = LearnedPredictor.fit(space, codes, latencies(space, codes), "ridge")
    document = now.to_json()
    document["feature_names"] = [name for name in FEATURES if not name.endswith(".attention")]
    coefficients = zip(FEATURES, document["model"]["coefficients"], strict=True)
    document["model"]["coefficients"] = [value for name, value in coefficients if not name.endswith(".attention")]
    earlier = LearnedPredictor.from_json(document)
    np.testing.assert_allclose(earlier.predict(codes), now.predict(codes))
    assert earlier.to_json() == document
