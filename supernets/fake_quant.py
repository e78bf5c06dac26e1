"""A network as its graph of 8-bit integers computes it, in floats that have gradients: to train what will be rounded.

Weights are rounded to int8, symmetric, with a scale a channel; activations to uint8, with one scale and zero point a tensor;
biases to 32 bits (Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
CVPR 2018, sections 2 and 3). Rounding has the gradient of the identity, and none where an activation is outside its range.

Batch norm is folded into the weights before they are rounded, with its running statistics as they are: these are the weights
that will be deployed. By the statistics of each batch they would jump from step to step, by more than rounding moves them, and
the ranges of the activations would fit none of the steps (Krishnamoorthi, "Quantizing deep convolutional networks for efficient
inference: A whitepaper", 2018, freezes them for this).

Shapes: B batch, C channels, H height, W width; O output channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from search_spaces import NETWORK_INPUT, Arch, Layer, fused_with_clip
from supernets.errors import SupernetError
from supernets.extract import folded_layer
from supernets.supernet import FUNCTIONS, Supernet, program

Ranges = Mapping[str, tuple[float, float]]
"""Layer name, or "input" -> the smallest and the largest activation that its integers hold."""

LEVELS, WEIGHT_LEVELS = 255, 127


def every(layer: Layer) -> bool:
    """All layers are of integers."""
    return True


@dataclass(frozen=True, slots=True)
class FakeQuantisation:
    """Runs a supernet in integers: `ranges` of all activations, and which layers are `quantised`; the others stay in floats.

    A quantised layer reads rounded activations and puts out rounded ones, but for a convolution or a sum that a quantised
    clip alone reads: the two are one operation, which rounds once.
    """

    ranges: Ranges
    quantised: Callable[[Layer], bool] = every

    def __post_init__(self) -> None:
        for name, (low, high) in self.ranges.items():
            if not (np.isfinite(low) and np.isfinite(high) and low <= high):
                raise SupernetError(
                    f"the range of layer {name!r} must be two numbers, the smaller one first, not {low}, {high}"
                )

    def __call__(self, net: Supernet, x_BCHW: Tensor, arch: Arch) -> Tensor:
        """Logits (B, K); `x_BCHW` has the architecture's resolution. Batch norm goes by the running statistics."""
        steps = program(net.space, arch)
        fused = fused_with_clip([self._in_its_precision(step.layer) for step in steps])
        values = {NETWORK_INPUT: x_BCHW}
        scales = dict.fromkeys(fused, 1.0)  # of what needs no rounding where it is read
        for step in steps:
            layer, scale = step.layer, 1.0
            integers = self.quantised(layer)
            inputs = [values[name] for name in layer.inputs]
            if integers:
                read = [self._read(name, x, scales.get(name)) for name, x in zip(layer.inputs, inputs, strict=True)]
                inputs, scale = [x for _, x in read], read[0][0]
            if layer.op in FUNCTIONS:
                value = FUNCTIONS[layer.op](layer, *inputs)
            else:
                weight, bias = folded_layer(net, layer)
                if integers:
                    weight, bias = _rounded_weights(weight, bias, scale)
                value = _product(layer, inputs[0], weight, bias)
            if integers and layer.name not in fused:
                # The largest of some pixels keeps the integer that it had.
                ranged = layer.inputs[0] if layer.op == "max_pool" else layer.name
                scales[layer.name], value = self._rounded(ranged, value)
            for name in step.frees:
                del values[name]
            values[layer.name] = value
        return value

    def _in_its_precision(self, layer: Layer) -> Layer:
        return replace(layer, precision="int8" if self.quantised(layer) else "fp32")

    def _read(self, name: str, x_BCHW: Tensor, scale: float | None) -> tuple[float, Tensor]:
        """As `_rounded`, of what has this scale already or none: images, and what layers in floats put out."""
        return self._rounded(name, x_BCHW) if scale is None else (scale, x_BCHW)

    def _rounded(self, name: str, x_BCHW: Tensor) -> tuple[float, Tensor]:
        """Activations rounded to the integers of the range of this name, and the scale of these."""
        if name not in self.ranges:
            raise SupernetError(f"no range is given for the activations of layer {name!r}")
        low, high = min(self.ranges[name][0], 0.0), max(self.ranges[name][1], 0.0)
        scale = np.float32((high - low) / LEVELS or 1.0)
        zero = int(np.clip(round(-low / scale), 0, LEVELS))
        return float(scale), torch.fake_quantize_per_tensor_affine(x_BCHW, float(scale), zero, 0, LEVELS)


def _rounded_weights(weight: Tensor, bias: Tensor | None, scale: float) -> tuple[Tensor, Tensor | None]:
    """Weight and bias (O,) of a layer whose input has this scale."""
    largest_O = weight.detach().abs().flatten(1).amax(1)
    scale_O = torch.where(largest_O > 0, largest_O / WEIGHT_LEVELS, 1.0)
    # A weight between two integers goes where division takes it: torch's own fake quantisation multiplies by the inverse.
    weight = _straight(weight, scale_O.view(-1, *[1] * (weight.dim() - 1)))
    return weight, None if bias is None else _straight(bias, scale_O * scale)


def _straight(x: Tensor, scale: Tensor) -> Tensor:
    """Rounded to multiples of a scale, with the gradient of the identity."""
    return x + (torch.round(x.detach() / scale) * scale - x.detach())


def _product(layer: Layer, x_BCHW: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if layer.op == "linear":
        return F.linear(x_BCHW.flatten(1), weight, bias)
    return F.conv2d(x_BCHW, weight, bias, layer.stride, layer.kernel // 2, 1, layer.groups)
