"""Precision as a choice: a space whose architectures also say, part by part, what their layers compute in.

Any family's space can have it, by two settings: `precisions` lists what a part may be, cheapest first, and `precision_per`
what a part is: the whole network, each stage (the stem and the head count as one each), or each block. Weights do not depend
on precision, so a supernet is trained on the space without it, `float_space`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import SpaceError
from search_spaces.layers import ELEMENT_BYTES, Layer
from search_spaces.slots import Slot
from search_spaces.space import Arch, Choice, Codes, Json, Space, Value, When

KIND = "precision"
CLIPS, CLIPPED = ("relu", "relu6"), ("conv", "add")
PRECISIONS = tuple(sorted(ELEMENT_BYTES, key=ELEMENT_BYTES.__getitem__))
PARTS = ("network", "stage", "block")
DEFAULTS: dict[str, Json] = {"precisions": ["fp32"], "precision_per": "stage"}


def split_settings(given: Mapping[str, Json]) -> tuple[dict[str, Json], dict[str, Json]]:
    """Settings of a family, and those of precision; none where everything is fp32."""
    own = {**DEFAULTS, **{name: given[name] for name in DEFAULTS if name in given}}
    others = {name: value for name, value in given.items() if name not in DEFAULTS}
    precisions, per = own["precisions"], own["precision_per"]
    known = isinstance(precisions, list) and precisions == [each for each in PRECISIONS if each in precisions]
    if not known or "fp32" not in precisions:
        raise SpaceError(
            f"precisions must list fp32, and what else of {', '.join(PRECISIONS)} is wanted, in this order, not {precisions!r}"
        )
    if per not in PARTS:
        raise SpaceError(f"precision_per must be one of {', '.join(PARTS)}, not {per!r}")
    return others, {} if precisions == DEFAULTS["precisions"] else own


def precision_choices(
    settings: Mapping[str, Json], slots: Sequence[Slot], choices: Sequence[Choice]
) -> tuple[Choice, ...]:
    """One choice a part; that of a block waits for what all of the block's own choices wait for."""
    if "precisions" not in settings:
        return ()
    parts = dict.fromkeys(_part(settings, slot) for slot in slots)
    values = tuple(settings["precisions"])
    return tuple(Choice(part, values, _condition(part, choices)) for part in parts)


def precise(settings: Mapping[str, Json], slots: tuple[Slot, ...]) -> tuple[Slot, ...]:
    """The same slots, whose layers say what they compute in."""
    return tuple(_precise(slot, _part(settings, slot)) for slot in slots) if "precisions" in settings else slots


def float_space(space: Space) -> Space:
    """The space without precision: the same networks, all of them in fp32."""
    settings = {name: value for name, value in space.settings.items() if name not in DEFAULTS}
    return Space(space.family, settings, tuple(c for c in space.choices if c.kind != KIND))


def float_arch(space: Space, arch: Arch) -> Arch:
    """What an architecture of this space is in `float_space`; a `SpaceError` for one of another space."""
    if arch.space_id != space.id:
        raise SpaceError(f"architecture {arch.id} belongs to space {arch.space_id}, not to {space.id}")
    return Arch(_float_id(space), tuple((name, value) for name, value in arch.items if not _decides(name)))


def float_codes(space: Space, codes: NDArray[np.integer[Any]]) -> Codes:
    """The codes of the same networks in fp32, in this space: `(n, choices)`, canonical."""
    raised, columns = np.array(codes), precision_columns(space)
    raised[:, columns] = space.cardinalities[columns] - 1
    return space.canonical(raised)


def precision_columns(space: Space) -> NDArray[np.int64]:
    """Where the choices of precision stand in a code matrix."""
    return np.flatnonzero(np.array([_decides(choice.name) for choice in space.choices], dtype=bool))


def lifted(space: Space, arch: Arch, precision: str = "fp32") -> Arch:
    """An architecture of `float_space` in this space, where all of it computes in one precision."""
    return space.arch({**arch.values, **{c.name: precision for c in space.choices if c.kind == KIND}})


def precision_of(arch: Arch) -> str:
    """What all of it computes in, or `mixed`."""
    found = {str(value) for name, value in arch.items if _decides(name)}
    return (found or {"fp32"}).pop() if len(found) < 2 else "mixed"


def quantised(layers: Sequence[Layer]) -> bool:
    """Whether any layer computes in integers."""
    return any(layer.precision == "int8" for layer in layers)


def in_precision(layers: Sequence[Layer], precision: str) -> tuple[Layer, ...]:
    """The same layers, all of which compute in this."""
    return tuple(replace(layer, precision=precision) for layer in layers)


def _decides(name: str) -> bool:
    return name.rpartition(".")[2] == KIND


def fused_with_clip(layers: Sequence[Layer]) -> set[str]:
    """Convolutions and sums in int8 that a clip in int8 alone reads: the runtime makes it part of them, which clip at the ends
    of their range. Without sums, networks of `tiny` and `resnet50` took 1.02-1.09 of the time."""
    readers = Counter(name for layer in layers for name in layer.inputs)
    return {
        before.name
        for before, layer in pairwise(layers)
        if layer.op in CLIPS and layer.inputs == (before.name,) and readers[before.name] == 1
        if before.op in CLIPPED and before.precision == layer.precision == "int8"
    }


@lru_cache(maxsize=64)
def _float_id(space: Space) -> str:
    return float_space(space).id


def _part(settings: Mapping[str, Json], slot: Slot) -> str:
    """The choice that decides what a slot computes in: `precision`, `s1.precision` or `s1.b0.precision`."""
    per = settings["precision_per"]
    if per == "network":
        return KIND
    return f"{slot.name if per == 'block' else slot.name.partition('.')[0]}.{KIND}"


def _condition(part: str, choices: Sequence[Choice]) -> When | None:
    prefix = part.removesuffix(KIND)
    found = {choice.when for choice in choices if prefix.count(".") > 1 and choice.name.startswith(prefix)}
    return found.pop() if len(found) == 1 else None


def _precise(slot: Slot, part: str) -> Slot:
    def build(values: Mapping[str, Value]) -> tuple[Layer, ...]:
        return in_precision(slot.build(values), str(values[part]))

    return Slot(slot.name, (*slot.choices, part), build)
