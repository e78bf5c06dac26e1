"""Proposals guided by predictions: what an evolution on them finds, chosen by expected gain in hypervolume.

Accuracy is predicted from all evaluations so far, everything else is known or predicted before. So the search space is
searched by thousands of predictions for each evaluation that is made (as in Lu et al., "NSGANetV2", ECCV 2020, and Cummings et
al., "A Hardware-Aware Framework for Accelerating Neural Architecture Search Across Modalities", 2022), and a batch is picked
one by one, by the hypervolume that each is expected to add on all targets, with those picked before it taken as they are
predicted ("kriging believer", Ginsbourger et al., 2010): that keeps a batch diverse.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.searching.accuracy import AccuracyModel
from nas.searching.evolution import Fitness, evolve, new_rows
from nas.searching.gain import expected_gain, normal_cdf
from nas.searching.problem import Problem
from nas.searching.quantities import Target
from search_spaces import Codes

F64 = NDArray[np.float64]

# 240 over 15, 30 or 60 generations end as well: 0.6648-0.6650 on a recorded landscape, 100 evaluations, 6 seeds.
POPULATION, GENERATIONS = 200, 15
# Share of the predicted standard deviation that the search goes by: with so few evaluations it pays to explore less than right
# predictions suggest. Hypervolume after 100 evaluations, means of 12 made-up landscapes over `mobilenet_v3`, one and three
# devices: 0.874 with all of it, 0.879 with a half, 0.882 with this, 0.885 with next to none; over `tiny` 0.828, 0.830, 0.830
# with this. On a recorded landscape of 8 M networks all are within 0.001.
BOLDNESS = 0.25
# Random rows among which to look for what is left of a space that is nearly exhausted.
LEFT_OVER = 4096
# Gains that are computed at once, where few have changed.
AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class Known:
    """What was evaluated: canonical rows, all different, their accuracies, the variance of each one's own error, and which
    of them count for the fronts (those on all the validation images that a search reads)."""

    codes: Codes
    accuracy: F64
    variance: F64
    final: NDArray[np.bool_]

    def front(self, problem: Problem, target: Target) -> NDArray[np.int64]:
        """Indices of the rows that are on a target's front, the cheapest first."""
        rows = np.flatnonzero(self.final)
        return rows[problem.front(target, self.codes[rows], self.accuracy[rows])]


def propose(
    problem: Problem,
    known: Known,
    rng: np.random.Generator,
    n: int,
    also: Codes | None = None,
    taken: Codes | None = None,
) -> Codes:
    """Up to `n` canonical rows that are not known, all different, each of which meets the limits of some target as far as can
    be told. `also` are candidates from elsewhere, `taken` rows not to propose. At least 2 rows must be known."""
    space = problem.space
    not_new = known.codes if taken is None else np.concatenate([known.codes, taken])
    model = AccuracyModel.fit(space, known.codes, known.accuracy, known.variance)

    def fitness(codes: Codes) -> Fitness:
        mean, std = model.predict(codes)
        hoped = mean + BOLDNESS * std
        return Fitness(
            np.stack([problem.points(target, codes, hoped) for target in problem.targets], axis=1),
            np.stack([problem.excess(target, codes, hoped) for target in problem.targets], axis=1),
        )

    start = np.concatenate([known.codes, space.sample(rng, POPULATION), *([] if also is None else [also])])
    pool = new_rows(evolve(space, start, fitness, rng, population=POPULATION, generations=GENERATIONS), not_new)
    if len(pool) < n:
        pool = new_rows(np.concatenate([pool, space.sample(rng, LEFT_OVER)]), not_new)
    mean, std = model.predict(pool)
    return pool[pick(problem, known, pool, mean, BOLDNESS * std, n)]


def pick(problem: Problem, known: Known, pool: Codes, mean: F64, std: F64, n: int) -> NDArray[np.int64]:
    """Indices of up to `n` rows of the pool that meet the limits of some target but for those on accuracy, by the expected
    gain in hypervolume over all targets."""
    fronts = [_Front.of(problem, known, pool, t) for t in range(len(problem.targets))]

    def gain(rows: NDArray[np.int64]) -> F64:
        return np.asarray(np.sum([front.gain(rows, mean[rows], std[rows]) for front in fronts], axis=0))

    left = np.flatnonzero(np.any([front.meets for front in fronts], axis=0))
    gains, fresh = gain(left), np.ones(len(left), dtype=np.bool_)
    picked: list[int] = []
    while len(picked) < n and len(left):
        best = int(gains.argmax())
        if not fresh[best]:
            # A gain only shrinks as fronts grow, so what it was bounds what it is: few have to be computed again (Minoux,
            # "Accelerated greedy algorithms for maximizing submodular set functions", 1978).
            stale = np.flatnonzero(~fresh)
            again = stale[np.argsort(-gains[stale], kind="stable")[:AT_ONCE]]
            gains[again], fresh[again] = gain(left[again]), True
            continue
        row = int(left[best])
        for front in fronts:
            front.add(row, float(mean[row]))
        picked.append(row)
        left, gains, fresh = np.delete(left, best), np.delete(gains, best), np.zeros(len(left) - 1, dtype=np.bool_)
    return np.array(picked, dtype=np.int64)


@dataclass(slots=True, eq=False)
class _Front:
    """The front of one target while a batch is picked: of what is known, then of what is believed as well."""

    pool: F64
    """Scaled costs of all candidates."""
    meets: NDArray[np.bool_]
    """Which of them meet the limits but for those on accuracy."""
    floor: float
    counts: bool
    """Accuracy is an objective."""
    costs: F64
    accuracy: F64

    @staticmethod
    def of(problem: Problem, known: Known, pool: Codes, t: int) -> _Front:
        target = problem.targets[t]
        rows = known.front(problem, target)
        return _Front(
            problem.scaled_costs(target, pool),
            problem.excess(target, pool) == 0,
            problem.least_accuracy(target),
            "accuracy" in problem.objectives,
            problem.scaled_costs(target, known.codes[rows]),
            known.accuracy[rows],
        )

    def gain(self, rows: NDArray[np.int64], mean: F64, std: F64) -> F64:
        if self.counts:
            gain = expected_gain(self.pool[rows], mean, std, self.costs, self.accuracy, self.floor)
        else:  # all is known but whether the limit on accuracy is met
            sure = np.ones(len(rows))
            gain = expected_gain(self.pool[rows], sure, 0 * sure, self.costs, np.ones(len(self.costs)))
            gain *= normal_cdf((mean - self.floor) / std)
        return np.where(self.meets[rows], gain, 0.0)

    def add(self, row: int, accuracy: float) -> None:
        if self.meets[row] and accuracy >= self.floor:
            self.costs = np.concatenate([self.costs, self.pool[row : row + 1]])
            self.accuracy = np.append(self.accuracy, accuracy)
