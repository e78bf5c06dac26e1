"""State dicts that names, shapes and a seed decide, the same on every machine, and images that go with them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from math import prod, sqrt

import numpy as np
import torch
from torch import Tensor

Shape = Sequence[int]


def drawn_state(shapes: Mapping[str, Shape], seed: int) -> dict[str, Tensor]:
    """As a training might leave it: statistics, gains, biases and kernel matrices far from their start."""
    return {name: _drawn(name, tuple(shape), seed) for name, shape in shapes.items()}


def drawn_images(shape: Shape, seed: int) -> Tensor:
    """Images with values from -2 to 2."""
    return 2 * uniform("images", tuple(shape), seed)


def uniform(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Numbers from -1 to 1: from the raw stream of PCG64, which NumPy keeps fixed over versions, 16 bits each."""
    own = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:16], "big")
    size = prod(shape)
    raw = np.random.PCG64(own).random_raw(size // 4 + 1).astype("<u8").view("<u2")[:size]
    return torch.from_numpy((raw.astype(np.float32) - 32767.5) / 32768).reshape(shape)


def _drawn(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    noise = uniform(name, shape, seed)
    if name.endswith("_matrix"):
        return torch.eye(*shape) + 0.1 * noise
    if name.endswith("running_var"):
        return 1 + 0.5 * noise
    if name.endswith("weight") and len(shape) == 1:
        return 0.7 + 0.3 * noise  # so that deep residual networks end with logits of order one
    if len(shape) == 1:
        return 0.3 * noise
    return sqrt(3 * 1.5 / prod(shape[1:])) * noise
