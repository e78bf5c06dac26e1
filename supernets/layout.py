"""Number type and memory format of training, chosen by measuring the network at hand on the machine at hand.

No layout wins everywhere: on two AVX-512 cores dense residual networks train 2.2x faster in bf16 channels-last than in
contiguous fp32, while depthwise ones are fastest in fp32 channels-last and slower in bf16 than in either fp32.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from supernets.supernet import Supernet


@dataclass(frozen=True, slots=True)
class Layout:
    """How activations and weights are held while training; parameters and optimiser state are always fp32."""

    bf16: bool
    channels_last: bool

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self) -> torch.autocast:
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16)

    def hold(self, net: Supernet) -> Supernet:
        """The same network, its weights moved to this memory format."""
        net.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        return net

    def place(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW.contiguous(memory_format=self.memory_format)


LAYOUTS: dict[str, Layout] = {
    "fp32": Layout(bf16=False, channels_last=False),
    "fp32_channels_last": Layout(bf16=False, channels_last=True),
    "bf16_channels_last": Layout(bf16=True, channels_last=True),
}


def fastest_layout(net: Supernet, batch: int, repeats: int = 3) -> str:
    """The name of the layout in which forward and backward of the largest sub-network take the least time."""
    size = int(net.space.largest().values["resolution"])
    x_BCHW = torch.rand(batch, net.space.settings["in_channels"], size, size)
    copies = {name: layout.hold(copy.deepcopy(net).train()) for name, layout in LAYOUTS.items()}
    seconds = dict.fromkeys(LAYOUTS, float("inf"))
    for repeat in range(repeats + 1):
        for name, layout in LAYOUTS.items():
            start = time.perf_counter()
            _one_pass(copies[name], layout, layout.place(x_BCHW))
            if repeat > 0:  # the first pass pays for the set-up of every convolution
                seconds[name] = min(seconds[name], time.perf_counter() - start)
    return min(seconds, key=lambda name: seconds[name])


def _one_pass(net: Supernet, layout: Layout, x_BCHW: Tensor) -> None:
    with layout.autocast():
        logits = net(x_BCHW, net.space.largest())
    F.cross_entropy(logits.float(), torch.zeros(len(x_BCHW), dtype=torch.long)).backward()  # type: ignore[no-untyped-call]
