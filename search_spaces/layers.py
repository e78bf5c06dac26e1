"""The vocabulary that cost, ONNX building, supernets and latency features share: operations with their shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from search_spaces.errors import SpaceError

# Of one number, by what a layer computes in.
ELEMENT_BYTES = {"fp32": 4, "int8": 1}
FLOAT_BYTES = ELEMENT_BYTES["fp32"]
NORM_EPS = 1e-5

# What a slot's first layer reads: whatever the slot before it put out.
SLOT_INPUT = ""
NETWORK_INPUT = "input"

Shape = tuple[int, int, int]
"""Channels, height, width of one image's activation; a vector is (features, 1, 1)."""

OPS = (
    *("conv", "linear", "attention"),
    *("global_pool", "max_pool", "avg_pool"),
    *("add", "mul", "relu", "relu6", "hswish", "hsigmoid"),
)


@dataclass(frozen=True, slots=True)
class Layer:
    """One operation of a network.

    `inputs` names the layers it reads. Convolutions and `max_pool` pad by `kernel // 2`; `avg_pool` does not, and its last
    windows are cut off where the image ends. `norm` says that batch norm follows a convolution, with `norm_eps` added to its
    variance; deployment folds it into the convolution. `linear` reads a pooled activation as a vector. `attention` reads
    queries, keys and values of one shape: every pixel is a token, and the channels of each of its `groups` make up one head
    (Vaswani et al., "Attention Is All You Need", NeurIPS 2017, eq. 1). `precision` is what deployment computes it in.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    in_shape: Shape
    out_shape: Shape
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    norm: bool = False
    bias: bool = False
    norm_eps: float = NORM_EPS
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if self.op not in OPS:
            raise SpaceError(f"layer {self.name!r} has operation {self.op!r}; known are {', '.join(OPS)}")
        if self.precision not in ELEMENT_BYTES:
            known = ", ".join(ELEMENT_BYTES)
            raise SpaceError(f"layer {self.name!r} has precision {self.precision!r}; known are {known}")

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weight tensor, output channels first; empty for an operation without weights."""
        if self.op == "conv":
            return (self.out_shape[0], self.in_shape[0] // self.groups, self.kernel, self.kernel)
        if self.op == "linear":
            return (self.out_shape[0], self.in_shape[0])
        return ()

    @property
    def weights(self) -> int:
        """Numbers in the weight tensor."""
        return _product(self.weight_shape) if self.weight_shape else 0

    @property
    def pixels(self) -> int:
        """Of the output."""
        return self.out_shape[1] * self.out_shape[2]

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image; element-wise operations and pooling count as none."""
        if self.op == "attention":
            return 2 * self.in_shape[0] * self.pixels**2
        return self.weights * self.pixels

    @property
    def params(self) -> int:
        """Trainable numbers: the weight, the bias, and the scale and shift of the batch norm that follows."""
        return self.weights + self.out_shape[0] * (int(self.bias) + 2 * int(self.norm))

    @property
    def element_bytes(self) -> int:
        """Bytes of one weight or activation."""
        return ELEMENT_BYTES[self.precision]

    @property
    def activation_bytes(self) -> int:
        """Bytes of the output for one image."""
        return self.element_bytes * _product(self.out_shape)

    @property
    def scratch_bytes(self) -> int:
        """Bytes of what is alive for one image only while the layer runs: in each head of an attention, how much every pixel
        attends to every other, which is fp32 in any precision."""
        return FLOAT_BYTES * self.groups * self.pixels**2 if self.op == "attention" else 0

    @property
    def traffic_bytes(self) -> int:
        """Bytes read and written for one image: inputs, weights and output."""
        read = len(self.inputs) * _product(self.in_shape)
        return self.element_bytes * (read + self.weights) + self.activation_bytes


def _product(shape: Sequence[int]) -> int:
    total = 1
    for extent in shape:
        total *= extent
    return total


class Stack:
    """Builds the layers of one slot: each call adds a layer that reads the one before, and returns its name."""

    def __init__(self, slot: str, shape: Shape, norm_eps: float = NORM_EPS) -> None:
        self.slot = slot
        self.norm_eps = norm_eps
        self.last = SLOT_INPUT
        self.layers: list[Layer] = []
        self._shapes: dict[str, Shape] = {SLOT_INPUT: shape}

    @property
    def shape(self) -> Shape:
        return self._shapes[self.last]

    def shape_of(self, name: str) -> Shape:
        """Of what a layer of this slot puts out, or of what the slot reads."""
        return self._shapes[name]

    def conv(
        self,
        name: str,
        out: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        *,
        norm: bool = True,
        bias: bool = False,
        source: str | None = None,
    ) -> str:
        """A convolution to `out` channels, reading `source` or the layer before."""
        read = self.last if source is None else source
        shape = self._shapes[read]
        height, width = ((extent + 2 * (kernel // 2) - kernel) // stride + 1 for extent in shape[1:])
        if shape[0] % groups or out % groups:
            raise SpaceError(f"{self.slot}.{name}: {shape[0]} -> {out} channels do not split into {groups} groups")
        return self._push(name, "conv", (read,), (out, height, width), kernel, stride, groups, norm, bias)

    def linear(self, name: str, out: int) -> str:
        return self._push(name, "linear", (self.last,), (out, 1, 1), bias=True)

    def pool(self, name: str) -> str:
        """Global average pooling to one value a channel."""
        return self._push(name, "global_pool", (self.last,), (self.shape[0], 1, 1))

    def window_pool(self, name: str, op: str, kernel: int, stride: int, *, source: str | None = None) -> str:
        """`max_pool` or `avg_pool` over windows of `kernel` x `kernel`, reading `source` or the layer before."""
        read = self.last if source is None else source
        channels, height, width = self._shapes[read]
        out_shape = (channels, (height - 1) // stride + 1, (width - 1) // stride + 1)
        return self._push(name, op, (read,), out_shape, kernel, stride)

    def unary(self, name: str, op: str) -> str:
        return self._push(name, op, (self.last,), self.shape)

    def binary(self, name: str, op: str, left: str, right: str) -> str:
        """`add` of equal shapes, or `mul` of an activation by one value a channel."""
        return self._push(name, op, (left, right), self._shapes[left])

    def attention(self, name: str, queries: str, keys: str, values: str, heads: int) -> str:
        """Each pixel's mixture of the values of all pixels, weighed by how its query fits their keys."""
        shape = self._shapes[queries]
        if shape[0] % heads:
            raise SpaceError(f"{self.slot}.{name}: {shape[0]} channels do not split into {heads} heads")
        return self._push(name, "attention", (queries, keys, values), shape, groups=heads)

    def _push(
        self,
        name: str,
        op: str,
        inputs: tuple[str, ...],
        out_shape: Shape,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        norm: bool = False,
        bias: bool = False,
    ) -> str:
        full = f"{self.slot}.{name}"
        in_shape, eps = self._shapes[inputs[0]], self.norm_eps if norm else NORM_EPS
        self.layers.append(Layer(full, op, inputs, in_shape, out_shape, kernel, stride, groups, norm, bias, eps))
        self._shapes[full] = out_shape
        self.last = full
        return full
