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

from supernets.errors import TrainError
from supernets.supernet import Supernet


@dataclass(frozen=True, slots=True)
class Layout:
    """How activations and weights are held while training; parameters and optimiser state are always fp32."""

    dtype: torch.dtype
    channels_last: bool

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def reduced(self) -> bool:
        """Whether activations have fewer bits than the weights."""
        return self.dtype != torch.float32

    def autocast(self, device: str = "cpu") -> torch.autocast:
        return torch.autocast(device, dtype=self.dtype if self.reduced else None, enabled=self.reduced)

    def scaler(self, device: torch.device) -> torch.amp.GradScaler:
        """What keeps small gradients from vanishing in fp16, by loss scaling; the other types need none."""
        return torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)

    def hold(self, net: Supernet) -> Supernet:
        """The same network, its weights moved to this memory format."""
        net.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        return net

    def place(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW.contiguous(memory_format=self.memory_format)


LAYOUTS: dict[str, Layout] = {
    "fp32": Layout(torch.float32, channels_last=False),
    "fp32_channels_last": Layout(torch.float32, channels_last=True),
    "bf16_channels_last": Layout(torch.bfloat16, channels_last=True),
    "fp16_channels_last": Layout(torch.float16, channels_last=True),
}


def layouts_on(device: torch.device) -> dict[str, Layout]:
    """Those that a device has: CPUs compute fp16 slowly where they do at all."""
    return {name: of for name, of in LAYOUTS.items() if device.type == "cuda" or of.dtype != torch.float16}


def device_of(name: str) -> torch.device:
    """The device of `train.device`; `TrainError` where there is none."""
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise TrainError(
            "train.device is cuda, but torch finds no GPU here; set auto or cpu, or install torch for CUDA"
        )
    return torch.device("cuda" if found and name != "cpu" else "cpu")


def layout_named(name: str, net: Supernet, batch: int) -> str:
    """The name of a layout that the net's device has, the fastest one for `auto`."""
    known = layouts_on(net.device)
    if name == "auto":
        return fastest_layout(net, batch)
    if name not in known:
        raise TrainError(f"train.layout {name} needs a GPU; on this {net.device.type} set auto or {', '.join(known)}")
    return name


def fastest_layout(net: Supernet, batch: int, repeats: int = 3) -> str:
    """The name of the layout in which forward and backward of the largest sub-network take the least time."""
    size = int(net.space.largest().values["resolution"])
    x_BCHW = torch.rand(batch, net.space.settings["in_channels"], size, size, device=net.device)
    layouts = layouts_on(net.device)
    copies = {name: layout.hold(copy.deepcopy(net).train()) for name, layout in layouts.items()}
    seconds = dict.fromkeys(layouts, float("inf"))
    for repeat in range(repeats + 1):
        for name, layout in layouts.items():
            start = time.perf_counter()
            _one_pass(copies[name], layout, layout.place(x_BCHW))
            if repeat > 0:  # the first pass pays for the set-up of every convolution
                seconds[name] = min(seconds[name], time.perf_counter() - start)
    return min(seconds, key=lambda name: seconds[name])


def _one_pass(net: Supernet, layout: Layout, x_BCHW: Tensor) -> None:
    with layout.autocast(x_BCHW.device.type):
        logits = net(x_BCHW, net.space.largest())
    labels = torch.zeros(len(x_BCHW), dtype=torch.long, device=x_BCHW.device)
    F.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
    if x_BCHW.device.type == "cuda":
        torch.cuda.synchronize(x_BCHW.device)
