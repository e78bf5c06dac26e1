"""Augmentation of whole batches of 8-bit images, and their way to normalised floats. B, C, H, W as usual."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from supernets.settings import Augmentation


def augmented(x_BCHW: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """A new batch of the same shape and type, on the same device; what is random comes from `generator`, on the CPU."""
    batch, _, height, width = x_BCHW.shape
    device = x_BCHW.device
    rows_BH = torch.arange(height, device=device).expand(batch, -1)
    columns_BW = torch.arange(width, device=device).expand(batch, -1)
    if settings.shift_px:
        reach = settings.shift_px
        offsets_2B1 = torch.randint(-reach, reach + 1, (2, batch, 1), generator=generator).to(device)
        rows_BH = _reflect(rows_BH + offsets_2B1[0], height)
        columns_BW = _reflect(columns_BW + offsets_2B1[1], width)
    if settings.mirror:
        flip_B1 = (torch.rand(batch, 1, generator=generator) < 0.5).to(device)
        columns_BW = torch.where(flip_B1, columns_BW.flip(1), columns_BW)
    index_B = torch.arange(batch, device=device)[:, None, None]
    # Indices apart from the sliced channels: the result comes as (B, H, W, C), which is channels-last already.
    y_BCHW = x_BCHW[index_B, :, rows_BH[:, :, None], columns_BW[:, None, :]].permute(0, 3, 1, 2)
    if settings.cutout_px:
        tops_2B1 = torch.rand(2, batch, 1, generator=generator).to(device)
        inside_BH = _inside(tops_2B1[0], height, settings.cutout_px)
        inside_BW = _inside(tops_2B1[1], width, settings.cutout_px)
        y_BCHW = y_BCHW.masked_fill((inside_BH[:, :, None] & inside_BW[:, None, :])[:, None], 127)
    return y_BCHW


@dataclass(frozen=True, slots=True)
class Normalisation:
    """Mean and standard deviation of each channel, of pixels scaled to [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """8-bit images as normalised fp32, channels-last."""
        mean, std = (torch.tensor(v, device=x_BCHW.device).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return x_BCHW.float().mul(1 / 255.0).sub(mean).div(std).contiguous(memory_format=torch.channels_last)


def _reflect(index: Tensor, size: int) -> Tensor:
    """Indices outside [0, size) mirrored at the border, without repeating the border pixel."""
    if size == 1:
        return torch.zeros_like(index)
    index = index.remainder(2 * (size - 1))  # there and back: a shift may be larger than the image
    return torch.minimum(index, 2 * (size - 1) - index)


def _inside(where_B1: Tensor, size: int, side: int) -> Tensor:
    """Which of `size` positions (B, size) a span of `side` covers, whose centre is at `where_B1` in [0, 1)."""
    start_B1 = (where_B1 * size).long() - side // 2
    positions = torch.arange(size, device=where_B1.device)
    return (positions >= start_B1) & (positions < start_B1 + side)
