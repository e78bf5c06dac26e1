"""What mobile families share: inverted-residual blocks in stages of elastic depth, and the choices that open them.

Blocks from Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, with the squeeze-excite of
Howard et al., "Searching for MobileNetV3", ICCV 2019.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from search_spaces.errors import SpaceError
from search_spaces.layers import NORM_EPS, Layer, Shape, Stack
from search_spaces.settings import make_divisible, number, numbers
from search_spaces.space import Choice, Json, Value, When, deep_enough

SE_REDUCTION = 4


def check_settings(found: Mapping[str, Json], stems: Sequence[str]) -> None:
    """The settings that mobile families have in common."""
    number(found, "num_classes", 2, 1_000_000)
    number(found, "in_channels", 1, 16)
    number(found, "width", 0.1, 4.0, whole=False)
    numbers(found, "resolutions", 8, 1024)
    numbers(found, "kernels", 1, 11)
    numbers(found, "expands", 1, 12, whole=False)
    numbers(found, "depths", 1, 8)
    if any(kernel % 2 == 0 for kernel in found["kernels"]):
        raise SpaceError(f"kernels must be odd, not {found['kernels']!r}")
    if found["stem"] not in tuple(stems):  # not a lookup: what came need not be hashable
        raise SpaceError(f"stem must be one of {', '.join(stems)}, not {found['stem']!r}")


def block_choices(stage: str, block: int, settings: Mapping[str, Json], when: When | None) -> tuple[Choice, ...]:
    """Expansion and kernel of one block."""
    return (
        Choice(f"{stage}.b{block}.expand", tuple(settings["expands"]), when),
        Choice(f"{stage}.b{block}.kernel", tuple(settings["kernels"]), when),
    )


def stage_choices(stage: str, settings: Mapping[str, Json]) -> list[Choice]:
    """The depth of a stage, and what its blocks choose where it is deep enough."""
    depths = tuple(settings["depths"])
    found = [Choice(f"{stage}.depth", depths)]
    for block in range(max(depths)):
        when = deep_enough(f"{stage}.depth", depths, block)
        found += block_choices(stage, block, settings, when)
    return found


def shape_after(channels: int, resolution: int, strides: Sequence[int]) -> Shape:
    """Shape after convolutions of these strides, each of odd kernel and padded by half of it."""
    for stride in strides:
        resolution = (resolution - 1) // stride + 1
    return (channels, resolution, resolution)


def scaled(settings: Mapping[str, Json], channels: int) -> int:
    """Channels at the width of the settings."""
    return make_divisible(channels * settings["width"])


def block_layers(
    name: str,
    block: int,
    channels: int,
    shrink: Sequence[int],
    out: int,
    stride: int,
    act: str,
    values: Mapping[str, Value],
    *,
    se: bool = False,
    norm_eps: float = NORM_EPS,
) -> tuple[Layer, ...]:
    """An inverted residual, or nothing where the stage has a depth and is not so deep."""
    depth = values.get(f"{name.partition('.')[0]}.depth")
    if depth is not None and block >= int(depth):
        return ()
    stack = Stack(name, shape_after(channels, int(values["resolution"]), shrink), norm_eps)
    middle = make_divisible(channels * float(values[f"{name}.expand"]))
    inverted_residual(stack, middle, out, int(values[f"{name}.kernel"]), stride, act, se)
    return tuple(stack.layers)


def inverted_residual(stack: Stack, middle: int, out: int, kernel: int, stride: int, act: str, se: bool) -> None:
    """Expand 1x1 to `middle`, depthwise kxk, squeeze-excite, project 1x1; a shortcut where shapes agree."""
    source, channels = stack.last, stack.shape[0]
    stack.conv("expand", middle)
    stack.unary("expand_act", act)
    stack.conv("depthwise", middle, kernel=kernel, stride=stride, groups=middle)
    gated = stack.unary("depthwise_act", act)
    if se:
        stack.pool("se.pool")
        stack.conv("se.reduce", make_divisible(middle // SE_REDUCTION), norm=False, bias=True)
        stack.unary("se.relu", "relu")
        stack.conv("se.expand", middle, norm=False, bias=True)
        gate = stack.unary("se.gate", "hsigmoid")
        stack.binary("se.mul", "mul", gated, gate)
    projected = stack.conv("project", out)
    if stride == 1 and channels == out:
        stack.binary("add", "add", projected, source)
