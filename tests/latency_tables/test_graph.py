"""Graphs built from Layers compute what the Layers say."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import defs

from latency_tables import LatencyError
from latency_tables.graphs.graph import BUILDERS, build_model, canary_model, profiling_model
from latency_tables.graphs.nodes import NODES
from latency_tables.offers import CANARIES
from search_spaces import Layer, define_space, network
from search_spaces.layers import OPS
from tests.latency_tables.fakes import tiny_space

MOBILE = define_space("mobilenet_v3", stem="small", resolutions=[16, 24], width=0.5, depths=[1, 2], num_classes=5)


def infer(model: onnx.ModelProto, x_BCHW):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"input": x_BCHW})[0]


def drawn_weights(layers, rng):
    """Folded weights of a realistic size for every layer that has some."""
    weights = {}
    for layer in layers:
        if layer.weight_shape:
            fan_in = np.prod(layer.weight_shape[1:])
            weight = (rng.standard_normal(layer.weight_shape) / np.sqrt(fan_in)).astype(np.float32)
            bias = rng.standard_normal(layer.out_shape[0]).astype(np.float32) if layer.norm or layer.bias else None
            weights[layer.name] = (weight, bias)
    return weights


def convolve(x_BCHW, layer, weight, bias):
    """Convolution by its definition: a sum over channels and taps for every pixel."""
    pad, stride, (out, height, width) = layer.kernel // 2, layer.stride, layer.out_shape
    padded = np.pad(x_BCHW, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (layer.kernel, layer.kernel), axis=(2, 3))
    windows = windows[:, :, ::stride, ::stride][:, :, :height, :width]
    per_group, outs = x_BCHW.shape[1] // layer.groups, out // layer.groups
    parts = [
        np.einsum(
            "bchwkl,ockl->bohw",
            windows[:, g * per_group : (g + 1) * per_group],
            weight[g * outs : (g + 1) * outs],
        )
        for g in range(layer.groups)
    ]
    return np.concatenate(parts, axis=1) + (0 if bias is None else bias[:, None, None])


def reference(layers, weights, x_BCHW):
    """The network in NumPy, float64."""
    values = {"input": x_BCHW.astype(np.float64)}
    for layer in layers:
        a, *rest = (values[name] for name in layer.inputs)
        weight, bias = weights.get(layer.name, (None, None))
        values[layer.name] = {
            "conv": lambda a=a, layer=layer, w=weight, b=bias: convolve(a, layer, w, b),
            "linear": lambda a=a, w=weight, b=bias: a.reshape(len(a), -1) @ w.T + b,
            "global_pool": lambda a=a: a.mean(axis=(2, 3), keepdims=True),
            "add": lambda a=a, rest=rest: a + rest[0],
            "mul": lambda a=a, rest=rest: a * rest[0],
            "relu": lambda a=a: np.maximum(a, 0),
            "hswish": lambda a=a: a * np.clip(a / 6 + 0.5, 0, 1),
            "hsigmoid": lambda a=a: np.clip(a / 6 + 0.5, 0, 1),
        }[layer.op]()
    return values[layers[-1].name]


@pytest.mark.parametrize("space", [tiny_space(), MOBILE], ids=["tiny", "mobilenet_v3"])
@pytest.mark.parametrize("batch", [None, 2])
def test_onnx_runtime_computes_what_the_layers_say(space, batch):
    rng = np.random.default_rng(0)
    for arch in [space.smallest(), space.largest(), *space.decode(space.sample(rng, 3))]:
        layers = network(space, arch)
        weights = drawn_weights(layers, rng)
        x_BCHW = rng.standard_normal((2, *layers[0].in_shape)).astype(np.float32)
        model = build_model(layers, weights, batch=batch)
        onnx.checker.check_model(model, full_check=True)
        np.testing.assert_allclose(infer(model, x_BCHW), reference(layers, weights, x_BCHW), rtol=2e-3, atol=2e-4)


def test_an_open_batch_takes_any_batch():
    layers = network(tiny_space(), tiny_space().smallest())
    model = build_model(layers, batch=None)
    for batch in (1, 3, 8):
        assert infer(model, np.ones((batch, 1, 8, 8), dtype=np.float32)).shape == (batch, 10)


@pytest.mark.parametrize("space", [tiny_space(), MOBILE], ids=["tiny", "mobilenet_v3"])
def test_what_is_profiled_has_the_operators_of_what_is_deployed(space):
    layers = network(space, space.largest())
    weights = drawn_weights(layers, np.random.default_rng(0))
    profiled, deployed = build_model(layers, batch=1), build_model(layers, weights, batch=1)
    assert [(n.op_type, list(n.input), list(n.output)) for n in profiled.graph.node] == [
        (n.op_type, list(n.input), list(n.output)) for n in deployed.graph.node
    ]
    linears = sum(layer.op == "linear" for layer in layers)
    assert len(profiled.graph.node) == len(layers) + linears
    assert [t.dims for t in profiled.graph.initializer] == [t.dims for t in deployed.graph.initializer]


def test_every_operation_has_a_node():
    assert set(NODES) == set(OPS)


@pytest.mark.parametrize("space", [tiny_space(), MOBILE, define_space("mobilenet_v3")], ids=["tiny", "small", "full"])
def test_drawn_weights_keep_activations_finite_and_alive(space):
    layers = network(space, space.largest())
    x_BCHW = np.random.default_rng(0).standard_normal((2, *layers[0].in_shape)).astype(np.float32)
    logits = infer(build_model(layers, batch=2), x_BCHW)
    assert np.isfinite(logits).all()
    assert logits.std(axis=1).min() > 1e-3
    assert not np.array_equal(logits[0], logits[1])


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    layers = network(tiny_space(), tiny_space().largest())
    first, again, other = (build_model(layers, batch=1, seed=seed).SerializeToString() for seed in (0, 0, 1))
    assert first == again != other


def test_metadata_and_versions_are_written():
    model = build_model(
        network(tiny_space(), tiny_space().smallest()), batch=1, opset=15, ir_version=8, metadata={"arch": "abc"}
    )
    assert [(p.key, p.value) for p in model.metadata_props] == [("arch", "abc")]
    assert (model.ir_version, model.opset_import[0].version) == (8, 15)


@pytest.mark.parametrize("precision", BUILDERS)
def test_the_committed_canaries_are_what_the_builder_makes(precision):
    assert CANARIES[precision].read_bytes() == canary_model(precision)


def test_the_profiling_model_has_its_batch_in_the_shape():
    model = onnx.load_from_string(profiling_model(MOBILE, MOBILE.smallest(), 4))
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [4, 3, 16, 16]


@pytest.mark.parametrize("opset", [13, defs.onnx_opset_version() + 1])
def test_an_opset_out_of_range_is_refused(opset):
    with pytest.raises(LatencyError, match=f"opset must be 14 .*, not {opset}"):
        build_model(network(tiny_space(), tiny_space().smallest()), batch=1, opset=opset)


@pytest.mark.parametrize("ir_version", [6, onnx.IR_VERSION + 1])
def test_an_ir_version_out_of_range_is_refused(ir_version):
    with pytest.raises(LatencyError, match="ir_version must be 7 to"):
        build_model(network(tiny_space(), tiny_space().smallest()), batch=1, ir_version=ir_version)


def test_weights_that_do_not_fit_name_the_layer():
    layers = network(tiny_space(), tiny_space().smallest())
    good = drawn_weights(layers, np.random.default_rng(0))
    weight, bias = good["stem.conv"]
    for wrong, message in (
        ({k: v for k, v in good.items() if k != "stem.conv"}, "no weights are given for layer 'stem.conv'"),
        ({**good, "stem.conv": (weight[:-1], bias)}, "weight of layer 'stem.conv' has shape"),
        ({**good, "stem.conv": (weight, None)}, "bias of layer 'stem.conv' must have shape .*, not none"),
        ({**good, "stem.conv": (weight, bias[:-1])}, "bias of layer 'stem.conv' must have shape"),
    ):
        with pytest.raises(LatencyError, match=message):
            build_model(layers, wrong, batch=1)


def test_a_bias_where_none_belongs_is_refused():
    layer = Layer("conv", "conv", ("input",), (1, 4, 4), (2, 4, 4), kernel=3)
    with pytest.raises(LatencyError, match="layer 'conv' takes no bias"):
        build_model([layer], {"conv": (np.ones((2, 1, 3, 3), np.float32), np.ones(2, np.float32))}, batch=1)


def test_broken_chains_of_layers_are_refused():
    relu = Layer("a", "relu", ("input",), (1, 4, 4), (1, 4, 4))
    for layers, message in (
        ([], "at least one layer"),
        ([Layer("b", "relu", ("nowhere",), (1, 4, 4), (1, 4, 4))], "reads 'nowhere'"),
        ([relu, relu], "two layers are named 'a'"),
    ):
        with pytest.raises(LatencyError, match=message):
            build_model(layers, batch=1)
    with pytest.raises(LatencyError, match="batch"):
        build_model([relu], batch=0)
