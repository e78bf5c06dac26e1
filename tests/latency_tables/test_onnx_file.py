"""Measuring any ONNX file, and what is said about one that cannot be."""

import onnx
import pytest
from onnx import TensorProto, helper

from latency_tables import Device, LatencyError, Protocol
from latency_tables.measuring.measure import CANARY
from latency_tables.measuring.onnx_file import measure_file, read_graph

QUICK = Protocol(min_rounds=2, max_rounds=2, warm_up_s=0.05, settle_ms=1.0, visit_ms=0.1)
HERE = Device("here")


def saved(path, node: str, kind: int, shape: list, inputs: int = 1, domain: str = "", **attributes):
    """A file with one node that reads `inputs` inputs `x0`, `x1`, ... of a kind and shape."""
    names = [f"x{index}" for index in range(inputs)]
    graph = helper.make_graph(
        [helper.make_node(node, names, ["y"], domain=domain, **attributes)],
        "one",
        [helper.make_tensor_value_info(name, kind, shape) for name in names],
        [helper.make_tensor_value_info("y", kind, None)],
    )
    domains = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=8), path)
    return path


def refused(path, *said: str, **arguments) -> str:
    with pytest.raises(LatencyError) as caught:
        measure_file(path, HERE, protocol=QUICK, **arguments)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert all(part in message for part in said), message
    return message


def test_a_file_is_measured_by_the_same_protocol():
    found = measure_file(CANARY, HERE, protocol=QUICK)
    assert found.key == "canary.onnx"
    assert 1 < found.median_us < 1e6


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL, TensorProto.UINT8])
def test_inputs_of_whole_numbers_are_supported(tmp_path, kind):
    path = saved(tmp_path / "m.onnx", "Identity", kind, [1, 4])
    assert measure_file(path, HERE, protocol=QUICK).median_us > 0


@pytest.mark.parametrize(
    "given",
    [{"dims": {"rows": 3, "length": 4}}, {"dims": {"length": 4}}, {"shapes": {"x0": (3, 4), "x1": (3, 4)}}],
    ids=str,
)
def test_what_a_file_leaves_open_can_be_given(tmp_path, given):
    path = saved(tmp_path / "m.onnx", "Add", TensorProto.FLOAT, ["rows", "length"], inputs=2)
    assert measure_file(path, HERE, protocol=QUICK, **given).median_us > 0


def test_what_a_file_leaves_open_is_named_with_the_way_to_give_it(tmp_path):
    path = saved(tmp_path / "m.onnx", "Identity", TensorProto.FLOAT, ["batch", 3, "height", None])
    refused(path, "input 'x0'", "--shape x0=", "or --shape height=N")
    refused(path, "input 'x0'", dims={"height": 8})
    assert measure_file(path, HERE, protocol=QUICK, shapes={"x0": (1, 3, 8, 8)}).median_us > 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"dims": {"n": 0}}, "dims['n'] must be whole numbers from 1"),
        ({"shapes": {"x0": (1, 0)}}, "shapes['x0'] must be whole numbers from 1"),
        ({"shapes": {"x0": (1, 2.0)}}, "shapes['x0'] must be whole numbers from 1"),
        ({"shapes": {"x0": (1,)}}, "does not fit"),
        ({"shapes": {"pixels": (1, 2)}}, "there is no input 'pixels'; the model has x0"),
    ],
    ids=str,
)
def test_shapes_that_cannot_be_are_refused(tmp_path, given, said):
    refused(saved(tmp_path / "m.onnx", "Identity", TensorProto.FLOAT, [1, 2]), said, **given)


def test_an_operator_that_the_runtime_lacks_is_named(tmp_path):
    refused(saved(tmp_path / "m.onnx", "Teleport", TensorProto.FLOAT, [1, 2], domain="made.up"), "Teleport")


def test_a_file_that_is_too_large_is_refused(tmp_path):
    path = saved(tmp_path / "m.onnx", "Identity", TensorProto.FLOAT, [1, 2])
    refused(path, "bytes; a model may have 10", max_bytes=10)


def test_a_file_that_is_not_there_empty_or_broken_is_refused(tmp_path):
    refused(tmp_path / "none.onnx", "cannot be read")
    (tmp_path / "m.onnx").write_bytes(b"")
    refused(tmp_path / "m.onnx", "the file is empty")
    (tmp_path / "m.onnx").write_bytes(CANARY.read_bytes()[:2000])
    refused(tmp_path / "m.onnx", "does not load")


def test_weights_in_another_file_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = onnx.load_from_string(CANARY.read_bytes())
    onnx.save(model, "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    refused(tmp_path / "m.onnx", "does not load")


def test_another_batch_than_the_device_measures_is_refused(tmp_path):
    path = saved(tmp_path / "m.onnx", "Identity", TensorProto.FLOAT, [8, 2])
    refused(path, "built for batch 8", "measures batch 1")


def test_a_file_that_is_read_is_named_by_its_file(tmp_path):
    assert read_graph(CANARY, dims={"n": 2}).dims == (("n", 2),)
