"""Files that a service must not take: broken, wrong and malicious ones, each made by a function of a random generator."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
import onnx
import pyarrow
import pyarrow.parquet
from onnx import TensorProto, helper
from PIL import Image

Rng = random.Random
Trick = Callable[[Rng], tuple[str, bytes]]
"""Gives a kind and a file that must not be taken as one."""


def sound_onnx() -> bytes:
    return model([helper.make_node("Conv", ["x", "w"], ["y"])], [weights()])


def sound_safetensors() -> bytes:
    return safetensors({"a": entry([2, 3], 0, 24), "b": entry([2], 24, 32)}, 32)


def sound_parquet(rows: int = 20, side: int = 8) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (side, side), (200, 10, 10)).save(encoded, "PNG")
    return parquet([encoded.getvalue()] * rows, [i % 3 for i in range(rows)])


SOUND: dict[str, Callable[[], bytes]] = {
    "onnx": sound_onnx,
    "safetensors": sound_safetensors,
    "parquet": sound_parquet,
}


def model(nodes: list, initializers: list = (), functions: list = (), opsets: list = ()) -> bytes:
    """A model from x (1, 3, 8, 8) to y."""
    graph = helper.make_graph(nodes, "g", [floats("x", [1, 3, 8, 8])], [floats("y", None)], list(initializers))
    imports = [helper.make_opsetid("", 17), *opsets]
    made = helper.make_model(graph, opset_imports=imports, ir_version=10, functions=list(functions))
    return made.SerializeToString()


def floats(name: str, shape: list | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def weights() -> TensorProto:
    return helper.make_tensor(
        "w", TensorProto.FLOAT, [4, 3, 3, 3], np.zeros((4, 3, 3, 3), np.float32).tobytes(), raw=True
    )


def constant(values: list[int]) -> onnx.NodeProto:
    tensor = helper.make_tensor("c", TensorProto.INT64, [len(values)], values)
    return helper.make_node("Constant", [], ["c"], value=tensor)


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors(header: dict | bytes, size: int) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(size)


def parquet(images: list, labels: list, **options: object) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"image": images, "label": labels}), file, **options)
    return file.getvalue()


# --- Tricks with ONNX.


def huge_dims(rng: Rng) -> tuple[str, bytes]:
    tensor = weights()
    tensor.dims[rng.randrange(4)] = rng.choice([2**31, 2**40, 2**62, -1, -(2**62)])
    return "onnx", model([helper.make_node("Conv", ["x", "w"], ["y"])], [tensor])


def huge_input(rng: Rng) -> tuple[str, bytes]:
    made = onnx.load_model_from_string(sound_onnx())
    made.graph.input[0].type.tensor_type.shape.dim[rng.randrange(4)].dim_value = rng.choice([2**31, 2**50, 2**62])
    return "onnx", made.SerializeToString()


def external_data(rng: Rng) -> tuple[str, bytes]:
    """In an initializer, an attribute, a nested graph, a function or a sparse tensor, with paths that leave the folder."""
    tensor = weights()
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    place = rng.choice(["/etc/passwd", "../../etc/passwd", "/proc/self/environ", "link/to/weights", "weights\n.bin"])
    tensor.external_data.add(key="location", value=place)
    conv = helper.make_node("Conv", ["x", "w"], ["y"])
    held = helper.make_node("Constant", [], ["w"], value=tensor)
    where = rng.randrange(5)
    if where == 0:
        return "onnx", model([conv], [tensor])
    if where == 1:
        return "onnx", model([held, conv])
    if where == 2:
        return "onnx", model([*branches(helper.make_graph([held, conv], "inner", [], [floats("y", None)]))])
    if where == 3:
        inner = helper.make_function("own", "f", ["x"], ["y"], [held, conv], [helper.make_opsetid("", 17)])
        opsets = [helper.make_opsetid("own", 1)]
        return "onnx", model([helper.make_node("f", ["x"], ["y"], domain="own")], [], [inner], opsets)
    sparse = helper.make_sparse_tensor(tensor, helper.make_tensor("i", TensorProto.INT64, [1], [0]), [100])
    return "onnx", model([helper.make_node("Constant", [], ["w"], sparse_value=sparse), conv])


def branches(inner: onnx.GraphProto) -> list:
    yes = helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("t", TensorProto.BOOL, [], [True]))
    return [yes, helper.make_node("If", ["yes"], ["y"], then_branch=inner, else_branch=inner)]


def nested(rng: Rng) -> tuple[str, bytes]:
    inner = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "inner", [], [floats("y", None)])
    for _ in range(rng.randrange(17, 24)):
        yes = constant([1])
        inner = helper.make_graph(
            [yes, helper.make_node("If", ["c"], ["y"], then_branch=inner)], "inner", [], [floats("y", None)]
        )
    return "onnx", model([constant([1]), helper.make_node("If", ["c"], ["y"], then_branch=inner)])


def deeply_nested(rng: Rng) -> tuple[str, bytes]:
    """A message in a message, thousands deep."""
    made = b""
    for _ in range(rng.randrange(100, 1000)):
        for field_tag in (b"\x32", b"\x2a", b"\x0a"):  # a graph in an attribute of a node of a graph
            made = field_tag + varint(len(made)) + made
    return "onnx", b"\x08\x0a\x3a" + varint(len(made)) + made


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def unfolding(rng: Rng) -> tuple[str, bytes]:
    """Functions that call the next one many times each: 10**12 nodes in a few kilobytes; or one another, for ever."""
    depth, endless = 12, rng.random() < 0.3
    functions = []
    for i in range(depth):
        last = i == depth - 1
        called = "f0" if last else f"f{i + 1}"
        plain = last and not endless
        nodes = [
            helper.make_node(
                "Neg" if plain else called, [f"v{k}" if k else "x"], [f"v{k + 1}"], domain="" if plain else "own"
            )
            for k in range(10)
        ]
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
        functions.append(helper.make_function("own", f"f{i}", ["x"], ["v10"], nodes, imports))
    opsets = [helper.make_opsetid("own", 1)]
    return "onnx", model([helper.make_node("f0", ["x"], ["y"], domain="own")], [], functions, opsets)


def foreign(rng: Rng) -> tuple[str, bytes]:
    domain = rng.choice(["evil", "com.evil.plugin", "ai.onnx.contrib", "x" * 5000, "\x1b[31m"])
    node = helper.make_node(rng.choice(["Conv", "PyOp"]), ["x"], ["y"], domain=domain)
    return "onnx", model([node], [], [], [helper.make_opsetid(domain, 1)])


def compiled(rng: Rng) -> tuple[str, bytes]:
    node = helper.make_node(
        "EPContext", ["x"], ["y"], domain="com.microsoft", ep_cache_context="/etc/passwd", embed_mode=0
    )
    return "onnx", model([node], [], [], [helper.make_opsetid("com.microsoft", 1)])


def unknown_opset(rng: Rng) -> tuple[str, bytes]:
    made = onnx.load_model_from_string(sound_onnx())
    made.opset_import[0].version = rng.choice([0, -1, 999, 2**62])
    return "onnx", made.SerializeToString()


def allocating(rng: Rng) -> tuple[str, bytes]:
    """A few bytes that ask for terabytes when they are folded or run."""
    size = [rng.choice([2**31, 2**36, 2**40])]
    fill = helper.make_node("ConstantOfShape", ["c"], ["z"])
    tile = helper.make_node("Expand", ["x", "c"], ["z"])
    nodes = [constant(size), fill] if rng.random() < 0.5 else [constant([*size, 1, 3, 8, 8]), tile]
    return "onnx", model([*nodes, helper.make_node("ReduceSum", ["z"], ["y"], keepdims=0)])


def many_nodes(rng: Rng) -> tuple[str, bytes]:
    nodes = [helper.make_node("Neg", ["x"], ["y"])] * 50_001
    return "onnx", model(nodes)


# --- Tricks with safetensors.


def bad_header(rng: Rng) -> tuple[str, bytes]:
    file = rng.choice(
        [
            safetensors({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, 12),  # overlap
            safetensors({"a": entry([2], 0, 8), "b": entry([2], 12, 20)}, 20),  # a hole
            safetensors({"a": entry([2], 0, 8)}, 9),  # something follows
            safetensors({"a": entry([2], 0, 8)}, 7),  # cut off
            safetensors({"a": entry([2**62, 4], 0, 8)}, 8),
            safetensors({"a": entry([2**32, 2**32], 0, 0)}, 0),  # 2**64, which 64 bits take for none
            safetensors({"a": entry([-2], 0, 8)}, 8),
            safetensors({"a": entry([2.0], 0, 8)}, 8),
            safetensors({"a": entry([2], 0, 8, "F33")}, 8),
            safetensors({"a": entry([2], 0, 8) | {"more": 1}}, 8),
            safetensors({"__metadata__": {"a": 1}, "a": entry([2], 0, 8)}, 8),
            safetensors(
                b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
                4,
            ),
            safetensors(b"[" * 100_000, 0),
            safetensors(b'{"a":' * 50_000, 0),
            safetensors(b'{"a": NaN}', 0),
            safetensors(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}', 4),
            struct.pack("<Q", 2**63) + b"{}",
            struct.pack("<Q", 99_999_999) + b"{}",
        ]
    )
    return "safetensors", file


# --- Tricks with Parquet.


def page_bomb(rng: Rng) -> tuple[str, bytes]:
    """Zeros that compress to nothing: 0.4 GB in a page, or as one image a thousand times; behind images that are sound."""
    encoded = io.BytesIO()
    Image.new("RGB", (8, 8)).save(encoded, "PNG")
    zeros = [bytes(400 << 20)] if rng.random() < 0.3 else [bytes(1 << 20)] * 400
    images, how = [encoded.getvalue()] * 40 + zeros, rng.choice(["zstd", "gzip", "snappy"])
    return "parquet", parquet(images, [0] * len(images), compression=how, use_dictionary=rng.random() < 0.5)


def image_bomb(rng: Rng) -> tuple[str, bytes]:
    """A PNG of a few kilobytes with billions of pixels."""
    side = rng.choice([20_000, 60_000, 2**31 - 1])
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100_000), 9)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return "parquet", parquet([b"\x89PNG\r\n\x1a\n" + body], [0])


def other_columns(rng: Rng) -> tuple[str, bytes]:
    file = io.BytesIO()
    columns = rng.choice(
        [
            {"a": [1]},
            {"image": ["text"], "label": [0]},
            {"image": [b"x"]},
            {"label": [0]},
            {"image": [b"x"], "label": [None]},
        ]
    )
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return "parquet", file.getvalue()


def no_image(rng: Rng) -> tuple[str, bytes]:
    return "parquet", parquet([rng.choice([b"", b"no image", b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0\n"])], [0])


# --- Files of another kind.


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch owned",)


def pickled(rng: Rng) -> tuple[str, bytes]:
    return rng.choice(list(SOUND)), pickle.dumps(Evil(), protocol=rng.randrange(2, 6))


def torch_zip(rng: Rng) -> tuple[str, bytes]:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Evil()))
    return rng.choice(list(SOUND)), file.getvalue()


def zip_bomb(rng: Rng) -> tuple[str, bytes]:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../evil", bytes(1 << 20))
    return rng.choice(list(SOUND)), file.getvalue()


def something_else(rng: Rng) -> tuple[str, bytes]:
    starts = [
        b"\x7fELF\x02",
        b"MZ\x90",
        b"<!DOCTYPE html>",
        b"\n <html>",
        b"#!/bin/sh\n",
        b"\x1f\x8b\x08",
        b"PAR1",
        b"GGUF",
        b"",
    ]
    kind, start = rng.choice(list(SOUND)), rng.choice(starts)
    return kind, start + rng.randbytes(rng.randrange(200)) if start else b""


def packed(rng: Rng) -> tuple[str, bytes]:
    kind = rng.choice(list(SOUND))
    return kind, b"\x1f\x8b\x08\x00" + zlib.compress(SOUND[kind]())


def wrong_kind(rng: Rng) -> tuple[str, bytes]:
    kind, other = rng.sample(list(SOUND), 2)
    return kind, SOUND[other]()


TRICKS: dict[str, Trick] = {
    trick.__name__: trick
    for trick in (
        huge_dims,
        huge_input,
        external_data,
        nested,
        deeply_nested,
        unfolding,
        foreign,
        compiled,
        unknown_opset,
        allocating,
        bad_header,
        image_bomb,
        other_columns,
        no_image,
        pickled,
        torch_zip,
        zip_bomb,
        something_else,
        packed,
        wrong_kind,
    )
}
# These take a second each, to make or to look into.
SLOW_TRICKS: dict[str, Trick] = {trick.__name__: trick for trick in (page_bomb, many_nodes)}


# --- Sound files, changed by chance.


def cut(rng: Rng, file: bytes) -> bytes:
    return file[: rng.randrange(len(file))]


def flipped(rng: Rng, file: bytes) -> bytes:
    changed = bytearray(file)
    for _ in range(rng.randrange(1, 30)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def spliced(rng: Rng, file: bytes) -> bytes:
    at, length = rng.randrange(len(file)), rng.randrange(1, 40)
    return file[:at] + rng.randbytes(rng.randrange(40)) + file[at + length :]


def doubled(rng: Rng, file: bytes) -> bytes:
    at = rng.randrange(len(file))
    return file[:at] + file[at - rng.randrange(min(at, 200) + 1) :]


CHANGES = (cut, flipped, spliced, doubled)
