"""The once-for-all network: one set of weights, every architecture of a space.

It knows no family. The slots of the space say which layers exist and how large they get; a forward pass runs the layers of
one architecture over slices of the shared weights.

Shapes: B batch, C channels (beside G those of a head), H height, W width; G heads, N pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces import NETWORK_INPUT, Arch, Layer, Space, exits, network, slot_configs, slots
from search_spaces.exits import SETTING, head, stage_of
from supernets.elastic import ElasticBatchNorm2d, ElasticConv2d, ElasticLinear

Stats = Mapping[str, tuple[Tensor, Tensor]]
"""Batch-norm mean and variance, (C,) each, by the name of the convolution that they follow."""

Normalise = Callable[[str, ElasticBatchNorm2d, Tensor], Tensor]
Function = Callable[..., Tensor]
"""Of a layer without weights, and of what it reads."""


@dataclass(frozen=True, slots=True)
class Step:
    """One layer of a running network, and the values that nothing reads after it."""

    layer: Layer
    frees: tuple[str, ...]


@lru_cache(maxsize=4096)
def program(space: Space, arch: Arch) -> tuple[Step, ...]:
    """The layers of an architecture with the life of every value, so that evaluation holds few of them at once."""
    return _steps(network(space, arch), ())


@lru_cache(maxsize=4096)
def exit_programs(space: Space, arch: Arch) -> tuple[tuple[Step, ...], ...]:
    """The network of an architecture with what its exits read left over, and then each exit."""
    found = exits(space, arch)
    reads = tuple(each.reads for each in found)
    return (_steps(network(space, arch), reads), *(_steps(each.layers, reads) for each in found))


def _steps(layers: Sequence[Layer], kept: Sequence[str]) -> tuple[Step, ...]:
    last_use = {name: i for i, layer in enumerate(layers) for name in layer.inputs if name not in kept}
    return tuple(
        Step(layer, tuple(name for name in dict.fromkeys(layer.inputs) if last_use.get(name) == i))
        for i, layer in enumerate(layers)
    )


class Supernet(nn.Module):
    """All networks of `space`, with weights drawn from `seed`."""

    def __init__(self, space: Space, seed: int = 0) -> None:
        super().__init__()
        self.space = space
        self._weighted: dict[str, ElasticConv2d | ElasticLinear] = {}
        self._norms: dict[str, ElasticBatchNorm2d] = {}
        generator = torch.Generator().manual_seed(seed)
        for name, (largest, kernels) in _extents(space).items():
            module: ElasticConv2d | ElasticLinear
            if largest.op == "conv":
                module = ElasticConv2d(largest.out_shape[0], largest.weight_shape[1], kernels, bias=largest.bias)
            else:
                module = ElasticLinear(*largest.weight_shape)
            _initialise(module.weight, largest, generator)
            self._weighted[name] = module
            _attach(self, name, module)
            if largest.norm:
                self._norms[name] = ElasticBatchNorm2d(largest.out_shape[0], largest.norm_eps)
                _attach(self, f"{name}_norm", self._norms[name])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def forward(self, x_BCHW: Tensor, arch: Arch, stats: Stats | None = None) -> Tensor:
        """Logits (B, classes) of one architecture; `x_BCHW` has its resolution.

        Batch norm uses the batch in training mode; in evaluation mode `stats`, or the running statistics without them.
        """
        return self.run(x_BCHW, arch, self._normalise(stats))

    def all_logits(self, x_BCHW: Tensor, arch: Arch, stats: Stats | None = None) -> tuple[Tensor, ...]:
        """Logits (B, classes) of each exit, and last those of `forward`, in one pass."""
        return self.run_all(x_BCHW, arch, self._normalise(stats))

    def run(
        self, x_BCHW: Tensor, arch: Arch, normalise: Normalise, functions: Mapping[str, Function] | None = None
    ) -> Tensor:
        """The forward pass with the caller's batch norm, `normalise(name, module, x_BCHW)` after each convolution, and with
        the caller's functions in place of `FUNCTIONS`."""
        functions = FUNCTIONS if functions is None else functions
        return self._run(program(self.space, arch), {NETWORK_INPUT: x_BCHW}, normalise, functions)

    def run_all(
        self, x_BCHW: Tensor, arch: Arch, normalise: Normalise, *, heads_alone: bool = False
    ) -> tuple[Tensor, ...]:
        """As `all_logits`, with the caller's batch norm. With `heads_alone` no gradient flows back beyond the exits."""
        whole, *heads = exit_programs(self.space, arch)
        values = {NETWORK_INPUT: x_BCHW}
        with torch.set_grad_enabled(torch.is_grad_enabled() and not heads_alone):
            logits = self._run(whole, values, normalise, FUNCTIONS)
        return (*(self._run(each, values, normalise, FUNCTIONS) for each in heads), logits)

    def _normalise(self, stats: Stats | None) -> Normalise:
        def normalise(name: str, norm: ElasticBatchNorm2d, y_BCHW: Tensor) -> Tensor:
            mean_C, var_C = norm.running(y_BCHW.shape[1]) if stats is None or self.training else stats[name]
            normed: Tensor = norm(y_BCHW, mean_C, var_C, batch=self.training, momentum=norm.momentum)
            return normed

        return normalise

    def _run(
        self,
        steps: Sequence[Step],
        values: dict[str, Tensor],
        normalise: Normalise,
        functions: Mapping[str, Function],
    ) -> Tensor:
        """What the last of these layers puts out; `values` holds what they read, and afterwards what they left over."""
        for step in steps:
            layer = step.layer
            inputs = [values[name] for name in layer.inputs]
            for name in step.frees:
                del values[name]
            if layer.op in functions:
                value = functions[layer.op](layer, *inputs)
            else:
                value = self._weighted[layer.name](inputs[0], layer)
                if layer.norm:
                    value = normalise(layer.name, self._norms[layer.name], value)
            values[layer.name] = value
        return value

    def weights(self, layer: Layer) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of a convolution or linear layer, sliced to its shape."""
        return self._weighted[layer.name].sliced(layer)

    def norm(self, layer: Layer) -> ElasticBatchNorm2d:
        """The batch norm after a convolution."""
        return self._norms[layer.name]


def _attention(layer: Layer, *qkv_BCHW: Tensor) -> Tensor:
    # Channels last, as trainings have it, torch's own runs 1.3-3.7 times as fast as two products with a softmax between.
    q_BGNC, k_BGNC, v_BGNC = (torch.unflatten(x, 1, (layer.groups, -1)).flatten(3).transpose(2, 3) for x in qkv_BCHW)
    mixed_BGNC = F.scaled_dot_product_attention(q_BGNC, k_BGNC, v_BGNC)
    return mixed_BGNC.transpose(2, 3).reshape(qkv_BCHW[2].shape)


FUNCTIONS: dict[str, Function] = {
    "attention": _attention,
    "global_pool": lambda layer, x: x.mean((2, 3), keepdim=True),
    "max_pool": lambda layer, x: F.max_pool2d(x, layer.kernel, layer.stride, layer.kernel // 2),
    "avg_pool": lambda layer, x: F.avg_pool2d(x, layer.kernel, layer.stride, ceil_mode=True),
    "add": lambda layer, x, y: x + y,
    "mul": lambda layer, x, y: x * y,
    "relu": lambda layer, x: F.relu(x),
    "relu6": lambda layer, x: F.relu6(x),
    "hswish": lambda layer, x: F.hardswish(x),
    "hsigmoid": lambda layer, x: F.hardsigmoid(x),
}
"""What a layer without weights makes of what it reads."""


def _initialise(weight: Tensor, layer: Layer, generator: torch.Generator) -> None:
    """He initialisation by fan-out for convolutions, by fan-in for the classifier.

    Residual branches start at full strength: with the batch norm at their end at zero, as long trainings like it, a
    training of a few epochs hardly moved them (CIFAR-10 at 16 px, 160 steps: loss 2.02 against 1.74).
    """
    if layer.op == "linear":
        variance = 1.0 / layer.weight_shape[1]
    else:
        variance = 2.0 * layer.groups / (layer.out_shape[0] * layer.kernel**2)
    with torch.no_grad():
        weight.normal_(0.0, math.sqrt(variance), generator=generator)


def _extents(space: Space) -> dict[str, tuple[Layer, tuple[int, ...]]]:
    """By name, every layer with weights at its largest over the space, and all kernels that it takes. Those of exits come
    last, so that the others are drawn as if there were none."""
    found: dict[str, tuple[Layer, tuple[int, ...]]] = {}
    built = [slot.build(values) for slot in slots(space) for values in slot_configs(space, slot)]
    for layer in (layer for layers in (*built, *_exit_heads(space, built)) for layer in layers):
        if layer.weight_shape:
            known, kernels = found.get(layer.name, (layer, ()))
            found[layer.name] = (max(known, layer, key=lambda each: each.weight_shape), (*kernels, layer.kernel))
    return {name: (layer, tuple(sorted(set(kernels)))) for name, (layer, kernels) in found.items()}


def _exit_heads(space: Space, built: Sequence[tuple[Layer, ...]]) -> Iterator[tuple[Layer, ...]]:
    """The exits of a space, for every shape that a slot of their stage puts out."""
    shapes = dict.fromkeys((stage_of(layers[-1].name), layers[-1].out_shape) for layers in built if layers)
    return (head(space.settings, stage, shape) for stage, shape in shapes if stage in space.settings.get(SETTING, ()))


def _attach(root: nn.Module, name: str, module: nn.Module) -> None:
    """Register `module` at a dotted path, making the containers on the way."""
    *path, leaf = name.split(".")
    for part in path:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    root.add_module(leaf, module)
