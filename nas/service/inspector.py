"""What runs in the process that looks into uploads: one fork a file.

The libraries are loaded once. A fork of such a process has looked into a small file after 5-10 ms; a new one takes 1 s.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow.compute  # noqa: F401 - as above
from PIL import Image

from nas.service.confinement import Limits, confine
from nas.service.onnx_upload import inspect_onnx
from nas.service.parquet_upload import inspect_parquet
from nas.service.refusal import UploadRefused
from nas.service.safetensors_upload import inspect_safetensors

Json = Any

INSPECTIONS: Mapping[str, Callable[[int], dict[str, Json]]] = {
    "onnx": inspect_onnx,
    "parquet": inspect_parquet,
    "safetensors": inspect_safetensors,
}
MOST_ANSWER_BYTES = 100_000


def serve(channel: socket.socket) -> None:
    """Answer one request after the other, until the other end is closed.

    A request is JSON {kind, limits} with a file; the answer is {facts}, {refused} or {signal}, the one that ended the fork.
    """
    Image.init()  # its decoders are modules, which each fork would load again
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, 4096, 1)
        if not message:
            return
        asked = json.loads(message)
        try:
            answer = _apart(channel, asked["kind"], descriptors[0], Limits(**asked["limits"]))
        finally:
            os.close(descriptors[0])
        channel.send(answer)


def _apart(channel: socket.socket, kind: str, descriptor: int, limits: Limits) -> bytes:
    """Inspect in a fork, and take what it says."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        # Whatever happens, the fork must not go on as if it were this process.
        try:
            os.close(out)
            channel.close()
            confine(limits)
            os.write(into, _inspected(kind, descriptor))
        finally:
            os._exit(0)
    os.close(into)
    with os.fdopen(out, "rb") as file:
        answer = file.read(MOST_ANSWER_BYTES + 1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) or not 0 < len(answer) <= MOST_ANSWER_BYTES:
        return json.dumps({"signal": os.WTERMSIG(status)}).encode()
    return answer


def _inspected(kind: str, descriptor: int) -> bytes:
    """The answer for one file. Nobody else can tell what the libraries raise on a broken one, so all of it is a refusal."""
    answer: dict[str, Json]
    try:
        answer = {"facts": INSPECTIONS[kind](descriptor)}
    except UploadRefused as error:
        answer = {"refused": str(error)}
    except MemoryError:
        answer = {"refused": "looking into it takes more memory than an upload may"}
    except Exception as error:
        answer = {"refused": f"it cannot be read as {kind} ({type(error).__name__})"}
    return json.dumps(answer, allow_nan=False).encode()
