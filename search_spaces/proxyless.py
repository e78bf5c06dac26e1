"""The once-for-all ProxylessNAS space: elastic kernel, expand ratio, depth and resolution, without squeeze-excite.

Widths from Cai et al., "ProxylessNAS: Direct Neural Architecture Search on Target Task and Hardware", ICLR 2019; elastic as in
Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR 2020. Five stages of up to
four inverted-residual blocks, and a sixth of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from search_spaces.inverted_residual import (
    block_choices,
    block_layers,
    check_settings,
    scaled,
    shape_after,
    stage_choices,
)
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

STEM_CHANNELS, FIRST_CHANNELS, FEATURES = 32, 16, 1280
STAGES = (24, 40, 80, 96, 192, 320)
ACT = "relu6"
NORM_EPS = 1e-3

# Stride of the stem and of each stage. The small stem keeps 32 px images at 4 px in the last stages.
STRIDES = {"standard": (2, (2, 2, 2, 1, 2, 1)), "small": (1, (1, 2, 2, 1, 2, 1))}


def settings(given: Mapping[str, Json]) -> dict[str, Json]:
    found = complete("proxyless", DEFAULTS, given)
    check_settings(found, tuple(STRIDES))
    for stage, channels in enumerate((FIRST_CHANNELS, *STAGES), start=1):
        distinct_channels(f"stage {stage}", "expands", scaled(found, channels), found["expands"])
    return found


def choices(settings: Mapping[str, Json]) -> tuple[Choice, ...]:
    found = [Choice("resolution", tuple(settings["resolutions"]))]
    for stage in range(1, len(STAGES)):
        found += stage_choices(f"s{stage}", settings)
    return (*found, *block_choices(f"s{len(STAGES)}", 0, settings, None))


def slots(settings: Mapping[str, Json]) -> tuple[Slot, ...]:
    stem_stride, stage_strides = STRIDES[settings["stem"]]
    found = [Slot("stem", ("resolution",), partial(_stem, settings, stem_stride))]
    channels = scaled(settings, FIRST_CHANNELS)
    shrink: tuple[int, ...] = (stem_stride,)
    for stage, base in enumerate(STAGES, start=1):
        last = stage == len(STAGES)
        for block in range(1 if last else max(settings["depths"])):
            name = f"s{stage}.b{block}"
            depth = () if last else (f"s{stage}.depth",)
            stride = stage_strides[stage - 1] if block == 0 else 1
            build = partial(
                block_layers, name, block, channels, shrink, scaled(settings, base), stride, ACT, norm_eps=NORM_EPS
            )
            found.append(Slot(name, ("resolution", *depth, f"{name}.expand", f"{name}.kernel"), build))
            channels = scaled(settings, base)
            shrink = (*shrink, stride)
    found.append(Slot("head", ("resolution",), partial(_head, settings, channels, shrink)))
    return tuple(found)


def _stem(settings: Mapping[str, Json], stride: int, values: Mapping[str, Value]) -> tuple[Layer, ...]:
    """A convolution, and a separable one, which has no shortcut whatever its width."""
    stack = Stack("stem", shape_after(settings["in_channels"], int(values["resolution"]), ()), NORM_EPS)
    channels = scaled(settings, STEM_CHANNELS)
    stack.conv("conv", channels, kernel=3, stride=stride)
    stack.unary("act", ACT)
    stack.conv("depthwise", channels, kernel=3, groups=channels)
    stack.unary("depthwise_act", ACT)
    stack.conv("project", scaled(settings, FIRST_CHANNELS))
    return tuple(stack.layers)


def _head(
    settings: Mapping[str, Json], channels: int, shrink: tuple[int, ...], values: Mapping[str, Value]
) -> tuple[Layer, ...]:
    stack = Stack("head", shape_after(channels, int(values["resolution"]), shrink), NORM_EPS)
    stack.conv("features", scaled(settings, FEATURES))
    stack.unary("features_act", ACT)
    stack.pool("pool")
    stack.linear("classifier", settings["num_classes"])
    return tuple(stack.layers)
