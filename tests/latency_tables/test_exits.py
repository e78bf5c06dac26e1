"""Graphs with early exits: what they put out, and where an image leaves."""

import numpy as np
import onnx
import onnxruntime
import pytest

from latency_tables.errors import LatencyError
from latency_tables.graphs.exits import branching_model, outputs_model, up_to
from search_spaces import define_space, exits, with_exits

SPACES = {
    "tiny": define_space(
        "tiny", exits=["s1", "s2"], resolutions=[12], stem=8, channels=[16, 32, 48], widths=[1.0], expands=[1.0]
    ),
    "mobilenet_v3": define_space(
        "mobilenet_v3", exits=["s1", "s2", "s4"], resolutions=[16], stem="small", width=0.25, depths=[1], num_classes=7
    ),
}
RNG = np.random.default_rng(0)


def run(model: onnx.ModelProto, x_BCHW) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, {"input": x_BCHW}), strict=True))


def parts_of(name: str):
    """Layers, exits, and weights that let activations live."""
    space = SPACES[name]
    arch = space.largest()
    layers = with_exits(space, arch)
    rng = np.random.default_rng(1)

    def drawn(*shape: int):
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    weights = {
        layer.name: (drawn(*layer.weight_shape), drawn(layer.out_shape[0]) if layer.norm or layer.bias else None)
        for layer in layers
        if layer.weight_shape
    }
    return layers, exits(space, arch), weights


def image_of(layers, batch: int = 1):
    return RNG.standard_normal((batch, *layers[0].in_shape)).astype(np.float32)


def sure(logits_BK):
    odds = np.exp(logits_BK.astype(np.float64) - logits_BK.max())
    return float((odds / odds.sum()).max())


@pytest.mark.parametrize("versions", [{}, {"opset": 21, "ir_version": 10}], ids=["17", "21"])
@pytest.mark.parametrize("name", SPACES)
def test_an_image_leaves_at_the_first_exit_that_is_sure_enough(name, versions):
    layers, found, weights = parts_of(name)
    x_BCHW = image_of(layers)
    said = run(outputs_model(layers, found, weights, batch=1), x_BCHW)
    names = [*(each.output for each in found), "logits"]
    sureness = [sure(said[each.output]) for each in found]
    for at in range(len(found) + 1):
        # Just above what those before it reach, just below what it does itself.
        thresholds = [value + 1e-3 for value in sureness[:at]] + [value - 1e-3 for value in sureness[at:]]
        model = branching_model(layers, found, thresholds, weights, **versions)
        onnx.checker.check_model(model, full_check=True)
        left = run(model, x_BCHW)
        assert left["exit"].tolist() == [at]
        np.testing.assert_allclose(left["logits"], said[names[at]], rtol=1e-4, atol=1e-5)


def test_a_graph_that_branches_has_the_nodes_that_one_without_has():
    layers, found, weights = parts_of("tiny")

    def operators(graph: onnx.GraphProto) -> list[str]:
        names = []
        for node in graph.node:
            names.append(node.op_type)
            for attribute in node.attribute:
                names += operators(attribute.g) if attribute.type == onnx.AttributeProto.GRAPH else []
        return names

    branching = operators(branching_model(layers, found, [0.5, 0.5], weights).graph)
    beside = [name for name in branching if name not in {"Softmax", "TopK", "GreaterOrEqual", "If", "Identity"}]
    assert beside == operators(outputs_model(layers, found, weights, batch=1).graph)
    assert branching.count("If") == branching.count("TopK") == 2
    thresholds = {
        each.name: onnx.numpy_helper.to_array(each).item()
        for each in branching_model(layers, found, [0.25, 0.75], weights).graph.initializer
        if each.name.endswith("threshold")
    }
    assert thresholds == {"exit.s1.threshold": 0.25, "exit.s2.threshold": 0.75}


def test_a_graph_that_is_cut_off_says_what_the_whole_one_says_there():
    layers, found, weights = parts_of("tiny")
    x_BCHW = image_of(layers, 3)
    said = run(outputs_model(layers, found, weights, batch=None), x_BCHW)
    assert list(said) == ["logits", "exit.s1.logits", "exit.s2.logits"]
    cut = run(outputs_model(up_to(layers, found[1].output), found, weights, batch=None), x_BCHW)
    assert list(cut) == ["logits", "exit.s1.logits"]
    np.testing.assert_allclose(cut["logits"], said["exit.s2.logits"], rtol=1e-4, atol=1e-5)


def test_integers_and_wrong_thresholds_are_refused():
    layers, found, weights = parts_of("tiny")
    with pytest.raises(LatencyError, match="wanted a threshold for each of 2 exits, not 1"):
        branching_model(layers, found, [0.5], weights)
    space = define_space("tiny", exits=["s1"], precisions=["int8", "fp32"])
    arch = space.smallest()
    with pytest.raises(LatencyError, match="compute in fp32; this network has layers in 8-bit integers"):
        outputs_model(with_exits(space, arch), exits(space, arch), {}, batch=1)
