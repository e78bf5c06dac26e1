"""What is searched for: objectives and limits on every target, and what architectures are worth there.

Every objective is scaled so that lower is better and the box that counts is [0, 1]: accuracy as 1 - accuracy, anything else
as a share of 1.1 times what the largest network has. Points beyond 1 add nothing to a hypervolume.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from optuna.study import StudyDirection

from nas.searching.constraints import Constraint, excesses
from nas.searching.fronts import REFERENCE, non_dominated, volume
from nas.searching.quantities import QUANTITIES, Target, check_objectives
from search_spaces import Codes, Space

F64 = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Problem:
    """The objectives, in order, and the limits of a search over one space, for each of its targets.

    `labels` is how many an image has on average: an accuracy is known better the more there are.
    """

    space: Space
    targets: tuple[Target, ...]
    objectives: tuple[str, ...] = ("accuracy", "latency_ms")
    limits: tuple[Constraint, ...] = ()
    labels: float = 1.0

    def __post_init__(self) -> None:
        check_objectives(self.objectives)

    @property
    def costs(self) -> tuple[str, ...]:
        """The objectives beside accuracy: they are known before anything is evaluated."""
        return tuple(name for name in self.objectives if name != "accuracy")

    @cached_property
    def _scales(self) -> dict[str, F64]:
        largest = self.space.encode([self.space.largest()])
        return {
            target.name: np.array([REFERENCE * target.values(name, largest)[0] for name in self.costs])
            for target in self.targets
        }

    def scaled_costs(self, target: Target, codes: Codes) -> F64:
        """The objectives beside accuracy, scaled: `(n, choices)` -> `(n, len(costs))`."""
        columns = [target.values(name, codes) for name in self.costs]
        return np.stack(columns, axis=1) / self._scales[target.name] if columns else np.zeros((len(codes), 0))

    def points(self, target: Target, codes: Codes, accuracy: F64) -> F64:
        """All objectives, scaled, `(n, objectives)`."""
        columns = iter(self.scaled_costs(target, codes).T)
        return np.stack([1 - accuracy if name == "accuracy" else next(columns) for name in self.objectives], axis=1)

    def excess(self, target: Target, codes: Codes, accuracy: F64 | None = None) -> F64:
        """By how much each row misses the limits of this target in all, relative, `(n,)`; 0 where it meets them.

        Without accuracies, limits on accuracy do not count.
        """
        return np.asarray(excesses(self.limits, target, codes, accuracy).clip(min=0).sum(axis=1))

    def directions(self) -> list[StudyDirection]:
        """Of an Optuna study of this problem, in the order of `trial_values`."""
        up, down = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE
        first = [up if QUANTITIES[name].higher_is_better else down for name in self.objectives]
        return first + [down] * (len(self.costs) * (len(self.targets) - 1))

    def trial_values(self, codes: Codes, accuracy: F64) -> F64:
        """What a trial is told, `(n, directions)`, in the quantities' own units: the objectives of the first target, in their
        order, then the others' objectives beside accuracy."""
        first, *others = ({name: target.values(name, codes) for name in self.costs} for target in self.targets)
        own = [accuracy if name == "accuracy" else first[name] for name in self.objectives]
        return np.stack([*own, *(column for other in others for column in other.values())], axis=1)

    def limits_on(self, target: Target) -> list[Constraint]:
        """Those that concern this target."""
        return [limit for limit in self.limits if limit.concerns(target)]

    def least_accuracy(self, target: Target) -> float:
        """What the limits of this target ask of accuracy; 0 where they do not."""
        own = [each for each in self.limits_on(target) if each.quantity == "accuracy" and not each.at_most]
        return max([each.bound for each in own], default=0.0)

    def front(self, target: Target, codes: Codes, accuracy: F64) -> Indices:
        """Indices of the rows that meet the limits and that no other such row dominates, the cheapest first."""
        meets = np.flatnonzero(self.excess(target, codes, accuracy) == 0)
        points = self.points(target, codes[meets], accuracy[meets])
        kept = non_dominated(points)
        by = self.objectives.index(self.costs[0]) if self.costs else 0
        return np.asarray(meets[kept[np.argsort(points[kept, by], kind="stable")]])

    def hypervolume(self, target: Target, codes: Codes, accuracy: F64) -> float:
        """Share of the box that the rows which meet the limits dominate; higher is better."""
        return volume(self.points(target, codes, accuracy)[self.excess(target, codes, accuracy) == 0])
