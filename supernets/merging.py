"""One convolution in place of several: its weights, what it costs the network, and the network that has it.

A merged convolution is not the product of those that it replaces, which would leave out the activations between them. It is the
one that comes nearest, in least squares, to what they compute on images, activations and borders included, as He et al.,
"Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017 (section 3.1) rebuild a layer. It may be smaller than
the window of what it replaces.

Shapes: B batch, C channels, H height, W width, K kernel; N sampled pixels, D numbers in the window of one, O output channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional as F

from search_spaces import NETWORK_INPUT, Arch, Layer, fixed_space, network, network_by_slot
from search_spaces.mergers import Merger, merged, without_overlap
from supernets.batches import seed_of
from supernets.calibrate import resize, resolution
from supernets.elastic import ElasticBatchNorm2d
from supernets.extract import copy_layer, folded_layer
from supernets.proxies import plain_loss
from supernets.supernet import FUNCTIONS, Stats, Supernet

# Of the mean diagonal of the normal equations. Dead channels make these singular.
RIDGE = 1e-4
# Pixels for each unknown of one output channel, and never fewer than these.
PIXELS_A_WEIGHT, LEAST_PIXELS = 4, 8192

Kernel = tuple[Tensor, Tensor]
"""Weight (O, C, K, K) and bias (O,) of a merged convolution."""


@dataclass(frozen=True, eq=False)
class Plain:
    """A network with batch norm folded in: its layers, and weight and bias of those that have some."""

    layers: tuple[Layer, ...]
    weights: Mapping[str, tuple[Tensor, Tensor | None]]
    size: int
    """Height and width of its images."""

    @staticmethod
    def of(net: Supernet, arch: Arch, stats: Stats) -> Plain:
        layers = network(net.space, arch)
        with torch.no_grad():
            weights = {layer.name: folded_layer(net, layer, stats) for layer in layers if layer.weight_shape}
        return Plain(layers, weights, resolution(arch))

    def values(self, x_BCHW: Tensor, wanted: Sequence[str]) -> dict[str, Tensor]:
        """What these layers put out for images of any size; no layer after the last of them is computed."""
        return self.onwards({NETWORK_INPUT: resize(x_BCHW, self.size)}, wanted)

    def onwards(self, given: Mapping[str, Tensor], wanted: Sequence[str], start: int = 0) -> dict[str, Tensor]:
        """The same from the layer of number `start` on, from all that these layers read of what is before it."""
        found = dict(given)
        last_use = {name: i for i, layer in enumerate(self.layers) for name in layer.inputs}
        left = set(wanted) - set(found)
        with torch.no_grad():
            for i, layer in enumerate(self.layers[start:], start):
                if not left:
                    break
                inputs = [found[name] for name in layer.inputs]
                for name in set(layer.inputs) - set(wanted):
                    if last_use[name] == i:
                        del found[name]
                found[layer.name] = self._computed(layer, inputs)
                left.discard(layer.name)
        return {name: found[name] for name in wanted}

    def logits(self, x_BCHW: Tensor) -> Tensor:
        """(B, classes)."""
        last = self.layers[-1].name
        return self.values(x_BCHW, [last])[last]

    def replaced(self, kernels: Mapping[Merger, Kernel]) -> Plain:
        """The same with these mergers made."""
        layers = merged({"": self.layers}, tuple(kernels))[""]
        return Plain(
            layers, {**self.weights, **{each.conv.name: kernel for each, kernel in kernels.items()}}, self.size
        )

    def _computed(self, layer: Layer, inputs: list[Tensor]) -> Tensor:
        if layer.op in FUNCTIONS:
            return FUNCTIONS[layer.op](layer, *inputs)
        weight, bias = self.weights[layer.name]
        if layer.op == "linear":
            return F.linear(inputs[0].flatten(1), weight, bias)
        return F.conv2d(inputs[0], weight, bias, layer.stride, layer.kernel // 2, 1, layer.groups)


def fitted(plain: Plain, found: Sequence[Merger], images: Sequence[Tensor], *, seed: int = 0) -> dict[Merger, Kernel]:
    """The nearest convolution for each of these mergers alone, by normalised images (B, C, H, W)."""
    kernels: dict[Merger, Kernel] = {}
    for _, alike in groupby(sorted(found, key=_reads), key=_reads):
        same = tuple(alike)
        kernels.update(_fitted_alike(plain, same[0].source, plain, same, images, seed))
    return kernels


def refitted(
    plain: Plain, chosen: Sequence[Merger], images: Sequence[Tensor], *, seed: int = 0
) -> dict[Merger, Kernel]:
    """The same for mergers that are made together: each reads what those before it leave, and aims at what there was."""
    kernels: dict[Merger, Kernel] = {}
    for merger in without_overlap(chosen):
        made = {each.last: each.conv.name for each in kernels}
        source = made.get(merger.source, merger.source)
        kernels.update(_fitted_alike(plain.replaced(kernels), source, plain, (merger,), images, seed))
    return kernels


def loss(plain: Plain, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Of normalised images (B, C, H, W) with their labels, the mean."""
    found = [(len(y_B) * float(plain_loss(plain.logits(x_BCHW), y_B)), len(y_B)) for x_BCHW, y_B in batches]
    return sum(total for total, _ in found) / sum(images for _, images in found)


def rises(
    plain: Plain, kernels: Mapping[Merger, Kernel], batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[Merger, float]:
    """What each of these mergers, made alone, adds to the loss of normalised images (B, C, H, W) with their labels.

    What is before the first layer that a merger takes the place of is computed once for all that begin there.
    """
    labelled, found = list(batches), dict[Merger, float]()
    whole, last = loss(plain, labelled), plain.layers[-1].name
    images = sum(len(y_B) for _, y_B in labelled)
    for start, alike in groupby(sorted(kernels, key=_reads), key=lambda merger: merger.start):
        same = tuple(alike)
        made = {merger: plain.replaced({merger: kernels[merger]}) for merger in same}
        before = (NETWORK_INPUT, *(layer.name for layer in plain.layers[:start]))
        crossing = [name for name in before if any(name in layer.inputs for layer in plain.layers[start:])]
        totals = dict.fromkeys(same, 0.0)
        for x_BCHW, y_B in labelled:
            given = plain.values(x_BCHW, crossing)
            for merger in same:
                logits_BK = made[merger].onwards(given, [last], start)[last]
                totals[merger] += len(y_B) * float(plain_loss(logits_BK, y_B))
        found |= {merger: total / images - whole for merger, total in totals.items()}
    return found


def merged_supernet(
    net: Supernet, arch: Arch, stats: Stats, kernels: Mapping[Merger, Kernel], images: Sequence[Tensor]
) -> Supernet:
    """A supernet whose one architecture is this one with its mergers made, ready to be trained.

    A merged convolution gets a batch norm that changes nothing by the statistics of these images, which are its running ones;
    all others keep theirs, `stats`. So it computes what `Plain.replaced` computes.
    """
    space = fixed_space(merged(network_by_slot(net.space, arch), tuple(kernels)))
    found, own = Supernet(space).eval(), space.largest()
    by_name = {merger.conv.name: kernel for merger, kernel in kernels.items()}
    for layer in network(space, own):
        if layer.name in by_name:
            with torch.no_grad():
                found.weights(layer)[0].copy_(by_name[layer.name][0])
        elif layer.weight_shape:
            copy_layer(found, net, layer, stats)
    _normalise(found, {name: bias for name, (_, bias) in by_name.items()}, images)
    return found


def _normalise(net: Supernet, biases: Mapping[str, Tensor], images: Sequence[Tensor]) -> None:
    """Give these convolutions a norm that only adds their bias."""
    arch = net.space.largest()
    seen: dict[str, list[Tensor]] = {name: [] for name in biases}

    def collect(name: str, norm: ElasticBatchNorm2d, y_BCHW: Tensor) -> Tensor:
        if name in biases:
            seen[name].append(torch.stack(torch.var_mean(y_BCHW, (0, 2, 3))))
            return y_BCHW + biases[name][:, None, None]
        normed: Tensor = norm(y_BCHW, *norm.running(y_BCHW.shape[1]), batch=False, momentum=0.0)
        return normed

    with torch.no_grad():
        for x_BCHW in images:
            net.run(resize(x_BCHW, resolution(arch)), arch, collect)
        for layer in network(net.space, arch):
            if layer.name in biases:
                norm, (var, mean) = net.norm(layer), torch.stack(seen[layer.name]).mean(0)
                norm.running_mean.copy_(mean)
                norm.running_var.copy_(var)
                norm.weight.copy_((var + norm.eps).sqrt())
                norm.bias.copy_(mean + biases[layer.name])


def _reads(merger: Merger) -> tuple[int, int]:
    return merger.start, merger.conv.stride


def _fitted_alike(
    read: Plain, source: str, aim: Plain, found: Sequence[Merger], images: Sequence[Tensor], seed: int
) -> dict[Merger, Kernel]:
    """Mergers of one start and stride, which share their windows: from the layer `source` of `read` to what `aim` computes.

    A smaller kernel's equations are those of the larger one's middle.
    """
    largest = max(merger.conv.kernel for merger in found)
    lasts = tuple(dict.fromkeys(merger.last for merger in found))
    equations = _Equations()
    generator = torch.Generator().manual_seed(seed_of(seed, 5, found[0].start))
    window = found[0].conv.in_shape[0] * largest**2
    pixels = -(-max(PIXELS_A_WEIGHT * window, LEAST_PIXELS) // len(images))
    for x_BCHW in images:
        targets = aim.values(x_BCHW, lasts)
        x_BCHW = read.values(x_BCHW, [source])[source]
        windows = _windows(x_BCHW, largest, found[0].conv.stride)
        at = _drawn_pixels(targets[lasts[0]], pixels, generator)
        y_NO = torch.cat([targets[last].permute(0, 2, 3, 1)[at] for last in lasts], 1)
        equations.add(windows[at].flatten(1), y_NO)
    ends = dict(
        zip(lasts, torch.split(equations.targets_DO, [_outputs(found, last) for last in lasts], 1), strict=True)
    )
    return {merger: _solved(equations, ends[merger.last], merger.conv, largest) for merger in found}


class _Equations:
    """Normal equations of outputs on windows and a constant, summed over pixels in double precision."""

    def __init__(self) -> None:
        self.windows_DD = torch.zeros((), dtype=torch.float64)
        self.targets_DO = torch.zeros((), dtype=torch.float64)

    def add(self, x_ND: Tensor, y_NO: Tensor) -> None:
        x_ND = F.pad(x_ND, (0, 1), value=1.0)
        self.windows_DD = self.windows_DD + (x_ND.T @ x_ND).double()
        self.targets_DO = self.targets_DO + (x_ND.T @ y_NO).double()


def _outputs(found: Sequence[Merger], last: str) -> int:
    return next(merger.conv.out_shape[0] for merger in found if merger.last == last)


def _windows(x_BCHW: Tensor, kernel: int, stride: int) -> Tensor:
    """What a padded convolution looks at for each of its pixels, as a view (B, H, W, C, K, K)."""
    padded = F.pad(x_BCHW, [kernel // 2] * 4)
    return padded.unfold(2, kernel, stride).unfold(3, kernel, stride).permute(0, 2, 3, 1, 4, 5)


def _drawn_pixels(like_BCHW: Tensor, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Image, row and column of pixels drawn without replacement; all of them where there are no more."""
    images, _, height, width = like_BCHW.shape
    drawn = torch.randperm(images * height * width, generator=generator)[:most]
    return drawn // (height * width), drawn // width % height, drawn % width


def _solved(equations: _Equations, targets_DO: Tensor, conv: Layer, largest: int) -> Kernel:
    """Ridge regression of one convolution; the constant is not held down."""
    channels, edge = conv.in_shape[0], (largest - conv.kernel) // 2
    middle = torch.zeros(channels, largest, largest, dtype=torch.bool)
    middle[:, edge : largest - edge, edge : largest - edge] = True
    kept = torch.cat([middle.flatten(), torch.ones(1, dtype=torch.bool)]).nonzero().flatten()
    windows_DD, targets_DO = equations.windows_DD[kept][:, kept], targets_DO[kept]
    held = torch.full((len(kept),), RIDGE * float(windows_DD.diagonal()[:-1].mean()) + 1e-12, dtype=torch.float64)
    held[-1] = 0.0
    solution_DO = torch.linalg.solve(windows_DD + held.diag(), targets_DO)
    weight = solution_DO[:-1].T.reshape(conv.weight_shape)
    return weight.float().contiguous(), solution_DO[-1].float()
