"""One architecture taken out of a supernet: as a plain torch module, or as the folded weights of its deployed graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from search_spaces import NETWORK_INPUT, Arch, Layer, exits, network, with_exits
from supernets.proxies import only
from supernets.supernet import FUNCTIONS, Stats, Supernet

FoldedWeights = dict[str, tuple[NDArray[np.float32], NDArray[np.float32] | None]]

MODULES: dict[str, Callable[[Layer], nn.Module]] = {
    "max_pool": lambda layer: nn.MaxPool2d(layer.kernel, layer.stride, layer.kernel // 2),
    "avg_pool": lambda layer: nn.AvgPool2d(layer.kernel, layer.stride, ceil_mode=True),
    "relu": lambda layer: nn.ReLU(),
    "relu6": lambda layer: nn.ReLU6(),
    "hswish": lambda layer: nn.Hardswish(),
    "hsigmoid": lambda layer: nn.Hardsigmoid(),
}


def extract(net: Supernet, arch: Arch, stats: Stats | None = None, *, all_logits: bool = False) -> fx.GraphModule:
    """A module of plain convolutions, batch norms and activations with copies of the weights, in evaluation mode.

    It computes what `net(x, arch, stats)` computes in evaluation mode, or what `net.all_logits` does, bit for bit.
    """
    graph = fx.Graph()
    tracer = fx.proxy.GraphAppendingTracer(graph)
    modules: dict[str, nn.Module] = {}
    values = {NETWORK_INPUT: graph.placeholder("input")}

    def call(name: str, module: nn.Module, value: fx.Node) -> fx.Node:
        modules[name] = module
        return graph.call_module(name, (value,))

    whole = network(net.space, arch)
    for layer in with_exits(net.space, arch) if all_logits else whole:
        inputs = [values[name] for name in layer.inputs]
        if layer.op in MODULES:
            value = call(layer.name, MODULES[layer.op](layer), inputs[0])
        elif layer.op in FUNCTIONS:
            traced: Any = FUNCTIONS[layer.op](layer, *(fx.Proxy(node, tracer) for node in inputs))
            value = traced.node
        elif layer.op == "linear":
            value = call(layer.name, _linear(net, layer), graph.call_method("flatten", (inputs[0], 1)))
        else:
            value = call(layer.name, _conv(net, layer), inputs[0])
            if layer.norm:
                value = call(f"{layer.name}_norm", _batch_norm(net, layer, stats), value)
        values[layer.name] = value
    logits = values[whole[-1].name]
    graph.output((*(values[each.output] for each in exits(net.space, arch)), logits) if all_logits else logits)
    return fx.GraphModule(modules, graph, class_name=f"{net.space.family}_{arch.id}").eval()


def fold(net: Supernet, arch: Arch, stats: Stats | None = None) -> FoldedWeights:
    """Weights by layer name with batch norm folded in, computed in double precision (Jacob et al., CVPR 2018, eq. 14); those
    of exits, too."""
    folded: FoldedWeights = {}
    for layer in with_exits(net.space, arch):
        if layer.weight_shape:
            weight, bias = folded_layer(net, layer, stats)
            folded[layer.name] = (_array(weight), None if bias is None else _array(bias))
    return folded


def folded_layer(net: Supernet, layer: Layer, stats: Stats | None = None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a convolution or linear layer with the batch norm after it, rounded to single precision at the end.
    Gradients flow back to the weights and to scale and shift of the norm."""
    sliced, offset = net.weights(layer)
    weight, bias = sliced.double(), None if offset is None else offset.double()
    if layer.norm:
        mean, var, scale, shift = (t.double() for t in _normalisation(net, layer, stats))
        gain = scale / torch.sqrt(var + net.norm(layer).eps)
        weight = weight * gain.view(-1, *[1] * (weight.dim() - 1))
        bias = shift + ((0.0 if bias is None else bias) - mean) * gain
    return weight.float(), None if bias is None else bias.float()


def alone(net: Supernet, arch: Arch, stats: Stats | None = None) -> Supernet:
    """A supernet whose one architecture is this one, on the CPU, with copies of its weights and `stats` as running statistics.

    It computes what `net` computes for it, and has no weights of others.
    """
    found = Supernet(only(net.space, arch)).eval()
    for layer in with_exits(net.space, arch):
        if layer.weight_shape:
            copy_layer(found, net, layer, stats)
    return found


def copy_layer(target: Supernet, source: Supernet, layer: Layer, stats: Stats | None) -> None:
    """Weights of a layer that two supernets have, and its batch norm with `stats` as running statistics; `target` has it in no
    other size."""
    for mine, its in zip(target.weights(layer), source.weights(layer), strict=True):
        if mine is not None and its is not None:
            _copy(mine, its)
    if layer.norm:
        norm = target.norm(layer)
        targets = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        for mine, its in zip(targets, _normalisation(source, layer, stats), strict=True):
            _copy(mine, its)


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.detach().numpy())


def _normalisation(net: Supernet, layer: Layer, stats: Stats | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean, variance, scale and shift, (C,) each, of the batch norm after a convolution."""
    norm, channels = net.norm(layer), layer.out_shape[0]
    mean, var = norm.running(channels) if stats is None else stats[layer.name]
    return mean, var, norm.weight[:channels], norm.bias[:channels]


def _conv(net: Supernet, layer: Layer) -> nn.Conv2d:
    weight, bias = net.weights(layer)
    conv = nn.Conv2d(
        layer.in_shape[0],
        layer.out_shape[0],
        layer.kernel,
        layer.stride,
        layer.kernel // 2,
        groups=layer.groups,
        bias=bias is not None,
    )
    # A clone keeps the memory format, on which the order of additions depends.
    conv.weight = nn.Parameter(weight.detach().clone())
    if conv.bias is not None and bias is not None:
        _copy(conv.bias, bias)
    return conv


def _linear(net: Supernet, layer: Layer) -> nn.Linear:
    weight, bias = net.weights(layer)
    linear = nn.Linear(layer.weight_shape[1], layer.weight_shape[0])
    _copy(linear.weight, weight)
    if bias is not None:
        _copy(linear.bias, bias)
    return linear


def _batch_norm(net: Supernet, layer: Layer, stats: Stats | None) -> nn.BatchNorm2d:
    module = nn.BatchNorm2d(layer.out_shape[0], eps=net.norm(layer).eps)
    targets = (module.running_mean, module.running_var, module.weight, module.bias)
    for target, source in zip(targets, _normalisation(net, layer, stats), strict=True):
        assert target is not None, "a BatchNorm2d that tracks statistics has all four"
        _copy(target, source)
    return module


def _copy(target: Tensor, source: Tensor) -> None:
    with torch.no_grad():
        target.copy_(source)
