"""Which sub-networks a training step takes: by the names in `Phase.subnets`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from search_spaces import Arch, Codes, Space, costs
from supernets.loss_gap import LossGap
from supernets.recipes import Phase

# Drawn for each candidate of `best` and `worst`: of so many, the nearest in MACs lie within a few percent.
POOL = 16

Picker = Callable[[Space, Phase, np.random.Generator, LossGap | None], Arch]


def sub_networks(space: Space, phase: Phase, rng: np.random.Generator, gap: LossGap | None = None) -> list[Arch]:
    """The architectures of one step, in the order of the phase's picks. `gap` is what attentive picks go by."""
    draw = iter(space.decode(space.sample(rng, phase.subnets.count("random"), phase.allowed(space))))
    return [next(draw) if pick == "random" else PICKS[pick](space, phase, rng, gap) for pick in phase.subnets]


def nested(space: Space, levels: int) -> list[Arch]:
    """A chain from the smallest to the largest network, every choice at the same share of its values at each level; equal
    neighbours appear once. No choice of a network is larger than that of the next."""
    shares = np.linspace(0.0, 1.0, levels)[:, None]
    rows: Codes = np.floor(shares * (space.cardinalities - 1) + 0.5).astype(np.int16)
    return list(dict.fromkeys(space.decode(rows)))


def _level(space: Space, phase: Phase, rng: np.random.Generator, gap: LossGap | None) -> Arch:
    chain = nested(space, phase.levels)
    return chain[int(rng.integers(len(chain)))]


def _extreme(sign: float) -> Picker:
    """The lowest predicted loss (1) or the highest (-1) among candidates of about the MACs of a random network."""

    def pick(space: Space, phase: Phase, rng: np.random.Generator, gap: LossGap | None) -> Arch:
        rows = space.sample(rng, POOL * phase.candidates, phase.allowed(space))
        log_macs = np.log(costs(space, rows, "macs"))
        alike = rows[np.argsort(np.abs(log_macs - log_macs[0]), kind="stable")[: phase.candidates]]
        # The first of those alike, whatever the rounding of their losses, which the number of workers changes.
        best = 0 if gap is None else int(np.argmin(sign * gap.predict(alike).round(4)))
        return space.decode(alike[best : best + 1])[0]

    return pick


PICKS: dict[str, Picker] = {
    "largest": lambda space, phase, rng, gap: space.largest(),
    "smallest": lambda space, phase, rng, gap: space.smallest(),
    "nested": _level,
    "best": _extreme(1.0),
    "worst": _extreme(-1.0),
}
