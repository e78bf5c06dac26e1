"""Which mergers to make: the least loss for a share of the latency saved, exactly, by dynamic programming.

After Kim et al., "Efficient Latency-Aware CNN Depth Compression via Two-Stage Dynamic Programming", ICML 2023. Their first
stage finds, for every two layers, the fastest way to merge what is between them while no activation is kept there; the second
one chooses which activations to keep, by importances that are summed. Here a part becomes one convolution, of which every
kernel was measured and judged on its own, so the first stage is the table of them and one program over the layers chooses
parts and kernels at once. Both assume that savings and losses of different parts add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Savings are rounded down to these shares of the network's latency, so that what is chosen saves at least what it says; of k
# mergers less than k / 1000 goes unseen.
UNITS = 1000


@dataclass(frozen=True, slots=True)
class Option:
    """A merger of the layers from `start` up to, and without, `end`: the share of the network's latency that it saves, and what
    it adds to the loss."""

    start: int
    end: int
    saving: float
    loss: float


@dataclass(frozen=True, eq=False)
class Choices:
    """The least summed loss for every saving, and what reaches it.

    least: loss (UNITS + 1,) of the best choice that saves so many units, infinite where none does. chosen: numbers of its
    options.
    """

    least: NDArray[np.float64]
    chosen: tuple[tuple[int, ...], ...]

    @property
    def most(self) -> float:
        """The largest saving that there is."""
        return int(np.flatnonzero(np.isfinite(self.least))[-1]) / UNITS

    def saving(self, share: float) -> tuple[int, ...] | None:
        """The options of least loss that save at least this share; None where none do."""
        units = max(0, int(np.ceil(share * UNITS - 1e-9)))
        if units > UNITS or not np.isfinite(self.least[units:]).any():
            return None
        return self.chosen[units + int(np.argmin(self.least[units:]))]


def choices(options: Sequence[Option]) -> Choices:
    """What is best of these options, none of which may share a layer with another."""
    saved = [int(np.floor(option.saving * UNITS + 1e-9)) for option in options]
    ends = sorted({place for option in options for place in (option.start, option.end)} | {0})
    least = np.full((len(ends), UNITS + 1), np.inf)
    taken = np.full((len(ends), UNITS + 1), -1)
    least[0, 0] = 0.0
    place = {end: number for number, end in enumerate(ends)}
    for number, end in enumerate(ends[1:], start=1):
        least[number] = least[number - 1]
        for i, option in enumerate(options):
            if option.end == end and saved[i] >= 0:
                units = min(saved[i], UNITS)
                with_it = np.full(UNITS + 1, np.inf)
                with_it[units:] = least[place[option.start], : UNITS + 1 - units] + option.loss
                better = with_it < least[number]
                least[number][better], taken[number][better] = with_it[better], i
    numbers = range(UNITS + 1)
    chosen = tuple(
        _followed(options, saved, taken, place, units) if np.isfinite(least[-1, units]) else () for units in numbers
    )
    return Choices(least[-1], chosen)


def _followed(
    options: Sequence[Option], saved: Sequence[int], taken: NDArray[np.int64], place: dict[int, int], units: int
) -> tuple[int, ...]:
    """The options behind one saving, from the last layer to the first; in order."""
    number, found = len(taken) - 1, list[int]()
    while number > 0:
        i = int(taken[number, units])
        if i < 0:
            number -= 1
        else:
            found.append(i)
            number, units = place[options[i].start], units - min(saved[i], UNITS)
    return tuple(reversed(found))
