"""Images as cameras and decoders give them, made ready by the graph itself: 8-bit pixels in, nothing to do before.

In front of the network stands what the images that it was trained on went through: the square in the middle, resized with
antialiasing, scaled and normalised. Graphs of floats and of integers take it alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto

from latency_tables.errors import LatencyError
from latency_tables.graphs.nodes import INPUT, node, tensor, value_info
from latency_tables.measuring.end_to_end import Preprocessing

IMAGE = "image"
OPEN_SIZE = ("height", "width")
RESIZE_OPSET = 18
"""The first whose Resize antialiases."""
WHITE = 255

Part = tuple[list[NodeProto], Mapping[str, NDArray[Any]]]
"""Nodes, and the constants that they read."""


def with_preprocessing(
    model: ModelProto, preprocessing: Preprocessing, size_px: tuple[int, int] | None = None
) -> ModelProto:
    """The model with `image` in place of `input`: uint8 (batch, height, width, channels), grey or RGB.

    `size_px` fixes height and width; without it they stay open, as the dimensions "height" and "width". What is not square is
    cropped to its middle. The batch stays as it is. `LatencyError` says what does not fit.
    """
    network = model.graph.input[0].type.tensor_type
    batch, channels, size, _ = (extent.dim_param or extent.dim_value for extent in network.shape.dim)
    if channels != len(preprocessing.mean):
        raise LatencyError(f"the network reads {channels} channels, and mean and std are of {len(preprocessing.mean)}")
    if size_px == (size, size):
        parts = [_planes(IMAGE), _normalised("image.planes", preprocessing, network.elem_type)]
    else:
        _check_opset(model, size)
        normalised = _normalised("image.sized", preprocessing, network.elem_type)
        parts = [_cropped(), _planes("image.square"), _resized(size), normalised]
    made = ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    del graph.node[:]
    for nodes, constants in parts:
        graph.node.extend(nodes)
        graph.initializer.extend(tensor(name, array) for name, array in constants.items())
    graph.node.extend(model.graph.node)
    graph.input[0].CopyFrom(value_info(IMAGE, (batch, *(size_px or OPEN_SIZE), channels), np.uint8))
    return made


def _check_opset(model: ModelProto, size: int) -> None:
    opset = next(each.version for each in model.opset_import if not each.domain)
    if opset < RESIZE_OPSET:
        raise LatencyError(
            f"to resize images in the graph takes opset {RESIZE_OPSET}, not {opset}: build the network with that, or fix the "
            f"images at {size} x {size} px"
        )


def _cropped() -> Part:
    """The largest square in the middle."""
    nodes = [
        node("Shape", [IMAGE], "image.extents", start=1, end=3),
        node("ReduceMin", ["image.extents"], "image.side", keepdims=1),
        node("Sub", ["image.extents", "image.side"], "image.margins"),
        node("Div", ["image.margins", "image.two"], "image.start"),
        node("Add", ["image.start", "image.side"], "image.end"),
        node("Slice", [IMAGE, "image.start", "image.end", "image.axes"], "image.square"),
    ]
    return nodes, {"image.two": np.array([2]), "image.axes": np.array([1, 2])}


def _planes(pixels: str) -> Part:
    """Channel by channel, as floats. Transposed as bytes: 8% less than as floats at 224 px."""
    return [
        node("Transpose", [pixels], "image.bytes", perm=[0, 3, 1, 2]),
        node("Cast", ["image.bytes"], "image.planes", to=TensorProto.FLOAT),
    ], {}


def _resized(size: int) -> Part:
    """Weights of what lies outside the image are left out, as torch and Pillow do. As floats: on bytes the runtime takes 1.4
    times as long, and rounds twice."""
    inputs = ["image.planes", "", "", "image.size"]
    resize = node("Resize", inputs, "image.sized", mode="linear", antialias=1, exclude_outside=1, axes=[2, 3])
    return [resize], {"image.size": np.array([size, size])}


def _normalised(pixels: str, preprocessing: Preprocessing, elem_type: int) -> Part:
    """One batch norm. A product and a sum take another 12 us at 224 px; scales folded into the first convolution save nothing
    on top, and the means cannot be, since it pads with zeros."""
    half = elem_type != TensorProto.FLOAT
    output = "image.normalised" if half else INPUT
    mean, std = (WHITE * np.array(part, np.float32) for part in (preprocessing.mean, preprocessing.std))
    constants = {"one": np.ones_like(mean), "none": np.zeros_like(mean), "mean": mean, "variance": std**2}
    nodes = [node("BatchNormalization", [pixels, *(f"image.{name}" for name in constants)], output, epsilon=0.0)]
    if half:
        nodes.append(node("Cast", [output], INPUT, to=elem_type))
    return nodes, {f"image.{name}": array for name, array in constants.items()}
