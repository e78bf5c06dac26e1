"""Sessions of ONNX Runtime: what opens, what is fed, and what is refused in one line."""

import numpy as np
import onnx
import pytest

from latency_tables import Device, Graph, LatencyError, open_session
from latency_tables.graphs.graph import build_model
from latency_tables.measuring.measure import CANARY
from latency_tables.measuring.sessions import INPUTS, load_graph
from search_spaces import Layer


def test_an_open_batch_becomes_that_of_the_device():
    layers = [Layer("pool", "global_pool", ("input",), (2, 4, 4), (2, 1, 1))]
    assert open_session(Graph("a", build_model(layers, batch=None).SerializeToString()), Device("here", batch=3))() > 0


def test_graphs_whose_output_is_nan_are_measured_all_the_same():
    layers = [Layer("fc", "linear", ("input",), (2, 1, 1), (2, 1, 1), bias=True)]
    weights = {"fc": (np.full((2, 2), np.nan, np.float32), np.zeros(2, np.float32))}
    assert open_session(Graph("nan", build_model(layers, weights, batch=1).SerializeToString()), Device("here"))() > 0


def refused(model: bytes, message: str, device: Device | None = None):
    with pytest.raises(LatencyError, match=message) as caught:
        open_session(Graph("the-key", model), device or Device("here"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_no_onnx_model_is_refused_by_its_key():
    for model in (b"", b"no model", CANARY.read_bytes()[:1000]):
        assert "the-key" in refused(model, "does not load")


def test_external_data_is_refused_even_where_its_file_lies_at_hand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = onnx.load_from_string(CANARY.read_bytes())
    onnx.save(model, "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").exists()
    assert "the-key" in refused((tmp_path / "model.onnx").read_bytes(), "does not load")


def test_a_provider_that_this_runtime_lacks_is_refused_with_those_that_it_has():
    device = Device("board", provider="MadeUpExecutionProvider")
    refused(CANARY.read_bytes(), "no provider MadeUpExecutionProvider; it has .*CPUExecutionProvider", device)


def test_a_graph_of_another_batch_is_refused():
    refused(
        CANARY.read_bytes(), "'the-key' is built for batch 1, but device here measures batch 2", Device("here", batch=2)
    )


def model_of(inputs: dict[str, tuple[int, list]]) -> bytes:
    """A model that hands its inputs through."""
    return onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Identity", [name], [f"{name}.out"]) for name in inputs],
            "through",
            [onnx.helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
            [onnx.helper.make_tensor_value_info(f"{name}.out", kind, shape) for name, (kind, shape) in inputs.items()],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=8,
    ).SerializeToString()


def test_open_dimensions_besides_the_batch_are_refused_by_input_and_name():
    model = model_of({"tokens": (onnx.TensorProto.INT64, [None, "length"])})
    message = refused(model, "input 'tokens' has shape")
    assert "--shape tokens=" in message
    assert "or --shape length=N" in message


@pytest.mark.parametrize(
    "given",
    [{"dims": (("length", 7), ("rows", 2))}, {"dims": (("length", 7),)}, {"shapes": (("tokens", (2, 7)),)}],
    ids=["dims", "dims and batch", "shapes"],
)
def test_open_dimensions_are_given_by_name_or_by_input(given):
    model = model_of({"tokens": (onnx.TensorProto.INT64, ["rows", "length"])})
    loaded = load_graph(Graph("a", model, **given), Device("here", batch=2))
    assert loaded.feeds["tokens"].shape == (2, 7)
    assert loaded.infer(loaded.feeds)[0].shape == (2, 7)


@pytest.mark.parametrize("shape", [(1,), (1, 2, 3), (1, 3)])
def test_a_shape_that_does_not_fit_is_refused(shape):
    model = model_of({"x": (onnx.TensorProto.FLOAT, ["n", 2])})
    with pytest.raises(LatencyError, match=r"input 'x' has shape .* does not fit"):
        load_graph(Graph("a", model, shapes=(("x", shape),)), Device("here"))


@pytest.mark.parametrize("kind", [getattr(onnx.TensorProto, name) for name in (
    "FLOAT", "DOUBLE", "FLOAT16", "UINT8", "INT8", "INT16", "INT32", "INT64", "BOOL"
)])  # fmt: skip
def test_inputs_of_every_kind_are_drawn_and_not_constant(kind):
    loaded = load_graph(Graph("a", model_of({"x": (kind, [1, 64])})), Device("here"))
    values = loaded.feeds["x"]
    assert len(np.unique(values)) > 1
    np.testing.assert_array_equal(loaded.infer(loaded.feeds)[0], values)


def test_the_kinds_of_inputs_are_those_tested():
    assert len(INPUTS) == 9


def test_inputs_that_cannot_be_drawn_are_refused():
    refused(model_of({"x": (onnx.TensorProto.STRING, [1, 4])}), "input 'x' is tensor\\(string\\)")


def test_a_graph_comes_back_from_its_header():
    graph = Graph("a", b"model", (("n", 2),), (("x", (1, 2)),))
    assert Graph.from_header(graph.header(), b"model") == graph
