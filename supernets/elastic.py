"""Elastic operations: weights of the largest size, sliced for the layer at hand.

Shapes: B batch, C channels, H height, W width; O output channels, I input channels a group, K kernel.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces import Layer
from search_spaces.layers import NORM_EPS


class ElasticConv2d(nn.Module):
    """A convolution of any width and kernel up to the largest, all sharing one weight.

    A layer takes the first output and input channels. A smaller kernel is the centre of the next larger one times a learned
    matrix, shared by all channels (Cai et al., "Once-for-All", ICLR 2020, section 3.3), which starts as the identity.
    """

    def __init__(self, out: int, in_per_group: int, kernels: tuple[int, ...], *, bias: bool) -> None:
        super().__init__()
        self.kernels = tuple(sorted(kernels, reverse=True))
        self.weight = nn.Parameter(torch.empty(out, in_per_group, self.kernels[0], self.kernels[0]))
        self.bias = nn.Parameter(torch.zeros(out)) if bias else None
        self.transforms = nn.ParameterDict(
            {f"{large}to{small}": nn.Parameter(torch.eye(small * small)) for large, small in pairwise(self.kernels)}
        )

    def sliced(self, layer: Layer) -> tuple[Tensor, Tensor | None]:
        """Weight (O, I, K, K) and bias (O,) of this layer: views, but for kernels that are transformed."""
        out, in_per_group, kernel, _ = layer.weight_shape
        # weight[:out, :in_per_group] in one step: on the way back each slice fills and copies a gradient of the whole weight,
        # which took 2-4% of a training step of `tiny` at batch 32-64 (ratio of 21 runs in turn).
        weight = self.weight.as_strided((out, in_per_group, *self.weight.shape[2:]), self.weight.stride())
        for large, small in pairwise(self.kernels):
            if large <= kernel:
                break
            edge = (large - small) // 2
            centre = weight[:, :, edge : edge + small, edge : edge + small].reshape(out, in_per_group, small * small)
            weight = F.linear(centre, self.transforms[f"{large}to{small}"]).view(out, in_per_group, small, small)
        return weight, None if self.bias is None else self.bias[:out]

    def forward(self, x_BCHW: Tensor, layer: Layer) -> Tensor:
        weight, bias = self.sliced(layer)
        return F.conv2d(x_BCHW, weight, bias, layer.stride, layer.kernel // 2, 1, layer.groups)


class ElasticBatchNorm2d(nn.Module):
    """Batch norm over the first channels. Its running statistics are those of whatever was trained last: an architecture
    that counts is evaluated with statistics of its own (see `supernets.calibrate`)."""

    momentum = 0.1

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = NORM_EPS) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(
        self, x_BCHW: Tensor, mean_C: Tensor | None, var_C: Tensor | None, *, batch: bool, momentum: float
    ) -> Tensor:
        """Normalise by the batch, folding its statistics into `mean_C` and `var_C` in place where given, or else by these."""
        channels = x_BCHW.shape[1]
        scale, shift = self.weight[:channels], self.bias[:channels]
        return F.batch_norm(x_BCHW, mean_C, var_C, scale, shift, training=batch, momentum=momentum, eps=self.eps)

    def running(self, channels: int) -> tuple[Tensor, Tensor]:
        """Running mean and variance of the first channels, as views."""
        return self.running_mean[:channels], self.running_var[:channels]


class ElasticLinear(nn.Module):
    """A fully connected layer over the first input features."""

    def __init__(self, out: int, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out, features))
        self.bias = nn.Parameter(torch.zeros(out))

    def sliced(self, layer: Layer) -> tuple[Tensor, Tensor]:
        """Weight (O, I) and bias (O,) of this layer, as views."""
        out, features = layer.weight_shape
        return self.weight[:out, :features], self.bias[:out]

    def forward(self, x_BCHW: Tensor, layer: Layer) -> Tensor:
        weight, bias = self.sliced(layer)
        return F.linear(x_BCHW.flatten(1), weight, bias)
