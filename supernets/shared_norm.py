"""Batch norm by the images of all workers.

By its own images alone, each worker would normalise otherwise than one that has them all, and the more so the more workers
there are (Peng et al., "MegDet: A Large Mini-Batch Object Detector", CVPR 2018, section 4.2).

Shapes: B images of this worker, C channels, H height, W width; R workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from supernets.elastic import ElasticBatchNorm2d
from supernets.group import Group
from supernets.supernet import Normalise


@dataclass(frozen=True, slots=True)
class _Statistics:
    """Mean and variance (C,) over `count` pixels, those of all workers."""

    mean_C: Tensor
    var_C: Tensor
    count: float


def by_all_images(group: Group, *, keep: bool) -> Normalise:
    """For `Supernet.run`; with `keep`, the running statistics follow, as in a training step of one worker."""

    def normalise(name: str, norm: ElasticBatchNorm2d, x_BCHW: Tensor) -> Tensor:
        channels = x_BCHW.shape[1]
        found = _statistics(group, x_BCHW)
        if keep:
            running_mean_C, running_var_C = norm.running(channels)
            running_mean_C.lerp_(found.mean_C, norm.momentum)
            running_var_C.lerp_(found.var_C * (found.count / (found.count - 1)), norm.momentum)
        scale_C, shift_C = norm.weight[:channels], norm.bias[:channels]
        normed: Tensor = _Normed.apply(x_BCHW, scale_C, shift_C, found, norm.eps, group)  # type: ignore[no-untyped-call]
        return normed

    return normalise


def _statistics(group: Group, x_BCHW: Tensor) -> _Statistics:
    """From each worker's own mean and variance, which lose less to rounding than sums of squares do."""
    # Of torch's ways the one that takes no longer than its batch norm does: var_mean takes 15-30 times as long, channels last.
    exact_BCHW = x_BCHW.detach() if x_BCHW.element_size() >= 4 else x_BCHW.detach().float()
    own_mean_C, own_var_C = torch.batch_norm_update_stats(exact_BCHW, None, None, 0.0)
    own_count = own_mean_C.new_tensor([x_BCHW.numel() // x_BCHW.shape[1]])
    all_R = group.gather(torch.cat([own_count, own_mean_C, own_var_C])).double()
    count_R1, (mean_RC, var_RC) = all_R[:, :1], all_R[:, 1:].chunk(2, 1)
    count = count_R1.sum()
    mean_C = (count_R1 * mean_RC).sum(0) / count
    var_C = (count_R1 * (var_RC + (mean_RC - mean_C).square())).sum(0) / count
    return _Statistics(mean_C.to(own_mean_C.dtype), var_C.to(own_mean_C.dtype), float(count))


class _Normed(torch.autograd.Function):
    """Ioffe and Szegedy, "Batch Normalization", ICML 2015, section 3; sums over images are of all workers."""

    @staticmethod
    def forward(
        ctx: Any, x_BCHW: Tensor, scale_C: Tensor, shift_C: Tensor, found: _Statistics, eps: float, group: Group
    ) -> Tensor:
        ctx.save_for_backward(x_BCHW, scale_C)
        ctx.found, ctx.eps, ctx.group = found, eps, group
        return F.batch_norm(x_BCHW, found.mean_C, found.var_C, scale_C, shift_C, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, dy_BCHW: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of scale and shift are of this worker's images alone: those of all weights are added up later."""
        x_BCHW, scale_C = ctx.saved_tensors
        found: _Statistics = ctx.found
        # As if mean and variance were constants; what they add follows from two sums.
        dx_BCHW, dscale_C, dshift_C = torch.ops.aten.native_batch_norm_backward(
            dy_BCHW, x_BCHW, scale_C, found.mean_C, found.var_C, None, None, False, ctx.eps, [True, True, True]
        )
        mean_dy_C, mean_dy_times_normed_C = ctx.group.add(torch.stack([dshift_C, dscale_C])) / found.count
        factor_C = (found.var_C + ctx.eps).rsqrt()
        slope_C = scale_C * factor_C.square() * mean_dy_times_normed_C
        offset_C = scale_C * factor_C * mean_dy_C - slope_C * found.mean_C
        shared_BCHW = torch.addcmul(offset_C[:, None, None], x_BCHW, slope_C[:, None, None])
        return dx_BCHW.sub_(shared_BCHW), dscale_C, dshift_C, None, None, None
