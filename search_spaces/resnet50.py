"""The once-for-all ResNet-50 space: elastic depth, width and expand ratio of bottleneck blocks, and resolution.

Blocks from He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; the stem of three convolutions and the
average pooling before a striding shortcut from He et al., "Bag of Tricks for Image Classification with Convolutional Neural
Networks", CVPR 2019 (ResNet-D); elastic as in the code of Cai et al., "Once-for-All", ICLR 2020. The second convolution of the
stem can be left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from search_spaces.errors import SpaceError
from search_spaces.inverted_residual import shape_after
from search_spaces.layers import Layer, Shape, Stack
from search_spaces.settings import complete, distinct_channels, make_divisible, number, number_ok, numbers
from search_spaces.slots import Slot
from search_spaces.space import Choice, Json, Value, deep_enough

DEFAULTS: dict[str, Json] = {
    "num_classes": 1000,
    "in_channels": 3,
    "resolutions": [224],
    "base_depths": [2, 2, 4, 2],
    "depths": [0, 1, 2],
    "widths": [0.65, 0.8, 1.0],
    "expands": [0.2, 0.25, 0.35],
    "stem": "standard",
}

STAGES = (256, 512, 1024, 2048)
STRIDES = (1, 2, 2, 2)
# Channels that the stem and each stage put out at width 1.
CHANNELS = {"stem": 64, **{f"s{stage}": channels for stage, channels in enumerate(STAGES, start=1)}}

# Strides of the first convolution and, where there is one, of the max pooling at the end of the stem. The small stem keeps
# 32 px images at 4 px in the last stage.
STEMS = {"standard": (2, 2), "small": (1,)}


def settings(given: Mapping[str, Json]) -> dict[str, Json]:
    found = complete("resnet50", DEFAULTS, given)
    number(found, "num_classes", 2, 1_000_000)
    number(found, "in_channels", 1, 16)
    numbers(found, "resolutions", 8, 1024)
    numbers(found, "depths", 0, 8)
    numbers(found, "widths", 0.1, 4.0, whole=False)
    numbers(found, "expands", 0.05, 4.0, whole=False)
    if found["stem"] not in tuple(STEMS):  # not a lookup: what came need not be hashable
        raise SpaceError(f"stem must be one of {', '.join(STEMS)}, not {found['stem']!r}")
    base = found["base_depths"]
    if not (isinstance(base, list) and len(base) == len(STAGES) and all(number_ok(d, 1, 64, whole=True) for d in base)):
        raise SpaceError(f"base_depths must give 1 to 64 blocks for each of the {len(STAGES)} stages, not {base!r}")
    for stage, channels in enumerate(STAGES, start=1):
        distinct_channels(f"stage {stage}", "widths", channels, found["widths"])
        for width in found["widths"]:
            where = f"stage {stage} at width {width}"
            distinct_channels(where, "expands", make_divisible(channels * width), found["expands"], rounded=_middle)
    return found


def choices(settings: Mapping[str, Json]) -> tuple[Choice, ...]:
    widths = tuple(settings["widths"])
    found = [
        Choice("resolution", tuple(settings["resolutions"])),
        Choice("stem.depth", (0, 1)),
        Choice("stem.inner.width", _distinct(_inner, widths)),
        Choice("stem.width", _distinct(partial(_channels, "stem"), widths)),
    ]
    for stage, base in enumerate(settings["base_depths"], start=1):
        depths = tuple(base + more for more in settings["depths"])
        found += [Choice(f"s{stage}.width", widths), Choice(f"s{stage}.depth", depths)]
        for block in range(max(depths)):
            when = deep_enough(f"s{stage}.depth", depths, block)
            found.append(Choice(f"s{stage}.b{block}.expand", tuple(settings["expands"]), when))
    return tuple(found)


def slots(settings: Mapping[str, Json]) -> tuple[Slot, ...]:
    stem = ("resolution", "stem.depth", "stem.inner.width", "stem.width")
    found = [Slot("stem", stem, partial(_stem, settings))]
    before, shrink = "stem", STEMS[settings["stem"]]
    for stage, (base, stride) in enumerate(zip(settings["base_depths"], STRIDES, strict=True), start=1):
        own = f"s{stage}"
        for block in range(base + max(settings["depths"])):
            first = block == 0
            names = ("resolution", f"{own}.width", f"{own}.depth", f"{own}.b{block}.expand")
            build = partial(_block, own, block, before if first else own, shrink, stride if first else 1)
            found.append(Slot(f"{own}.b{block}", (*names, f"{before}.width") if first else names, build))
            shrink = (*shrink, stride) if first else shrink
        before = own
    found.append(Slot("head", ("resolution", f"{before}.width"), partial(_head, settings, before, shrink)))
    return tuple(found)


def _channels(part: str, width: Value) -> int:
    """Channels that the stem or a stage puts out."""
    return make_divisible(CHANNELS[part] * float(width))


def _inner(width: Value) -> int:
    """Channels inside the stem."""
    return make_divisible(_channels("stem", width) // 2)


def _distinct(channels: Callable[[Value], int], widths: Iterable[float]) -> tuple[float, ...]:
    """The first width for each number of channels: inside the stem 0.65 and 0.8 both round to 24."""
    first: dict[int, float] = {}
    for width in widths:
        first.setdefault(channels(width), width)
    return tuple(first.values())


def _middle(channels: float) -> int:
    """Channels inside a block: rounded twice, as the published weights are."""
    return make_divisible(round(channels))


def _shape(part: str, values: Mapping[str, Value], shrink: tuple[int, ...]) -> Shape:
    """What the stem or a stage puts out."""
    return shape_after(_channels(part, values[f"{part}.width"]), int(values["resolution"]), shrink)


def _stem(settings: Mapping[str, Json], values: Mapping[str, Value]) -> tuple[Layer, ...]:
    stack = Stack("stem", shape_after(settings["in_channels"], int(values["resolution"]), ()))
    stride, *pool = STEMS[settings["stem"]]
    inner = _inner(values["stem.inner.width"])
    stack.conv("conv1", inner, kernel=3, stride=stride)
    first = stack.unary("act1", "relu")
    if values["stem.depth"]:
        stack.conv("conv2", inner, kernel=3)
        stack.binary("add", "add", stack.unary("act2", "relu"), first)
    stack.conv("conv3", _channels("stem", values["stem.width"]), kernel=3)
    stack.unary("act3", "relu")
    for each in pool:
        stack.window_pool("pool", "max_pool", kernel=3, stride=each)
    return tuple(stack.layers)


def _block(
    stage: str, block: int, before: str, shrink: tuple[int, ...], stride: int, values: Mapping[str, Value]
) -> tuple[Layer, ...]:
    """A bottleneck; where a stage begins, the shortcut is a 1x1 convolution, of averages where the block strides."""
    if block >= int(values[f"{stage}.depth"]):
        return ()
    stack = Stack(f"{stage}.b{block}", _shape(before, values, shrink))
    source = stack.last
    out = _channels(stage, values[f"{stage}.width"])
    middle = _middle(out * float(values[f"{stage}.b{block}.expand"]))
    stack.conv("conv1", middle)
    stack.unary("act1", "relu")
    stack.conv("conv2", middle, kernel=3, stride=stride)
    stack.unary("act2", "relu")
    last = stack.conv("conv3", out)
    if block == 0:
        if stride > 1:
            source = stack.window_pool("shortcut_pool", "avg_pool", kernel=stride, stride=stride, source=source)
        source = stack.conv("shortcut", out, source=source)
    stack.binary("add", "add", last, source)
    stack.unary("act3", "relu")
    return tuple(stack.layers)


def _head(
    settings: Mapping[str, Json], before: str, shrink: tuple[int, ...], values: Mapping[str, Value]
) -> tuple[Layer, ...]:
    stack = Stack("head", _shape(before, values, shrink))
    stack.pool("pool")
    stack.linear("classifier", settings["num_classes"])
    return tuple(stack.layers)
