"""The once-for-all MobileNetV3 space: elastic kernel, expand ratio, depth and resolution.

Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR 2020; blocks from Howard
et al., "Searching for MobileNetV3", ICCV 2019. Five stages of up to four inverted-residual blocks; with the default
settings and one resolution the space has about 2 x 10^19 architectures.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from search_spaces.inverted_residual import block_layers, check_settings, scaled, shape_after, stage_choices
from search_spaces.layers import Layer, Stack
from search_spaces.settings import complete, distinct_channels
from search_spaces.slots import Slot
from search_spaces.space import Choice, Json, Value

DEFAULTS: dict[str, Json] = {
    "num_classes": 1000,
    "in_channels": 3,
    "resolutions": [224],
    "width": 1.0,
    "kernels": [3, 5, 7],
    "expands": [3, 4, 6],
    "depths": [2, 3, 4],
    "stem": "standard",
}

# Output channels, activation and squeeze-excite of the five stages (Howard et al., table 1).
STAGES = (
    (24, "relu", False),
    (40, "relu", True),
    (80, "hswish", False),
    (112, "hswish", True),
    (160, "hswish", True),
)
STEM_CHANNELS, FINAL_EXPAND, FEATURES = 16, 960, 1280

# Stride of the stem and of each stage. The small stem keeps 32 px images at 4 px in the last stage.
STRIDES = {"standard": (2, (2, 2, 2, 1, 2)), "small": (1, (1, 2, 2, 1, 2))}


def settings(given: Mapping[str, Json]) -> dict[str, Json]:
    found = complete("mobilenet_v3", DEFAULTS, given)
    check_settings(found, tuple(STRIDES))
    for stage, (channels, _, _) in enumerate(((STEM_CHANNELS, "", False), *STAGES), start=1):
        distinct_channels(f"stage {stage}", "expands", scaled(found, channels), found["expands"])
    return found


def choices(settings: Mapping[str, Json]) -> tuple[Choice, ...]:
    found = [Choice("resolution", tuple(settings["resolutions"]))]
    for stage in range(1, len(STAGES) + 1):
        found += stage_choices(f"s{stage}", settings)
    return tuple(found)


def slots(settings: Mapping[str, Json]) -> tuple[Slot, ...]:
    stem_stride, stage_strides = STRIDES[settings["stem"]]
    found = [Slot("stem", ("resolution",), partial(_stem, settings, stem_stride))]
    channels = scaled(settings, STEM_CHANNELS)
    shrink: tuple[int, ...] = (stem_stride,)
    for stage, (out, act, se) in enumerate(STAGES, start=1):
        for block in range(max(settings["depths"])):
            name = f"s{stage}.b{block}"
            names = ("resolution", f"s{stage}.depth", f"{name}.expand", f"{name}.kernel")
            stride = stage_strides[stage - 1] if block == 0 else 1
            build = partial(block_layers, name, block, channels, shrink, scaled(settings, out), stride, act, se=se)
            found.append(Slot(name, names, build))
            channels = scaled(settings, out)
            shrink = (*shrink, stride)
    found.append(Slot("head", ("resolution",), partial(_head, settings, channels, shrink)))
    return tuple(found)


def _stem(settings: Mapping[str, Json], stride: int, values: Mapping[str, Value]) -> tuple[Layer, ...]:
    stack = Stack("stem", shape_after(settings["in_channels"], int(values["resolution"]), ()))
    channels = scaled(settings, STEM_CHANNELS)
    stack.conv("conv", channels, kernel=3, stride=stride)
    shortcut = stack.unary("act", "hswish")
    stack.conv("depthwise", channels, kernel=3, groups=channels)
    stack.unary("depthwise_act", "relu")
    last = stack.conv("project", channels)
    stack.binary("add", "add", last, shortcut)
    return tuple(stack.layers)


def _head(
    settings: Mapping[str, Json], channels: int, shrink: tuple[int, ...], values: Mapping[str, Value]
) -> tuple[Layer, ...]:
    stack = Stack("head", shape_after(channels, int(values["resolution"]), shrink))
    stack.conv("expand", scaled(settings, FINAL_EXPAND))
    stack.unary("expand_act", "hswish")
    stack.pool("pool")
    stack.conv("features", scaled(settings, FEATURES), norm=False)
    stack.unary("features_act", "hswish")
    stack.linear("classifier", settings["num_classes"])
    return tuple(stack.layers)
