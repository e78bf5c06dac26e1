"""`fixed`: one network, spelled out layer by layer in the settings: what was made of another space's by changing its layers.

Settings are the slots of the network, each a name and its layers in order:

    {"name": "s1.b0", "norm_eps": 1e-5, "layers": [["conv1", "conv", {"out": 32, "kernel": 3}], ["act1", "relu"]]}

A layer is its name inside the slot, its operation, and what is not by default. `reads` names the layers of the same slot that
it reads, "" what the slot reads; without it, that is the layer before. Shapes follow from the image.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from search_spaces.errors import SpaceError
from search_spaces.layers import NORM_EPS, SLOT_INPUT, Layer, Shape, Stack
from search_spaces.settings import complete, number, number_ok
from search_spaces.slots import Slot
from search_spaces.space import Choice, Json, Value

DEFAULTS: dict[str, Json] = {"num_classes": 10, "in_channels": 3, "resolutions": [32], "slots": []}
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}(\.[A-Za-z][A-Za-z0-9_]{0,63}){0,4}")
MOST_CHANNELS = 1 << 20


class _Given:
    """The options of one layer, read one by one; every wrong or unread one is a `SpaceError` that names the layer."""

    def __init__(self, where: str, options: Mapping[str, Json]) -> None:
        self.where, self.left = where, dict(options)

    def number(self, name: str, default: int, high: int) -> int:
        value = self.left.pop(name, default)
        if not number_ok(value, 1, high, whole=True):
            raise SpaceError(f"{self.where}: {name} must be a whole number from 1 to {high}, not {value!r}")
        return int(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self.left.pop(name, default)
        if not isinstance(value, bool):
            raise SpaceError(f"{self.where}: {name} must be true or false, not {value!r}")
        return value

    def done(self) -> None:
        for name in self.left:
            raise SpaceError(f"{self.where}: the operation takes no option {name!r}")


def _conv(stack: Stack, name: str, reads: Sequence[str], given: _Given) -> None:
    kernel, stride, groups = (
        given.number("kernel", 1, 31),
        given.number("stride", 1, 8),
        given.number("groups", 1, 1 << 20),
    )
    if kernel % 2 == 0:
        raise SpaceError(f"{given.where}: kernel must be odd, not {kernel}")
    out = given.number("out", 0, MOST_CHANNELS)
    stack.conv(
        name,
        out,
        kernel,
        stride,
        groups,
        norm=given.flag("norm", True),
        bias=given.flag("bias", False),
        source=reads[0],
    )


def _global_pool(stack: Stack, name: str, reads: Sequence[str], given: _Given) -> None:
    stack.pool(name)


def _linear(stack: Stack, name: str, reads: Sequence[str], given: _Given) -> None:
    if stack.shape[1:] != (1, 1):
        raise SpaceError(f"{given.where}: reads a pooled activation, not one of shape {list(stack.shape)}")
    stack.linear(name, given.number("out", 0, MOST_CHANNELS))


def _window_pool(op: str, stack: Stack, name: str, reads: Sequence[str], given: _Given) -> None:
    stack.window_pool(name, op, given.number("kernel", 1, 31), given.number("stride", 1, 31), source=reads[0])


def _add(stack: Stack, name: str, reads: Sequence[str], given: _Given) -> None:
    left, right = (stack.shape_of(each) for each in reads)
    if left != right:
        raise SpaceError(f"{given.where}: reads two of one shape, not {list(left)} and {list(right)}")
    stack.binary(name, "add", *reads)


def _mul(stack: Stack, name: str, reads: Sequence[str], given: _Given) -> None:
    left, right = (stack.shape_of(each) for each in reads)
    if right != (left[0], 1, 1):
        raise SpaceError(f"{given.where}: multiplies {list(left)} by one value a channel, not by {list(right)}")
    stack.binary(name, "mul", *reads)


def _attention(stack: Stack, name: str, reads: Sequence[str], given: _Given) -> None:
    if len({stack.shape_of(each) for each in reads}) > 1:
        raise SpaceError(f"{given.where}: reads queries, keys and values of one shape")
    queries, keys, values = reads
    stack.attention(name, queries, keys, values, given.number("groups", 1, MOST_CHANNELS))


def _unary(op: str, stack: Stack, name: str, reads: Sequence[str], given: _Given) -> None:
    stack.unary(name, op)


Build = Callable[[Stack, str, Sequence[str], _Given], None]
BUILD: dict[str, tuple[int, Build]] = {
    "conv": (1, _conv),
    "linear": (1, _linear),
    "attention": (3, _attention),
    "global_pool": (1, _global_pool),
    **{op: (1, partial(_window_pool, op)) for op in ("max_pool", "avg_pool")},
    "add": (2, _add),
    "mul": (2, _mul),
    **{op: (1, partial(_unary, op)) for op in ("relu", "relu6", "hswish", "hsigmoid")},
}
"""By operation, how many layers it reads, and what puts it on a stack."""
OPTIONS: dict[str, dict[str, Json]] = {
    **{op: {} for op in BUILD},
    "conv": {"kernel": 1, "stride": 1, "groups": 1, "norm": True, "bias": False},
    "attention": {"groups": 1},
    **{op: {"kernel": 1, "stride": 1} for op in ("max_pool", "avg_pool")},
}
"""By operation, the options that may be left out, with what they are then."""


def settings(given: Mapping[str, Json]) -> dict[str, Json]:
    found = complete("fixed", DEFAULTS, given)
    number(found, "num_classes", 2, 1_000_000)
    number(found, "in_channels", 1, 16)
    sizes = found["resolutions"]
    if not (isinstance(sizes, list) and len(sizes) == 1 and number_ok(sizes[0], 1, 4096, whole=True)):
        raise SpaceError(f"resolutions must list one whole number from 1 to 4096, not {sizes!r}")
    last = list(_built(found).values())[-1][-1]
    if last.out_shape != (found["num_classes"], 1, 1):
        raise SpaceError(
            f"layer {last.name!r} is the last and must put out one value a class, not {list(last.out_shape)}"
        )
    return found


def choices(settings: Mapping[str, Json]) -> tuple[Choice, ...]:
    return (Choice("resolution", tuple(settings["resolutions"])),)


def slots(settings: Mapping[str, Json]) -> tuple[Slot, ...]:
    return tuple(Slot(name, ("resolution",), partial(_same, layers)) for name, layers in _built(settings).items())


def slot_json(name: str, layers: Sequence[Layer]) -> Json:
    """The settings of a slot with these layers, whose names begin with its own; whatever they read that is not among them is
    what the slot reads. `SpaceError` for what settings cannot say: norms of different epsilon in one slot."""
    epsilons = {layer.norm_eps for layer in layers if layer.norm} or {NORM_EPS}
    if len(epsilons) > 1:
        raise SpaceError(f"slot {name!r} has norms of different epsilon: {sorted(epsilons)}")
    short = {layer.name: layer.name.removeprefix(f"{name}.") for layer in layers}
    entries: list[Json] = []
    before = SLOT_INPUT
    for layer in layers:
        told = {
            key: getattr(layer, key) for key, default in OPTIONS[layer.op].items() if getattr(layer, key) != default
        }
        if layer.weight_shape:
            told["out"] = layer.out_shape[0]
        reads = [short.get(each, SLOT_INPUT) for each in layer.inputs]
        if reads != [before]:
            told["reads"] = reads
        before = short[layer.name]
        entries.append([before, layer.op, *([told] if told else [])])
    return {"name": name, "norm_eps": epsilons.pop(), "layers": entries}


def _same(layers: tuple[Layer, ...], values: Mapping[str, Value]) -> tuple[Layer, ...]:
    return layers


def _built(settings: Mapping[str, Json]) -> dict[str, tuple[Layer, ...]]:
    """The layers of each slot, by its name; `SpaceError` names what is wrong."""
    given, size = settings["slots"], settings["resolutions"][0]
    if not isinstance(given, list) or not given:
        raise SpaceError(f"slots must be a list of the slots of a network, not {given!r:.80}")
    shape: Shape = (settings["in_channels"], size, size)
    found: dict[str, tuple[Layer, ...]] = {}
    for place, entry in enumerate(given):
        name, stack = _stack(place, entry, shape)
        if name in found:
            raise SpaceError(f"two slots are named {name!r}")
        shape, found[name] = stack.shape, tuple(stack.layers)
    name, count = Counter(layer.name for layers in found.values() for layer in layers).most_common(1)[0]
    if count > 1:
        raise SpaceError(f"two layers are named {name!r}")
    return found


def _stack(place: int, entry: Json, shape: Shape) -> tuple[str, Stack]:
    """One slot, built."""
    if not isinstance(entry, dict) or set(entry) != {"name", "norm_eps", "layers"}:
        raise SpaceError(f"slot {place} must be an object of name, norm_eps and layers, not {entry!r:.80}")
    name, eps, layers = entry["name"], entry["norm_eps"], entry["layers"]
    _check_name(f"slot {place}", name)
    if not number_ok(eps, 1e-12, 1.0, whole=False):
        raise SpaceError(f"slot {name!r}: norm_eps must be a number from 1e-12 to 1, not {eps!r}")
    if not isinstance(layers, list) or not layers:
        raise SpaceError(f"slot {name!r}: layers must be a list of at least one, not {layers!r:.80}")
    stack = Stack(name, shape, float(eps))
    for number_of, layer in enumerate(layers):
        _put(stack, f"slot {name!r}, layer {number_of}", layer)
    return name, stack


def _put(stack: Stack, where: str, entry: Json) -> None:
    """One layer on top of the others."""
    whole = isinstance(entry, list) and len(entry) in (2, 3)
    if not whole or not isinstance(entry[2] if len(entry) == 3 else {}, dict):
        raise SpaceError(f"{where} must be [name, operation] or [name, operation, options], not {entry!r:.80}")
    name, op, options = entry[0], entry[1], dict(entry[2]) if len(entry) == 3 else {}
    _check_name(where, name)
    if not isinstance(op, str) or op not in BUILD:
        raise SpaceError(f"{where}: operation must be one of {', '.join(BUILD)}, not {op!r:.80}")
    wanted, build = BUILD[op]
    reads = _reads(stack, where, options.pop("reads", None), wanted)
    stack.last = reads[0]
    given = _Given(where, options)
    build(stack, name, reads, given)
    given.done()


def _reads(stack: Stack, where: str, told: Json, wanted: int) -> tuple[str, ...]:
    """The full names of what a layer reads."""
    if told is None and wanted == 1:
        return (stack.last,)
    known = {SLOT_INPUT: SLOT_INPUT} | {layer.name.removeprefix(f"{stack.slot}."): layer.name for layer in stack.layers}
    told = told if isinstance(told, list) else [told]
    if len(told) != wanted or not all(isinstance(each, str) and each in known for each in told):
        raise SpaceError(f"{where}: reads must name {wanted} of the layers before it in the slot, not {told!r:.80}")
    return tuple(known[each] for each in told)


def _check_name(where: str, name: Json) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name) or name.endswith("_norm"):
        raise SpaceError(
            f"{where}: a name is letters, digits and '_' in parts joined by '.', and no '..._norm', not {name!r:.80}"
        )
