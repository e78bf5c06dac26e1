"""Reading a family's settings: defaults, types and ranges, with one clear error for what does not fit."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from itertools import pairwise

from search_spaces.errors import SpaceError
from search_spaces.space import Json


def complete(family: str, defaults: Mapping[str, Json], given: Mapping[str, Json]) -> dict[str, Json]:
    """`defaults` overridden by `given`; unknown names are refused with the near miss."""
    for name in given:
        if name not in defaults:
            near = get_close_matches(name, defaults, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(defaults)}"
            raise SpaceError(f"family {family} has no setting {name!r}{hint}")
    return {name: given.get(name, default) for name, default in defaults.items()}


def numbers(settings: Mapping[str, Json], name: str, low: float, high: float, *, whole: bool = True) -> None:
    """The setting is a non-empty ascending list of numbers in [low, high]."""
    found = settings[name]
    ascending = isinstance(found, list) and found and all(number_ok(v, low, high, whole=whole) for v in found)
    if not ascending or any(a >= b for a, b in pairwise(found)):
        kind = "whole numbers" if whole else "numbers"
        raise SpaceError(f"{name} must be an ascending list of {kind} from {low} to {high}, not {found!r}")


def number(settings: Mapping[str, Json], name: str, low: float, high: float, *, whole: bool = True) -> None:
    """The setting is one number in [low, high]."""
    if not number_ok(settings[name], low, high, whole=whole):
        kind = "a whole number" if whole else "a number"
        raise SpaceError(f"{name} must be {kind} from {low} to {high}, not {settings[name]!r}")


def number_ok(value: Json, low: float, high: float, *, whole: bool) -> bool:
    types = (int,) if whole else (int, float)
    return isinstance(value, types) and not isinstance(value, bool) and low <= value <= high


def make_divisible(value: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `value`, never below 90% of it (MobileNet's rule for channel counts)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def distinct_channels(
    where: str, name: str, channels: float, ratios: list[float], rounded: Callable[[float], int] = make_divisible
) -> None:
    """Each ratio of `channels` rounds to another channel count: two values never build the same network."""
    counts = [rounded(channels * ratio) for ratio in ratios]
    for (low, high), (a, b) in zip(pairwise(ratios), pairwise(counts), strict=True):
        if a == b:
            raise SpaceError(f"{name} {low} and {high} both give {a} channels in {where}; drop one of them")
