"""Which parts of a network one convolution could take the place of.

A part is a run of layers that reads one value and of which one value is read. Convolutions one after another, with the norms,
activations and gates between them, see a window of the part's input: what they compute is approached by one convolution over
that window, or over the middle of it. Sums belong to a part where both of their terms do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from search_spaces.layers import Layer

KERNEL = 7
"""The largest that a merged convolution has."""
WINDOW = 15
"""The largest that a part may see."""
GROWTH = 4
"""Times the weights of the part that the merged convolution may have at most."""
INPUTS = 2304
"""The most numbers that it may read for one output, as a kernel of 3 of 256 channels: its weights are found by a system of so
many equations, which takes time by their cube."""
POINTWISE = ("relu", "relu6", "hswish", "hsigmoid")
ENDS = ("conv", "add")


@dataclass(frozen=True, slots=True)
class Merger:
    """`conv` in place of the layers from number `start` up to, and without, number `end`; the last of them is `last`."""

    start: int
    end: int
    last: str
    conv: Layer

    @property
    def source(self) -> str:
        """What the part reads."""
        return self.conv.inputs[0]


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one value of a part depends on: a window of the part's input, moving by `stride`; 0 where it is all of the image."""

    window: int
    stride: int


def mergers(layers: Sequence[Layer]) -> tuple[Merger, ...]:
    """All that can be merged in a network, with each kernel that it could have; by start, end and kernel."""
    return tuple(merger for start in range(len(layers)) for merger in _from(layers, start))


def without_overlap(chosen: Sequence[Merger]) -> tuple[Merger, ...]:
    """The same in order; `ValueError` where two take the place of one layer."""
    ordered = tuple(sorted(chosen, key=lambda each: each.start))
    for before, after in pairwise(ordered):
        if after.start < before.end:
            raise ValueError(f"two mergers share layers from {after.start} to {before.end - 1}")
    return ordered


def merged(by_slot: Mapping[str, Sequence[Layer]], chosen: Sequence[Merger]) -> dict[str, tuple[Layer, ...]]:
    """A network, slot by slot, with these mergers made; a convolution belongs to the slot in which its part began."""
    begins = {merger.start: merger for merger in without_overlap(chosen)}
    gone = {number for merger in chosen for number in range(merger.start, merger.end)}
    renamed = {merger.last: merger.conv.name for merger in chosen}
    found: dict[str, tuple[Layer, ...]] = {}
    number = 0
    for slot, own in by_slot.items():
        kept: list[Layer] = []
        for layer in own:
            if number in begins:
                kept.append(_reading(begins[number].conv, renamed))
            elif number not in gone:
                kept.append(_reading(layer, renamed))
            number += 1
        if kept:
            found[slot] = tuple(kept)
    return found


def convolutions(layers: Sequence[Layer]) -> int:
    """Of activations, not of what is pooled to one value a channel."""
    return sum(layer.op == "conv" and layer.in_shape[1:] != (1, 1) for layer in layers)


def _reading(layer: Layer, renamed: Mapping[str, str]) -> Layer:
    return replace(layer, inputs=tuple(renamed.get(name, name) for name in layer.inputs))


def _from(layers: Sequence[Layer], start: int) -> Iterator[Merger]:
    """Those that begin with this layer."""
    first = layers[start]
    if first.op != "conv":
        return
    seen = {first.inputs[0]: _Seen(1, 1)}
    for number in range(start, len(layers)):
        layer = layers[number]
        found = _seen(layer, [seen.get(name) for name in layer.inputs])
        if found is None or found.window > WINDOW:
            return
        seen[layer.name] = found
        part = layers[start : number + 1]
        if layer.op in ENDS and found.stride and convolutions(part) > 1 and _closed(layers, start, number + 1):
            yield from _kernels(part, start, found)


def _seen(layer: Layer, inputs: Sequence[_Seen | None]) -> _Seen | None:
    """What a layer's output depends on; None where it reads from outside of the part, or no part may hold it."""
    read = [each for each in inputs if each is not None]
    if len(read) < len(inputs):
        return None
    whole = all(each.stride == 0 for each in read)
    if layer.op in POINTWISE or (whole and layer.op in ("conv", "add", "mul")):
        return read[0]
    if layer.op == "global_pool":
        return _Seen(0, 0)
    if layer.op == "mul" and read[0].stride and not read[1].stride:
        return read[0]
    if layer.op == "add" and read[0].stride == read[1].stride:
        return max(read, key=lambda each: each.window)
    # Windows of an average begin at the pixel and are not centred there.
    reach = {"conv": layer.kernel // 2, "avg_pool": layer.kernel - 1}.get(layer.op)
    if reach is None or not read[0].stride:
        return None
    return _Seen(read[0].window + 2 * reach * read[0].stride, read[0].stride * layer.stride)


def _closed(layers: Sequence[Layer], start: int, end: int) -> bool:
    """Whether nothing outside of a part reads any value of it but the last."""
    inner = {layer.name for layer in layers[start : end - 1]}
    return end < len(layers) and not any(name in inner for layer in layers[end:] for name in layer.inputs)


def _kernels(part: Sequence[Layer], start: int, seen: _Seen) -> Iterator[Merger]:
    first, last, weights = part[0], part[-1], sum(layer.weights for layer in part)
    least = 1 if seen.stride == 1 else 3  # a kernel of 1 that strides would not look at three pixels in four
    for kernel in range(least, min(seen.window, KERNEL) + 1, 2):
        name = f"{first.name}_merged"
        conv = Layer(
            name,
            "conv",
            first.inputs,
            first.in_shape,
            last.out_shape,
            kernel,
            seen.stride,
            norm=True,
            norm_eps=first.norm_eps,
        )
        if conv.weights <= GROWTH * weights and first.in_shape[0] * kernel**2 <= INPUTS:
            yield Merger(start, start + len(part), last.name, conv)
