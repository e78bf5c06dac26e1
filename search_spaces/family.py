"""Families: what turns an architecture into Layers.

A family cuts its networks into *slots*, a chain of places whose layers depend on a handful of choices each: the stem,
every block of every stage, the head. Whatever adds up over layers (cost, an additive latency) is then a small table a
slot, and a whole population is looked up at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice, product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces import fixed, hybrid, mobilenet_v3, proxyless, resnet50, tiny
from search_spaces.errors import SpaceError
from search_spaces.exits import Exit, check_exits, exits_after, split_exits
from search_spaces.layers import NETWORK_INPUT, SLOT_INPUT, Layer
from search_spaces.precision import precise, precision_choices, split_settings
from search_spaces.published import EXAMPLE, published
from search_spaces.slots import Slot
from search_spaces.space import Arch, Choice, Json, Space, Value


@dataclass(frozen=True, slots=True)
class Family:
    """How a family reads its settings, which choices they open, and the slots that build the layers."""

    settings: Callable[[Mapping[str, Json]], dict[str, Json]]
    choices: Callable[[Mapping[str, Json]], tuple[Choice, ...]]
    slots: Callable[[Mapping[str, Json]], tuple[Slot, ...]]


ROWS_AT_ONCE = 256

FAMILIES: dict[str, Family] = {
    "tiny": Family(tiny.settings, tiny.choices, tiny.slots),
    "mobilenet_v3": Family(mobilenet_v3.settings, mobilenet_v3.choices, mobilenet_v3.slots),
    "proxyless": Family(proxyless.settings, proxyless.choices, proxyless.slots),
    "resnet50": Family(resnet50.settings, resnet50.choices, resnet50.slots),
    "hybrid": Family(hybrid.settings, hybrid.choices, hybrid.slots),
}

SINGLE: dict[str, Family] = {"fixed": Family(fixed.settings, fixed.choices, fixed.slots)}
"""Families of one network each: nothing to search, so no job takes them."""

FAMILY_NAMES = f"{', '.join(FAMILIES)}, or a published name such as {EXAMPLE}"
"""What `define_space` knows, for messages."""


def define_space(family: str, **settings: Json) -> Space:
    """The space of a family under these settings; the ones left out take the family's defaults.

    A published name, as `ofa_mbv3_d234_e346_k357_w1.2`, is a family with other defaults. Every family takes `precisions` and
    `precision_per` as well (`search_spaces.precision`), and `exits` (`search_spaces.exits`).
    """
    name, defaults = published(family) or (family, {})
    known = _family(name)
    own, precision = split_settings({**defaults, **settings})
    own, exits = split_exits(own)
    complete = known.settings(own)
    choices, places = known.choices(complete), known.slots(complete)
    check_exits(exits, places)
    return Space(name, {**complete, **precision, **exits}, (*choices, *precision_choices(precision, places, choices)))


def fixed_space(layers_by_slot: Mapping[str, Sequence[Layer]]) -> Space:
    """The space of this network alone: its layers in fp32, slot by slot, each slot reading what the one before puts out."""
    layers = [layer for own in layers_by_slot.values() for layer in own]
    return define_space(
        "fixed",
        num_classes=layers[-1].out_shape[0],
        in_channels=layers[0].in_shape[0],
        resolutions=[layers[0].in_shape[1]],
        slots=[fixed.slot_json(name, own) for name, own in layers_by_slot.items()],
    )


def network_by_slot(space: Space, arch: Arch) -> dict[str, tuple[Layer, ...]]:
    """The layers of `network` by the slot that they are of, without slots that the architecture skips."""
    found: dict[str, tuple[Layer, ...]] = {}
    layers = iter(network(space, arch))
    values = _with_defaults(space, arch.values)
    for slot in slots(space):
        own = tuple(islice(layers, len(slot.build({name: values[name] for name in slot.choices}))))
        if own:
            found[slot.name] = own
    return found


def is_family(name: Json) -> bool:
    """Whether `define_space` knows the name: that of a family, or a published one."""
    return isinstance(name, str) and (name in FAMILIES or published(name) is not None)


@lru_cache(maxsize=64)
def slots(space: Space) -> tuple[Slot, ...]:
    """The slots of a space, in the order in which data flows through them."""
    found = precise(space.settings, _family(space.family).slots(space.settings))
    missing = [name for slot in found for name in slot.choices if name not in space.columns]
    if missing:
        raise SpaceError(f"the space has no choice {missing[0]!r}, which family {space.family} needs")
    return found


@lru_cache(maxsize=4096)
def network(space: Space, arch: Arch) -> tuple[Layer, ...]:
    """The layers of one architecture, in the order in which they run."""
    if arch.space_id != space.id:
        raise SpaceError(f"architecture {arch.id} belongs to space {arch.space_id}, not to {space.id}")
    values = _with_defaults(space, arch.values)
    layers: list[Layer] = []
    last = NETWORK_INPUT
    for slot in slots(space):
        built = slot.build({name: values[name] for name in slot.choices})
        layers += [
            replace(layer, inputs=tuple(last if name == SLOT_INPUT else name for name in layer.inputs))
            for layer in built
        ]
        last = layers[-1].name if built else last
    return tuple(layers)


@lru_cache(maxsize=4096)
def exits(space: Space, arch: Arch) -> tuple[Exit, ...]:
    """The early exits of one architecture, in order."""
    return exits_after(space.settings, network(space, arch))


def with_exits(space: Space, arch: Arch) -> tuple[Layer, ...]:
    """The layers of one architecture, and those of each exit after the layer that it reads."""
    after = {each.reads: each.layers for each in exits(space, arch)}
    return tuple(found for layer in network(space, arch) for found in (layer, *after.get(layer.name, ())))


def slot_configs(space: Space, slot: Slot) -> Iterator[dict[str, Value]]:
    """Every combination of values that the slot's choices can take, in the order of `slot_index`."""
    for values in product(*(space.choices[space.columns[name]].values for name in slot.choices)):
        yield dict(zip(slot.choices, values, strict=True))


def slot_index(space: Space, slot: Slot, codes: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Which combination of `slot_configs` each row of canonical codes takes: `(n, choices)` -> `(n,)`."""
    index = np.zeros(len(codes), dtype=np.int64)
    for name in slot.choices:
        column = space.columns[name]
        index = index * int(space.cardinalities[column]) + codes[:, column]
    return index


def slot_values(space: Space, tables: Sequence[NDArray[Any]], codes: NDArray[np.integer[Any]]) -> NDArray[Any]:
    """The entry that each row of canonical codes takes in each slot's table: `(n, choices)` -> `(n, slots, ...)`.

    `tables` has one array `(configurations, ...)` a slot, in the order of `slot_index`.
    """
    return np.moveaxis(np.concatenate(tables)[_places(space, codes)], 0, 1)


def _places(space: Space, codes: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """`slot_index` of every slot at once, counted over the tables of all slots one after another: `(slots, n)`.

    As a product of matrices: 6 times as fast as slot by slot at 240 rows. For many rows the product would go to several
    threads, which on a busy machine wait for each other, and take 30 times as long.
    """
    strides, starts = _strides(space)
    parts = [codes[i : i + ROWS_AT_ONCE].T.astype(np.float64) for i in range(0, max(len(codes), 1), ROWS_AT_ONCE)]
    return np.concatenate([(strides @ part).astype(np.int64) for part in parts], axis=1) + starts


@lru_cache(maxsize=64)
def _strides(space: Space) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """What one step of a choice adds to the index of a slot, `(slots, choices)`, and where each table starts, `(slots, 1)`."""
    strides = np.zeros((len(slots(space)), len(space.choices)))
    for s, slot in enumerate(slots(space)):
        stride = 1
        for name in reversed(slot.choices):
            strides[s, space.columns[name]] = stride
            stride *= int(space.cardinalities[space.columns[name]])
    return strides, np.cumsum([0, *slot_sizes(space)])[:-1, None]


def slot_sizes(space: Space) -> tuple[int, ...]:
    """How many combinations each slot has."""
    return tuple(prod(int(space.cardinalities[space.columns[name]]) for name in slot.choices) for slot in slots(space))


def _family(name: str) -> Family:
    if name not in FAMILIES and name not in SINGLE:
        raise SpaceError(f"unknown family {name!r}; known are {FAMILY_NAMES}")
    return FAMILIES[name] if name in FAMILIES else SINGLE[name]


def _with_defaults(space: Space, values: dict[str, Value]) -> dict[str, Value]:
    return {choice.name: values.get(choice.name, choice.values[0]) for choice in space.choices}
