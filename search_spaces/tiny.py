"""`tiny`: a dense residual space for 8-32 px images that trains in minutes on a CPU.

Stages of basic residual blocks (He et al., "Deep Residual Learning", CVPR 2016). Elastic: resolution, the width and
depth of each stage, and in each block the kernel of the first convolution and the width between the two (`expand`,
relative to the stage). Dense convolutions run near a CPU's peak in training and in ONNX Runtime alike; depthwise
ones do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from search_spaces.errors import SpaceError
from search_spaces.layers import Layer, Stack
from search_spaces.settings import complete, distinct_channels, make_divisible, number, number_ok, numbers
from search_spaces.slots import Slot
from search_spaces.space import Choice, Json, Value, deep_enough

DEFAULTS: dict[str, Json] = {
    "num_classes": 10,
    "in_channels": 3,
    "resolutions": [24, 28, 32],
    "stem": 32,
    "channels": [64, 128, 256],
    "strides": [2, 2, 2],
    "widths": [0.5, 0.75, 1.0],
    "depths": [1, 2],
    "expands": [0.25, 0.5, 1.0],
    "kernels": [1, 3],
}


def settings(given: Mapping[str, Json]) -> dict[str, Json]:
    found = complete("tiny", DEFAULTS, given)
    number(found, "num_classes", 2, 1_000_000)
    number(found, "in_channels", 1, 16)
    number(found, "stem", 8, 512)
    numbers(found, "resolutions", 4, 256)
    numbers(found, "widths", 0.1, 1.0, whole=False)
    numbers(found, "depths", 1, 8)
    numbers(found, "expands", 0.1, 4.0, whole=False)
    numbers(found, "kernels", 1, 7)
    if any(kernel % 2 == 0 for kernel in found["kernels"]):
        raise SpaceError(f"kernels must be odd, not {found['kernels']!r}")
    channels, strides = found["channels"], found["strides"]
    if not (isinstance(channels, list) and channels and all(isinstance(c, int) and 8 <= c <= 2048 for c in channels)):
        raise SpaceError(f"channels must be a list of whole numbers from 8 to 2048, one a stage, not {channels!r}")
    one_or_two = isinstance(strides, list) and all(number_ok(s, 1, 2, whole=True) for s in strides)
    if not (one_or_two and len(strides) == len(channels)):
        raise SpaceError(f"strides must give 1 or 2 for each of the {len(channels)} stages, not {strides!r}")
    for stage, base in enumerate(channels, start=1):
        distinct_channels(f"stage {stage}", "widths", base, found["widths"])
        for width in found["widths"]:
            where = f"stage {stage} at width {width}"
            distinct_channels(where, "expands", make_divisible(base * width), found["expands"])
    return found


def choices(settings: Mapping[str, Json]) -> tuple[Choice, ...]:
    found = [Choice("resolution", tuple(settings["resolutions"]))]
    depths = tuple(settings["depths"])
    for stage in range(1, len(settings["channels"]) + 1):
        found.append(Choice(f"s{stage}.width", tuple(settings["widths"])))
        found.append(Choice(f"s{stage}.depth", depths))
        for block in range(max(depths)):
            when = deep_enough(f"s{stage}.depth", depths, block)
            found.append(Choice(f"s{stage}.b{block}.expand", tuple(settings["expands"]), when))
            # A first block that strides keeps the widest kernel: a 1x1 with stride 2 would drop three pixels in four.
            if block > 0 or settings["strides"][stage - 1] == 1:
                found.append(Choice(f"s{stage}.b{block}.kernel", tuple(settings["kernels"]), when))
    return tuple(found)


def slots(settings: Mapping[str, Json]) -> tuple[Slot, ...]:
    known = {choice.name for choice in choices(settings)}
    found = [Slot("stem", ("resolution",), partial(_stem, settings))]
    stages = len(settings["channels"])
    for stage in range(1, stages + 1):
        for block in range(max(settings["depths"])):
            name = f"s{stage}.b{block}"
            names = ["resolution", f"s{stage}.width", f"s{stage}.depth", f"{name}.expand", f"{name}.kernel"]
            if block == 0 and stage > 1:
                names.insert(1, f"s{stage - 1}.width")
            build = partial(_block, settings, stage, block)
            found.append(Slot(name, tuple(n for n in names if n in known), build))
    found.append(Slot("head", ("resolution", f"s{stages}.width"), partial(_head, settings)))
    return tuple(found)


def _size(settings: Mapping[str, Json], resolution: Value, stages: int) -> int:
    """Height and width after this many stages."""
    size = int(resolution)
    for stride in settings["strides"][:stages]:
        size = (size - 1) // stride + 1
    return size


def _channels(settings: Mapping[str, Json], stage: int, values: Mapping[str, Value]) -> int:
    """Channels that stage `stage` puts out; stage 0 is the stem."""
    if stage == 0:
        return int(settings["stem"])
    return make_divisible(settings["channels"][stage - 1] * float(values[f"s{stage}.width"]))


def _stem(settings: Mapping[str, Json], values: Mapping[str, Value]) -> tuple[Layer, ...]:
    size = _size(settings, values["resolution"], 0)
    stack = Stack("stem", (settings["in_channels"], size, size))
    stack.conv("conv", _channels(settings, 0, values), kernel=3)
    stack.unary("act", "relu")
    return tuple(stack.layers)


def _block(settings: Mapping[str, Json], stage: int, block: int, values: Mapping[str, Value]) -> tuple[Layer, ...]:
    """Two convolutions and a shortcut, which is a 1x1 convolution where a stage begins."""
    if block >= int(values[f"s{stage}.depth"]):
        return ()
    name = f"s{stage}.b{block}"
    out = _channels(settings, stage, values)
    first = block == 0
    size = _size(settings, values["resolution"], stage - 1 if first else stage)
    stack = Stack(name, (_channels(settings, stage - 1, values) if first else out, size, size))
    source = stack.last
    stride = settings["strides"][stage - 1] if first else 1
    kernel = int(values.get(f"{name}.kernel", max(settings["kernels"])))
    stack.conv("conv1", make_divisible(out * float(values[f"{name}.expand"])), kernel=kernel, stride=stride)
    stack.unary("act1", "relu")
    last = stack.conv("conv2", out, kernel=3)
    shortcut = stack.conv("shortcut", out, stride=stride, source=source) if first else source
    stack.binary("add", "add", last, shortcut)
    stack.unary("act2", "relu")
    return tuple(stack.layers)


def _head(settings: Mapping[str, Json], values: Mapping[str, Value]) -> tuple[Layer, ...]:
    stages = len(settings["channels"])
    size = _size(settings, values["resolution"], stages)
    stack = Stack("head", (_channels(settings, stages, values), size, size))
    stack.pool("pool")
    stack.linear("classifier", settings["num_classes"])
    return tuple(stack.layers)
