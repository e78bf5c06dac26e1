"""`hybrid`: convolutions where images are large, attention beside them where they have become small.

After Li et al., "Rethinking Vision Transformers for MobileNet Size and Speed" (EfficientFormerV2), ICCV 2023, and Graham et
al., "LeViT", ICCV 2021: stages of inverted residuals with a depthwise convolution; in the last stages each follows multi-head
self-attention over the pixels. Everything is a convolution with batch norm, which deployment folds away; no layer norm.
Elastic, as in Chen et al., "AutoFormer", ICCV 2021: resolution, the width and depth of each stage, and in each block the
width inside (`expand`) and the heads, of which a narrower attention has the first. A head has one size over the space, so
that its scale does not change with their number.

Where a pixel stands is told by a depthwise convolution of the values, as in EfficientFormerV2, which is added to what
attention mixes: past its edge an image is zeros to it, at any resolution. LeViT adds a learned number to each score instead.
Such a table has to be cut to resolutions and heads wherever weights are handled, and costs one more pass over all scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from search_spaces.errors import SpaceError
from search_spaces.inverted_residual import inverted_residual, shape_after
from search_spaces.layers import Layer, Shape, Stack
from search_spaces.settings import complete, distinct_channels, make_divisible, number, number_ok, numbers
from search_spaces.slots import Slot
from search_spaces.space import Choice, Json, Value, deep_enough

DEFAULTS: dict[str, Json] = {
    "num_classes": 10,
    "in_channels": 3,
    "resolutions": [24, 28, 32],
    "stem": [2],
    "channels": [32, 64, 128],
    "attention_stages": 2,
    "widths": [0.5, 0.75, 1.0],
    "depths": [1, 2],
    "expands": [1, 2, 4],
    "heads": [2, 4, 8],
    "head_channels": 16,
}

KERNEL = 3
STRIDE = 2
"""Of each stage after the first."""


def settings(given: Mapping[str, Json]) -> dict[str, Json]:
    found = complete("hybrid", DEFAULTS, given)
    number(found, "num_classes", 2, 1_000_000)
    number(found, "in_channels", 1, 16)
    numbers(found, "resolutions", 4, 1024)
    numbers(found, "widths", 0.1, 1.0, whole=False)
    numbers(found, "depths", 1, 8)
    numbers(found, "expands", 0.1, 8.0, whole=False)
    numbers(found, "heads", 0, 64)
    number(found, "head_channels", 8, 128)
    for name, low, high, what in (
        ("stem", 1, 2, "strides, one a convolution"),
        ("channels", 8, 2048, "channels, one a stage"),
    ):
        values = found[name]
        if not (isinstance(values, list) and values and all(number_ok(v, low, high, whole=True) for v in values)):
            raise SpaceError(f"{name} must be a list of {what}, from {low} to {high}, not {values!r}")
    number(found, "attention_stages", 0, len(found["channels"]))
    _check_channels(found)
    _check_pixels(found)
    return found


def _check_channels(found: Mapping[str, Json]) -> None:
    """Two values of a choice never build the same network."""
    for stage, base in enumerate(found["channels"], start=1):
        distinct_channels(f"stage {stage}", "widths", base, found["widths"])
        for width in found["widths"]:
            where = f"stage {stage} at width {width}"
            distinct_channels(where, "expands", make_divisible(base * width), found["expands"])


def _check_pixels(found: Mapping[str, Json]) -> None:
    """Over a single pixel attention has nothing to choose from."""
    smallest, last = found["resolutions"][0], len(found["channels"])
    if found["attention_stages"] and shape_after(1, smallest, _strides(found, last)) == (1, 1, 1):
        raise SpaceError(
            f"resolution {smallest} leaves attention a single pixel in stage {last}; "
            "raise it, or let stem stride less or channels have fewer stages"
        )


def choices(settings: Mapping[str, Json]) -> tuple[Choice, ...]:
    found = [Choice("resolution", tuple(settings["resolutions"]))]
    depths = tuple(settings["depths"])
    for stage in range(1, len(settings["channels"]) + 1):
        found.append(Choice(f"s{stage}.width", tuple(settings["widths"])))
        found.append(Choice(f"s{stage}.depth", depths))
        for block in range(max(depths)):
            when = deep_enough(f"s{stage}.depth", depths, block)
            found.append(Choice(f"s{stage}.b{block}.expand", tuple(settings["expands"]), when))
            if _attends(settings, stage):
                found.append(Choice(f"s{stage}.b{block}.heads", tuple(settings["heads"]), when))
    return tuple(found)


def slots(settings: Mapping[str, Json]) -> tuple[Slot, ...]:
    found = [Slot("stem", ("resolution", "s1.width"), partial(_stem, settings))]
    stages = len(settings["channels"])
    for stage in range(1, stages + 1):
        if stage > 1:
            names = ("resolution", f"s{stage - 1}.width", f"s{stage}.width")
            found.append(Slot(f"s{stage}.down", names, partial(_down, settings, stage)))
        for block in range(max(settings["depths"])):
            name = f"s{stage}.b{block}"
            heads = (f"{name}.heads",) if _attends(settings, stage) else ()
            names = ("resolution", f"s{stage}.width", f"s{stage}.depth", f"{name}.expand", *heads)
            found.append(Slot(name, names, partial(_block, settings, stage, block)))
    found.append(Slot("head", ("resolution", f"s{stages}.width"), partial(_head, settings)))
    return tuple(found)


def _attends(settings: Mapping[str, Json], stage: int) -> bool:
    return bool(stage > len(settings["channels"]) - settings["attention_stages"])


def _strides(settings: Mapping[str, Json], stage: int) -> tuple[int, ...]:
    """Of all that leads to this stage; stage 0 is the image."""
    return (*settings["stem"], *[STRIDE] * (stage - 1)) if stage else ()


def _shape(settings: Mapping[str, Json], stage: int, values: Mapping[str, Value]) -> Shape:
    """What this stage works on and puts out; stage 0 is the image."""
    channels = settings["in_channels"]
    if stage:
        channels = make_divisible(settings["channels"][stage - 1] * float(values[f"s{stage}.width"]))
    return shape_after(channels, int(values["resolution"]), _strides(settings, stage))


def _stem(settings: Mapping[str, Json], values: Mapping[str, Value]) -> tuple[Layer, ...]:
    """3x3 convolutions: the last puts out what the first stage works on, those before it half as many channels."""
    out = _shape(settings, 1, values)[0]
    stack = Stack("stem", _shape(settings, 0, values))
    *early, last = settings["stem"]
    for index, stride in enumerate(early):
        stack.conv(f"conv{index}", make_divisible(out / 2), kernel=KERNEL, stride=stride)
        stack.unary(f"act{index}", "hswish")
    stack.conv("conv", out, kernel=KERNEL, stride=last)
    stack.unary("act", "hswish")
    return tuple(stack.layers)


def _down(settings: Mapping[str, Json], stage: int, values: Mapping[str, Value]) -> tuple[Layer, ...]:
    stack = Stack(f"s{stage}.down", _shape(settings, stage - 1, values))
    stack.conv("conv", _shape(settings, stage, values)[0], kernel=KERNEL, stride=STRIDE)
    return tuple(stack.layers)


def _block(settings: Mapping[str, Json], stage: int, block: int, values: Mapping[str, Value]) -> tuple[Layer, ...]:
    """Attention where the block has heads, then the inverted residual, each beside a shortcut."""
    if block >= int(values[f"s{stage}.depth"]):
        return ()
    name = f"s{stage}.b{block}"
    stack = Stack(name, _shape(settings, stage, values))
    if heads := int(values.get(f"{name}.heads", 0)):
        _attention(stack, heads, int(settings["head_channels"]))
    channels = stack.shape[0]
    inside = make_divisible(channels * float(values[f"{name}.expand"]))
    inverted_residual(stack, inside, channels, KERNEL, 1, "hswish", se=False)
    return tuple(stack.layers)


def _attention(stack: Stack, heads: int, head_channels: int) -> None:
    """Queries, keys and values by 1x1 convolutions; a depthwise one of the values tells where they stand."""
    source, channels = stack.last, stack.shape[0]
    inside = heads * head_channels
    queries, keys, values = (stack.conv(f"attention.{part}", inside, source=source) for part in "qkv")
    mixed = stack.attention("attention.mix", queries, keys, values, heads)
    nearby = stack.conv("attention.nearby", inside, kernel=KERNEL, groups=inside, source=values)
    stack.binary("attention.both", "add", mixed, nearby)
    stack.unary("attention.act", "hswish")
    projected = stack.conv("attention.project", channels)
    stack.binary("attention.add", "add", projected, source)


def _head(settings: Mapping[str, Json], values: Mapping[str, Value]) -> tuple[Layer, ...]:
    stack = Stack("head", _shape(settings, len(settings["channels"]), values))
    stack.pool("pool")
    stack.linear("classifier", settings["num_classes"])
    return tuple(stack.layers)
