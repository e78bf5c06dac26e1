"""The most important channels first, so that a narrow layer, which takes the first ones, begins with the best.

Cai et al., "Once-for-All", ICLR 2020, section 3.3 (elastic width): a channel matters as much as the L1 norm of the weights that
read it. Whatever writes and reads a channel is reordered alike, so the largest network computes what it did before, and so does
every network of full width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from search_spaces import NETWORK_INPUT, Layer, with_exits
from supernets.supernet import Supernet

# Operations that keep every channel to itself. One that is not here keeps the order of all channels it reads and writes.
CHANNELWISE = ("add", "mul", "relu", "relu6", "hswish", "hsigmoid", "global_pool", "max_pool", "avg_pool")

Orders = dict[str, tuple[Tensor | None, Tensor | None]]
"""By tensor of a supernet's state, the new order of its first axis (channels out) and of its second (channels in)."""


@dataclass
class _Groups:
    """Values whose channels must stay in one order: `parent` leads from each of them to the one that stands for all."""

    parent: dict[str, str] = field(default_factory=dict)
    fixed: set[str] = field(default_factory=set)

    def of(self, name: str) -> str:
        while (above := self.parent.setdefault(name, name)) != name:
            name = above
        return name

    def join(self, name: str, other: str) -> None:
        a, b = self.of(name), self.of(other)
        self.parent[a] = b
        if a in self.fixed:
            self.fixed.add(b)

    def fix(self, *names: str) -> None:
        self.fixed.update(self.of(name) for name in names)


def channel_orders(net: Supernet) -> Orders:
    """How to reorder the tensors of a supernet, by the importance of the channels of its largest network."""
    layers = with_exits(net.space, net.space.largest())
    groups = _groups(layers)
    scores: dict[str, Tensor] = {}
    for layer in layers:
        read = groups.of(layer.inputs[0])
        if _mixes(layer) and read not in groups.fixed:
            weight = net.weights(layer)[0].detach()
            score = weight.abs().transpose(0, 1).flatten(1).sum(1)
            scores[read] = score + scores.get(read, 0.0)
    orders = {name: torch.argsort(score, descending=True, stable=True) for name, score in scores.items()}
    state = net.state_dict()
    found: Orders = {}
    for layer in layers:
        if layer.weight_shape:
            out = orders.get(groups.of(layer.name))
            into = orders.get(groups.of(layer.inputs[0])) if _mixes(layer) else None
            for name in _tensors(layer, state):
                found[name] = (out, into if state[name].dim() > 1 else None)
    return found


def reorder(tensors: Mapping[str, Tensor], orders: Orders) -> None:
    """Reorder tensors of a supernet (weights, averages, momenta) in place; those of other names stay as they are."""
    with torch.no_grad():
        for name in tensors.keys() & orders.keys():
            tensor = tensors[name]
            for axis, order in enumerate(orders[name]):
                if order is not None:
                    narrow = tensor.narrow(axis, 0, len(order))
                    narrow.copy_(narrow.index_select(axis, order))


def _groups(layers: tuple[Layer, ...]) -> _Groups:
    groups = _Groups()
    for layer in layers:
        if layer.op in CHANNELWISE or _depthwise(layer):
            for name in layer.inputs:
                groups.join(layer.name, name)
        elif not _mixes(layer):
            groups.fix(layer.name, *layer.inputs)
    read = {name for layer in layers for name in layer.inputs}
    groups.fix(NETWORK_INPUT, *(layer.name for layer in layers if layer.name not in read))
    return groups


def _mixes(layer: Layer) -> bool:
    """Whether a layer reads all channels for each that it writes, by a weight (out, in, ...)."""
    return layer.op in ("conv", "linear") and layer.groups == 1 and layer.weight_shape[1] == layer.in_shape[0]


def _depthwise(layer: Layer) -> bool:
    return layer.op == "conv" and layer.groups == layer.in_shape[0] == layer.out_shape[0]


def _tensors(layer: Layer, state: Mapping[str, Tensor]) -> Iterator[str]:
    """Names of what a layer with weights has a row for each channel of."""
    names = [f"{layer.name}.weight", f"{layer.name}.bias"]
    names += [f"{layer.name}_norm.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
    return (name for name in names if name in state)
