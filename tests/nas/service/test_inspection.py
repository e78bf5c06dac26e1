"""Looking into uploads: what sound files hold, why others are refused, and that the process for it cannot do harm."""

import importlib
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from nas.service.confinement import Limits
from nas.service.errors import LimitReached, Unavailable
from nas.service.inspection import Inspectors, limits_of
from nas.service.refusal import UploadRefused, shown
from nas.service.safetensors_upload import inspect_safetensors

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def hostile():
    """The files of the benchmark of hostile uploads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("hostile_files")


@pytest.fixture(scope="module")
def inspectors():
    found = Inspectors(1)
    yield found
    found.close()


@pytest.fixture
def look(inspectors, tmp_path):
    """The facts of a file with this content."""

    def look(kind: str, content: bytes):
        path = tmp_path / "file"
        path.write_bytes(content)
        return inspectors(kind, path)

    return look


def test_a_sound_model_is_described(look, hostile):
    assert look("onnx", hostile.sound_onnx()) == {
        "opsets": {"ai.onnx": 17},
        "nodes": 1,
        "parameters": 108,
        "inputs": [{"name": "x", "type": "tensor(float)", "shape": [1, 3, 8, 8]}],
        "outputs": [{"name": "y", "type": "tensor(float)", "shape": [1, 4, 6, 6]}],
        "ran": True,
    }


def test_an_open_batch_is_run_with_one_and_more_that_is_open_is_not_run(look, hostile):
    made = onnx.load_model_from_string(hostile.sound_onnx())
    dims = made.graph.input[0].type.tensor_type.shape.dim
    dims[0].dim_param = "batch"
    found = look("onnx", made.SerializeToString())
    assert (found["ran"], found["inputs"][0]["shape"]) == (True, ["batch", 3, 8, 8])
    dims[2].dim_param = "height"
    assert look("onnx", made.SerializeToString())["ran"] is False


def test_functions_and_the_runtimes_own_operators_are_taken(look, hostile):
    nodes = [helper.make_node("Gelu", ["x"], ["h"], domain="com.microsoft"), helper.make_node("Neg", ["h"], ["y"])]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    function = helper.make_function("own", "f", ["x"], ["y"], nodes, opsets)
    calls = [helper.make_node("f", ["x"], ["h"], domain="own"), helper.make_node("f", ["h"], ["y"], domain="own")]
    file = hostile.model(calls, [], [function], [*opsets[1:], helper.make_opsetid("own", 1)])
    found = look("onnx", file)
    assert (found["nodes"], found["ran"]) == (4, True)


def test_sound_weights_and_images_are_described(look, hostile):
    assert look("safetensors", hostile.sound_safetensors()) == {"tensors": 2, "parameters": 8, "dtypes": ["F32"]}
    found = look("parquet", hostile.sound_parquet(rows=20))
    assert (found["rows"], found["classes"], found["image"], found["label"]) == (20, 3, "image", "label")
    assert found["columns"] == {"image": "binary", "label": "int64"}


def test_lists_of_labels_are_taken_unless_they_unpack_to_too_many(look, hostile):
    encoded = io.BytesIO()
    hostile.Image.new("L", (4, 4)).save(encoded, "PNG")
    pictures = [encoded.getvalue()] * 3
    found = look("parquet", hostile.parquet(pictures, [["cat", "dog"], [], ["cat"]]))
    assert (found["classes"], found["label"]) == (2, "label")
    with pytest.raises(UploadRefused, match="a row has a null among its 'label'; take it out"):
        look("parquet", hostile.parquet(pictures, [["cat", None], [], ["dog"]]))
    with pytest.raises(UploadRefused, match="it has more than 100 labels an image; are some"):
        look("parquet", hostile.parquet(pictures, [["cat"] * 9000, ["cat"] * 9000, ["dog"]]))


def test_images_as_the_hub_writes_them_are_taken(look, hostile):
    encoded = io.BytesIO()
    hostile.Image.new("L", (4, 4)).save(encoded, "PNG")
    pictures = [{"bytes": encoded.getvalue(), "path": "../../etc/passwd"}] * 3
    found = look("parquet", hostile.parquet(pictures, ["cat", "dog", "cat"]))
    assert (found["rows"], found["classes"]) == (3, 2)


# Words of the message that each trick must be refused with.
WHY = {
    "huge_dims": "tensor 'w' has a shape",
    "huge_input": "input 'x' has more than",
    "external_data": "save the model as one file",
    "nested": "nested more than 16 deep",
    "deeply_nested": "cannot be parsed",
    "unfolding": "functions unfolded|calls itself",
    "foreign": "needs operators of",
    "compiled": "holds a compiled model",
    "unknown_opset": "its opset is",
    "allocating": "cannot load and run it",
    "bad_header": "tensor|header|data",
    "image_bomb": "more than 50,000,000 pixels",
    "other_columns": "no column holds",
    "no_image": "the image of row 0",
    "pickled": "a Python pickle",
    "torch_zip": "a zip archive",
    "zip_bomb": "a zip archive",
    "something_else": "this looks like|the file is empty|this is not",
    "packed": "a gzip file",
    "wrong_kind": "this is not|this looks like",
}


@pytest.mark.parametrize("name", WHY)
def test_tricks_are_refused_for_what_they_are(look, hostile, name):
    for seed in range(8):
        with pytest.raises(UploadRefused, match=WHY[name]) as refusal:
            look(*hostile.TRICKS[name](hostile.Rng(seed)))
        assert str(refusal.value).isprintable()
        assert len(str(refusal.value)) < 600


def test_every_trick_is_tried(hostile):
    assert set(WHY) == set(hostile.TRICKS)


@pytest.mark.parametrize(
    ("zeros", "options", "why"),
    [
        (b"\0" * (1 << 20), {"compression": "zstd", "use_dictionary": True}, "unpack to more than 20 times"),
        (b"\0" * (1 << 20), {"compression": "gzip", "use_dictionary": False}, "unpack to more than 20 times"),
    ],
)
def test_pages_that_unpack_to_much_are_refused(look, hostile, zeros, options, why):
    encoded = io.BytesIO()
    hostile.Image.new("RGB", (8, 8)).save(encoded, "PNG")
    images = [encoded.getvalue()] * 16 + [zeros] * 100
    with pytest.raises(UploadRefused, match=why):
        look("parquet", hostile.parquet(images, [0] * len(images), **options))


def test_many_nodes_are_refused(look, hostile):
    with pytest.raises(UploadRefused, match="more than 50,000 nodes"):
        look(*hostile.many_nodes(hostile.Rng(0)))


def limited(patch, **changes):
    """Looking into files under other limits."""

    def limits(kind, size_bytes):
        found = limits_of(kind, size_bytes)
        return Limits(**{name: changes.get(name, getattr(found, name)) for name in Limits.__slots__})

    patch.setattr("nas.service.inspection.limits_of", limits)


def endless(hostile) -> bytes:
    """A loop of 2**62 rounds."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["on2"]), helper.make_node("Neg", ["s"], ["s2"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            hostile.floats("s", None),
        ],
        [helper.make_tensor_value_info("on2", TensorProto.BOOL, []), hostile.floats("s2", None)],
    )
    rounds = helper.make_node("Constant", [], ["n"], value=helper.make_tensor("n", TensorProto.INT64, [], [2**62]))
    on = helper.make_node("Constant", [], ["on"], value=helper.make_tensor("on", TensorProto.BOOL, [], [True]))
    return hostile.model([rounds, on, helper.make_node("Loop", ["n", "on", "x"], ["y"], body=body)])


@pytest.mark.parametrize("limit", [{"cpu_s": 1}, {"wall_s": 0.5}])
def test_what_takes_too_long_is_ended_and_the_next_file_is_looked_into(look, hostile, monkeypatch, limit):
    with monkeypatch.context() as patch:
        limited(patch, **limit)
        with pytest.raises(UploadRefused, match="could not be read within"):
            look("onnx", endless(hostile))
    assert look("onnx", hostile.sound_onnx())["ran"]


def test_what_takes_too_much_memory_is_refused_and_the_next_file_is_looked_into(look, hostile, monkeypatch):
    wide = helper.make_node("Expand", ["x", "c"], ["z"])
    total = helper.make_node("ReduceSum", ["z"], ["y"], keepdims=0)
    file = hostile.model([hostile.constant([200_000, 1, 3, 8, 8]), wide, total])  # 154 MB
    assert look("onnx", file)["ran"]
    with monkeypatch.context() as patch:
        limited(patch, memory_bytes=64 << 20)
        with pytest.raises(UploadRefused):
            look("onnx", file)
    assert look("onnx", hostile.sound_onnx())["ran"]


def test_a_process_that_is_killed_is_replaced(look, inspectors, hostile):
    look("onnx", hostile.sound_onnx())
    idle = inspectors._idle.queue[0]
    os.kill(idle._process.pid, signal.SIGKILL)
    idle._process.wait()
    assert look("onnx", hostile.sound_onnx())["ran"]


def test_closing_ends_all_processes_and_the_next_file_starts_one_again(hostile, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(hostile.sound_safetensors())
    inspectors = Inspectors(2)
    with ThreadPoolExecutor(2) as threads:  # each takes one
        list(threads.map(lambda _: inspectors("safetensors", path), range(2)))
    processes = [each._process for each in inspectors._idle.queue if each is not None]
    assert len(processes) == 2
    inspectors.close()
    assert all(process.poll() is not None for process in processes)
    assert inspectors("safetensors", path)["tensors"] == 2
    inspectors.close()


def test_a_process_that_does_not_start_is_told_of(hostile, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    path = tmp_path / "file"
    path.write_bytes(hostile.sound_onnx())
    inspectors = Inspectors(1)
    for _ in range(2):
        with pytest.raises(Unavailable, match="cannot be looked into"):
            inspectors("onnx", path)


def test_no_more_wait_than_have_patience(hostile, tmp_path, monkeypatch):
    monkeypatch.setattr("nas.service.inspection.PATIENCE_S", 0.01)
    path = tmp_path / "file"
    path.write_bytes(hostile.sound_onnx())
    with pytest.raises(LimitReached, match="try again"):
        Inspectors(0)("onnx", path)


PROBE = """
import json, os, socket, sys
from nas.service.confinement import Limits, confine, shut_off
shut_off()
confine(Limits(256 << 20, 5, 20.0))
said = {"environment": sorted(os.environ)}
def tried(name, do):
    try:
        do()
        said[name] = "done"
    except (OSError, MemoryError, RuntimeError) as error:
        said[name] = type(error).__name__
def written():
    with open(sys.argv[1], "wb", buffering=0) as file:
        file.write(b"x")
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
tried("write", written)
tried("connect", lambda: socket.create_connection(("127.0.0.1", int(sys.argv[2])), 1))
tried("memory", lambda: bytearray(512 << 20))
tried("files", lambda: [os.open("/dev/null", os.O_RDONLY) for _ in range(100)])
print(json.dumps(said))
"""


def test_a_confined_process_cannot_write_or_take_memory_and_files_and_has_no_network_where_the_kernel_lets_us(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        words = [sys.executable, "-c", PROBE, str(tmp_path / "written"), str(server.getsockname()[1])]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
    said = json.loads(done.stdout)
    assert (said["write"], said["memory"], said["files"]) == ("OSError", "MemoryError", "OSError")
    if os.getuid() == 0:  # others may be refused the namespace
        assert said["connect"] != "done"


def test_the_process_has_neither_the_environment_nor_a_folder(inspectors, look, hostile, monkeypatch):
    look("onnx", hostile.sound_onnx())
    pid = inspectors._idle.queue[0]._process.pid
    names = {line.split(b"=")[0] for line in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if line}
    assert names <= {b"PATH", b"OMP_NUM_THREADS", b"OPENBLAS_NUM_THREADS", b"PYTHONPATH", b"LC_CTYPE"}
    assert str(Path(f"/proc/{pid}/cwd").readlink()).endswith("(deleted)")


def safetensors_facts(content: bytes):
    with io.FileIO(os.memfd_create("file"), "r+") as file:
        file.write(content)
        return inspect_safetensors(file.fileno())


@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=4), max_size=6),
    dtype=st.sampled_from(["F64", "F32", "BF16", "I8", "BOOL"]),
)
def test_what_the_formats_own_library_writes_is_accepted(shapes, dtype):
    from safetensors.numpy import save

    kinds = {"F64": np.float64, "F32": np.float32, "BF16": np.float16, "I8": np.int8, "BOOL": np.bool_}
    tensors = {f"t{i}": np.zeros(shape, kinds[dtype]) for i, shape in enumerate(shapes)}
    found = safetensors_facts(save(tensors, {"made": "here"}))
    assert found["tensors"] == len(shapes)
    assert found["parameters"] == sum(tensor.size for tensor in tensors.values())


def test_a_header_that_names_a_tensor_twice_is_refused(hostile):
    one = b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    assert safetensors_facts(hostile.safetensors(b"{" + one + b"}", 4))["tensors"] == 1
    with pytest.raises(UploadRefused, match="names something twice"):
        safetensors_facts(hostile.safetensors(b"{" + one + b"," + one + b"}", 4))


number = st.integers(-1, 5) | st.sampled_from([2**32, 2**63, 2**64, 1.0, True, None])
tensor_entry = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "I8", "BF16", "BOOL", "F33", None]),
        "shape": st.lists(number, max_size=3),
        "data_offsets": st.lists(st.integers(-1, 24) | number, min_size=1, max_size=3),
    }
)
headers = st.dictionaries(st.sampled_from(["a", "b", "c"]), tensor_entry, max_size=3).map(json.dumps).map(str.encode)


@given(
    header=headers | st.binary(max_size=60), length=st.none() | st.integers(0, 2**64 - 1), rest=st.binary(max_size=24)
)
def test_what_this_parser_accepts_the_formats_own_library_reads(header, length, rest):
    from safetensors.numpy import load

    content = struct.pack("<Q", len(header) if length is None else length) + header + rest
    try:
        safetensors_facts(content)
    except UploadRefused:
        return
    load(content)


@given(st.text())
def test_what_is_shown_of_a_file_is_short_and_printable(text):
    found = shown(text)
    assert found.isprintable()
    assert len(found) <= 63
