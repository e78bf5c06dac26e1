"""What a file looks like from its first bytes: to tell who sent the wrong one what to send instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nas.service.refusal import UploadRefused

HEAD_BYTES = 512

_MODEL = "export the model to ONNX (torch.onnx.export) or save its weights as safetensors"
_PLAIN = "send the file itself, not packed"
_DATA = "send images and labels as a Parquet file"

# First bytes -> what it is, and what to send.
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "a zip archive, as PyTorch's .pt and .pth files are", _MODEL),
    (b"PK\x05\x06", "an empty zip archive", _PLAIN),
    (b"\x80\x02", "a Python pickle, which can run programs", _MODEL),
    (b"\x80\x03", "a Python pickle, which can run programs", _MODEL),
    (b"\x80\x04", "a Python pickle, which can run programs", _MODEL),
    (b"\x80\x05", "a Python pickle, which can run programs", _MODEL),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes", _MODEL),
    (b"GGUF", "a GGUF file", _MODEL),
    (b"PAR1", "a Parquet file", "send it as kind parquet"),
    (b"ARROW1", "an Arrow file", _DATA),
    (b"\x93NUMPY", "a NumPy file", _DATA),
    (b"\x1f\x8b", "a gzip file", _PLAIN),
    (b"BZh", "a bzip2 file", _PLAIN),
    (b"\xfd7zXZ\x00", "an xz file", _PLAIN),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file", _PLAIN),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _PLAIN),
    (b"Rar!", "a RAR archive", _PLAIN),
    (b"\x7fELF", "a program", _MODEL),
    (b"MZ", "a program for Windows", _MODEL),
    (b"#!", "a script", _MODEL),
    (b"%PDF", "a PDF document", _MODEL),
    (b"\x89PNG", "a single image", _DATA),
    (b"\xff\xd8\xff", "a single image", _DATA),
    (b"version https://git-lfs", "a pointer of Git LFS in place of the file", "fetch it with `git lfs pull` first"),
)
_TEXTS: tuple[tuple[bytes, str], ...] = ((b"<!doctype", "a web page"), (b"<html", "a web page"), (b"<?xml", "XML"))
_DOWNLOAD = "download the file itself"


def looks_like(head: bytes) -> tuple[str, str] | None:
    """What files with such first bytes are, and what to send in their place; None where they are nothing well known."""
    for start, what, instead in _SIGNATURES:
        if head.startswith(start):
            return what, instead
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model", _MODEL
    if head[257:262] == b"ustar":
        return "a tar archive", _PLAIN
    text = head.lstrip().lower()
    return next(((what, _DOWNLOAD) for start, what in _TEXTS if text.startswith(start)), None)


def check_signature(kind: str, head: bytes) -> None:
    """Refuse what is plainly something else than a file of this kind."""
    if not head:
        raise UploadRefused("the file is empty")
    if _FITS[kind](head):
        return
    found = looks_like(head)
    if found is not None:
        what, instead = found
        instead = _DATA if kind == "parquet" and instead == _MODEL else instead
        raise UploadRefused(f"this looks like {what}, not like {_NAMES[kind]}; {instead}")
    if kind != "onnx":
        raise UploadRefused(f"this is not {_NAMES[kind]}: it does not begin like one")


_NAMES = {"onnx": "an ONNX model", "safetensors": "a safetensors file", "parquet": "a Parquet file"}
# What begins so is looked at further. ONNX files have no signature.
_FITS: Mapping[str, Callable[[bytes], bool]] = {
    "onnx": lambda head: False,
    "safetensors": lambda head: head[8:9] == b"{" and head[5:8] == b"\0\0\0",
    "parquet": lambda head: head.startswith(b"PAR1"),
}
