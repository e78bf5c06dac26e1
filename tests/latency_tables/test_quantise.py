"""Graphs of other precisions: what they compute, and what the runtime makes of them."""

from collections import Counter

import numpy as np
import onnx
import pytest

from latency_tables import Device, Graph, LatencyError
from latency_tables.graphs.fallbacks import in_floats
from latency_tables.graphs.graph import BUILDERS, build_model, profiling_model
from latency_tables.graphs.quantise import quantised_model
from latency_tables.graphs.ranges import observed_ranges
from latency_tables.measuring.sessions import CPU, load_graph, session_options
from latency_tables.offers import check_device
from search_spaces import Layer, define_space, in_precision, network
from tests.latency_tables.fakes import tiny_space

MOBILE = define_space("mobilenet_v3", stem="small", resolutions=[32], width=0.5, depths=[1, 2], num_classes=10)
PROXYLESS = define_space("proxyless", stem="small", resolutions=[32], width=0.5, depths=[1, 2], num_classes=10)
LITTLE = {"base_depths": [1, 1, 1, 1], "depths": [0, 1], "widths": [0.1, 0.15], "expands": [0.25, 0.5]}
RESNET = define_space("resnet50", resolutions=[30], num_classes=10, **LITTLE)
SPACES = {"tiny": tiny_space(resolutions=[16]), "mobilenet_v3": MOBILE, "proxyless": PROXYLESS, "resnet50": RESNET}
DEVICE = Device("here", batch=4)


def drawn(space, seed=0):
    """Layers of a random architecture, and images for it."""
    rng = np.random.default_rng(seed)
    layers = network(space, space.decode(space.sample(rng, 1))[0])
    return layers, rng.standard_normal((4, *layers[0].in_shape)).astype(np.float32)


def infer(model, x_BCHW):
    loaded = load_graph(Graph("a", model.SerializeToString()), DEVICE)
    return loaded.infer({"input": x_BCHW.astype(loaded.feeds["input"].dtype)})[0].astype(np.float64)


def operators(model: bytes, tmp_path) -> Counter:
    """What the runtime runs in the end."""
    import onnxruntime

    options = session_options(DEVICE)
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(model, options, providers=[CPU])
    return Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("seed", [0, 1])
def test_integers_compute_about_what_floats_compute(name, seed):
    layers, x_BCHW = drawn(SPACES[name], seed)
    wanted = infer(build_model(layers, batch=4), x_BCHW)
    ranges = observed_ranges(layers, None, [x_BCHW])
    found = infer(quantised_model(in_precision(layers, "int8"), batch=4, ranges=ranges), x_BCHW)
    assert np.abs(found - wanted).mean() < 0.2 * wanted.std()
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.97


MIXED = {
    "tiny": tiny_space(resolutions=[16], precisions=["int8", "fp32"]),
    "mobilenet_v3": define_space(
        "mobilenet_v3", stem="small", resolutions=[32], width=0.5, depths=[1, 2], precisions=["int8", "fp32"],
        precision_per="block",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MIXED)
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_each_layer_of_a_mixed_network_computes_in_its_own_precision(name, seed, tmp_path):
    layers, x_BCHW = drawn(MIXED[name], seed)
    assert len({layer.precision for layer in layers}) == 2
    model = build_model(layers, batch=4, ranges=observed_ranges(layers, None, [x_BCHW]))
    wanted = infer(build_model(in_precision(layers, "fp32"), batch=4), x_BCHW)
    assert np.corrcoef(infer(model, x_BCHW).ravel(), wanted.ravel())[0, 1] > 0.97
    found = operators(model.SerializeToString(), tmp_path)
    there_are = Counter((layer.op, layer.precision) for layer in layers)
    assert found["QLinearConv"] == there_are["conv", "int8"]
    assert found["QGemm"] == there_are["linear", "int8"]
    # In fp32 a convolution takes its activation, and a shortcut's sum, along.
    assert sum(count for op, count in found.items() if op in ("Conv", "FusedConv")) == there_are["conv", "fp32"]


def test_a_mixed_network_of_one_precision_is_that_of_the_precision():
    layers, _ = drawn(MIXED["tiny"], seed=2)
    for precision in ("fp32", "int8"):
        pure = in_precision(layers, precision)
        assert build_model(pure, batch=1) == BUILDERS[precision](layers if precision == "int8" else pure, batch=1)


def test_integers_have_no_half_precision_around_them():
    layers, _ = drawn(MIXED["tiny"], seed=2)
    with pytest.raises(LatencyError, match="has float32 around them, not float16"):
        BUILDERS["fp16"](layers, batch=1)


@pytest.mark.parametrize("name", SPACES)
def test_half_precision_computes_what_floats_compute(name):
    layers, x_BCHW = drawn(SPACES[name])
    wanted = infer(build_model(layers, batch=4), x_BCHW)
    assert np.abs(infer(BUILDERS["fp16"](layers, batch=4), x_BCHW) - wanted).mean() < 0.02 * wanted.std()


@pytest.mark.parametrize("name", SPACES)
def test_the_runtime_turns_every_convolution_into_one_of_integers(name, tmp_path):
    layers, _ = drawn(SPACES[name])
    found = operators(quantised_model(in_precision(layers, "int8"), batch=1).SerializeToString(), tmp_path)
    wanted = Counter(layer.op for layer in layers)
    assert found["QLinearConv"] == wanted["conv"]
    assert found["QGemm"] == wanted["linear"]
    assert found["QLinearAdd"] == wanted["add"]
    assert found["QLinearMul"] == wanted["mul"]
    assert found["QLinearAveragePool"] == wanted["avg_pool"]
    assert found["NhwcMaxPool"] == wanted["max_pool"]
    assert not found["Clip"]
    assert found["QLinearGlobalAveragePool"] == wanted["global_pool"]
    assert found["Conv"] == found["Gemm"] == found["Relu"] == 0


@pytest.mark.parametrize("precision", BUILDERS)
@pytest.mark.parametrize("name", SPACES)
def test_graphs_of_every_precision_are_valid_onnx(name, precision):
    space = SPACES[name]
    model = onnx.load_from_string(profiling_model(space, space.largest(), 2, precision))
    onnx.checker.check_model(model, full_check=True)


def test_weights_of_integers_take_a_quarter_and_of_halves_half():
    space = define_space("mobilenet_v3")
    sizes = {name: len(profiling_model(space, space.smallest(), 1, name)) for name in BUILDERS}
    assert sizes["fp16"] < 0.55 * sizes["fp32"]
    assert sizes["int8"] < 0.35 * sizes["fp32"]


def test_a_precision_that_is_not_known_is_refused():
    with pytest.raises(LatencyError, match="precision must be one of fp32, fp16, int8, not 'int4'"):
        profiling_model(SPACES["tiny"], SPACES["tiny"].smallest(), 1, "int4")


def one_layer(op: str = "conv") -> list[Layer]:
    return [Layer("only", op, ("input",), (2, 4, 4), (2, 4, 4), bias=op == "conv", precision="int8")]


@pytest.mark.parametrize("bounds", [(1.0, -1.0), (0.0, float("nan")), (float("-inf"), 0.0)])
def test_a_range_that_is_none_is_refused(bounds):
    with pytest.raises(LatencyError, match="the range of layer 'only'"):
        quantised_model(one_layer(), batch=1, ranges={"input": (0.0, 1.0), "only": bounds})
    with pytest.raises(LatencyError, match="no range is given for the activations of layer 'only'"):
        quantised_model(one_layer(), batch=1, ranges={"input": (0.0, 1.0)})


def test_activations_and_weights_that_are_all_zero_stay_zero():
    weights = {"only": (np.zeros((2, 2, 1, 1), np.float32), np.zeros(2, np.float32))}
    ranges = {"input": (0.0, 0.0), "only": (0.0, 0.0)}
    model = quantised_model(one_layer(), weights, batch=4, ranges=ranges)
    assert not infer(model, np.ones((4, 2, 4, 4), np.float32)).any()


def test_ranges_grow_with_the_batches_and_name_every_layer():
    layers, x_BCHW = drawn(SPACES["tiny"])
    one = observed_ranges(layers, None, [x_BCHW])
    both = observed_ranges(layers, None, [x_BCHW, 3 * x_BCHW])
    assert set(one) == {"input", *(layer.name for layer in layers)}
    assert all(both[name][0] <= low and high <= both[name][1] for name, (low, high) in one.items())
    assert both["input"][1] > 2 * one["input"][1]


def test_half_precision_that_would_be_computed_in_single_is_refused(monkeypatch):
    """Where the CPU has no kernels for it; one that has them is measured."""
    try:
        check_device(Device("here", precision="fp16"))
    except LatencyError as error:
        assert "use fp32 or int8" in str(error)  # noqa: PT017
    monkeypatch.setattr(
        "latency_tables.offers.optimised_model", lambda graph, device, alone: b"... InsertedPrecisionFreeCast_x ..."
    )
    with pytest.raises(LatencyError, match="device here: CPUExecutionProvider has no fp16 on this machine"):
        check_device(Device("here", precision="fp16"))
    check_device(Device("here", precision="fp32"))


def test_layers_of_integers_that_run_in_floats_are_named():
    layers = in_precision(network(MOBILE, MOBILE.largest()), "int8")
    found = Counter(layer.op for layer in in_floats(layers, build_model(layers, batch=1).SerializeToString(), DEVICE))
    assert found.keys() == {"hsigmoid", "hswish"}
    layers = in_precision(network(SPACES["tiny"], SPACES["tiny"].largest()), "int8")
    assert in_floats(layers, build_model(layers, batch=1).SerializeToString(), DEVICE) == ()
