"""A slot: a place in a family's networks, with the choices that decide its layers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from search_spaces.layers import Layer
from search_spaces.space import Value


@dataclass(frozen=True, slots=True)
class Slot:
    """`build` maps the values of `choices` to layers, or to none where the architecture skips the slot.

    A choice that is inactive comes with its first value, so `build` looks at the depth before anything else.
    """

    name: str
    choices: tuple[str, ...]
    build: Callable[[Mapping[str, Value]], tuple[Layer, ...]]
