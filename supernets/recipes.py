"""Recipes: which sub-networks a training step takes, what they learn from, and how the learning rate runs. All data.

A phase names the sub-networks of each of its steps; `open` limits the values that random ones may take, by kind of choice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from search_spaces import Space
from supernets.errors import SupernetError

Pick = Literal["largest", "smallest", "random"]
Teacher = Literal["none", "inplace", "frozen"]


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of training.

    share: of all steps. subnets: trained one after the other in each step, their gradients added. open: kind of choice ->
    how many of its largest values random sub-networks may take (kinds not named: all of them). teacher: what all but the
    largest sub-network learn from: labels alone, the largest sub-network in the same step (in place), or a frozen copy of
    it from before the first phase with a frozen teacher. label_weight: of the label loss beside a teacher. peak: learning
    rate, relative to the setting's. restart: warm up and decay anew from here on.
    """

    name: str
    share: float
    subnets: tuple[Pick, ...]
    open: Mapping[str, int] = field(default_factory=dict)
    teacher: Teacher = "inplace"
    label_weight: float = 0.0
    peak: float = 1.0
    restart: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or not self.subnets:
            raise SupernetError(f"phase {self.name!r} needs a share in (0, 1] and at least one sub-network")
        if self.teacher == "inplace" and self.subnets[0] != "largest":
            raise SupernetError(f"phase {self.name!r} distils in place, so its first sub-network must be the largest")
        for kind, largest in self.open.items():
            if largest < 1:
                raise SupernetError(f"phase {self.name!r} must open at least 1 value of {kind}, not {largest}")

    def allowed(self, space: Space) -> dict[str, range]:
        """Indices that each choice may take, for `Space.sample`."""
        return {
            choice.name: range(max(0, len(choice.values) - self.open[choice.kind]), len(choice.values))
            for choice in space.choices
            if choice.kind in self.open
        }


Recipe = tuple[Phase, ...]

RECIPES: dict[str, Recipe] = {
    # Yu et al., "BigNAS: Scaling Up Neural Architecture Search with Big Single-Stage Models", ECCV 2020, with what short
    # trainings want. The largest sub-network knows nothing at first: distilling from it at once gave 59 / 58% (largest /
    # smallest; CIFAR-10 at 16 px, 640 steps), labels alone 62 / 60%, labels first and then labels with distillation 62 / 61%.
    # And steps matter more than sub-networks a step: in equal time (CIFAR-10, 334 to 427 steps) four of them reached
    # 57 / 54%, two and then three 64 / 59%.
    "sandwich": (
        Phase("labels", 0.4, ("largest", "random"), teacher="none"),
        Phase("distil", 0.6, ("largest", "random", "smallest"), label_weight=1.0),
    ),
    # Cai et al., "Once-for-All", ICLR 2020, section 3.3 and appendix B: the largest first; then kernel, depth and width
    # open one after the other, the sub-networks learning from the trained largest one and the labels.
    "progressive_shrinking": (
        Phase("largest", 0.4, ("largest",), teacher="none"),
        Phase("kernel", 0.2, ("random",), {"depth": 1, "expand": 1, "width": 1}, "frozen", 1.0, 0.4, restart=True),
        Phase(
            "depth-1", 0.05, ("random",) * 2, {"depth": 2, "expand": 1, "width": 1}, "frozen", 1.0, 0.1, restart=True
        ),
        Phase("depth-2", 0.15, ("random",) * 2, {"expand": 1, "width": 1}, "frozen", 1.0, 0.3, restart=True),
        Phase("width-1", 0.05, ("random",) * 4, {"expand": 2, "width": 2}, "frozen", 1.0, 0.1, restart=True),
        Phase("width-2", 0.15, ("random",) * 4, {}, "frozen", 1.0, 0.3, restart=True),
    ),
}


@dataclass(frozen=True, slots=True)
class Moment:
    """Where one step stands: its phase, and the learning rate relative to the peak."""

    phase: Phase
    learning_rate: float


def schedule(recipe: Recipe, steps: int, warmup: float) -> list[Moment]:
    """One `Moment` a step. Each run of phases up to the next restart warms up linearly over the first `warmup` of its
    steps, then decays to zero on a cosine (Loshchilov and Hutter, "SGDR", ICLR 2017)."""
    if abs(sum(phase.share for phase in recipe) - 1.0) > 1e-6:
        raise SupernetError("the shares of a recipe's phases must add up to 1")
    ends = [round(steps * sum(phase.share for phase in recipe[:i])) for i in range(len(recipe) + 1)]
    moments: list[Moment] = []
    for i, phase in enumerate(recipe):
        run_start = ends[max(j for j in range(i + 1) if j == 0 or recipe[j].restart)]
        run_end = ends[next((j for j in range(i + 1, len(recipe)) if recipe[j].restart), len(recipe))]
        for step in range(ends[i], ends[i + 1]):
            progress = (step + 0.5 - run_start) / (run_end - run_start)
            moments.append(Moment(phase, phase.peak * _rate(progress, warmup)))
    return moments


def _rate(progress: float, warmup: float) -> float:
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (progress - warmup) / (1.0 - warmup)))
