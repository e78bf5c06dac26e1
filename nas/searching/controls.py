"""What a search is compared with: random search at equal evaluations, the random-average architecture, uniform scaling.

A search of a good space looks good whatever it does (Yang, Esperança and Carlucci, "NAS evaluation is frustratingly hard", ICLR
2020): the average random architecture is near the best. So every report shows these beside the search, evaluated alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from nas.searching.constraints import feasible_sample
from nas.searching.problem import Problem
from nas.searching.quantities import Target
from search_spaces import Codes, Space, digest, first_rows

F64 = NDArray[np.float64]

# What scales a network uniformly: choices whose names end so.
SCALED = ("width", "depth", "expand")
# Points of a curve of hypervolume over evaluations.
POINTS = 25


def random_rows(problem: Problem, n: int, seed: int) -> Codes:
    """Up to `n` different random rows, drawn from what meets the limits of each target in turn."""
    rng = np.random.default_rng(int(digest(["random control", seed], 15), 16))
    drawn = [feasible_sample(problem.limits, target, rng, n).codes for target in problem.targets]
    turns = [rows[i] for i in range(n) for rows in drawn if i < len(rows)]
    rows = np.array(turns, dtype=np.int16).reshape(len(turns), len(problem.space.choices))
    return rows[first_rows(rows)][:n]


def uniform_rows(space: Space) -> Codes:
    """The largest network with all its widths, all its depths and all its expansions at one of their values each."""
    scaled = [
        [j for j, choice in enumerate(space.choices) if choice.kind == kind and len(choice.values) > 1]
        for kind in SCALED
    ]
    columns = [of for of in scaled if of]
    rows = []
    for steps in product(*(range(max(int(space.cardinalities[j]) for j in of)) for of in columns)):
        row = space.cardinalities - 1
        for of, step in zip(columns, steps, strict=True):
            row[of] = np.minimum(step, space.cardinalities[of] - 1)
        rows.append(row)
    return np.unique(space.canonical(np.array(rows, dtype=np.int16)), axis=0)


def curve(problem: Problem, codes: Codes, accuracy: F64) -> list[tuple[int, Mapping[str, float]]]:
    """Evaluations so far, and by target the hypervolume with them, at up to `POINTS` evenly spread."""
    counts = np.unique(np.linspace(1, len(codes), POINTS).round().astype(int))[: len(codes)]
    return [
        (int(n), {t.name: problem.hypervolume(t, codes[:n], accuracy[:n]) for t in problem.targets}) for n in counts
    ]


@dataclass(frozen=True, slots=True)
class Average:
    """The random-average architecture of a target, and what the front has over it."""

    accuracy: float
    cost: float
    """Mean of the first objective beside accuracy, in its unit."""
    accuracy_gain: float | None
    """Accuracy of the front's best network at no more cost, less the average; None where it has none so cheap."""
    cost_ratio: float | None
    """The average cost over that of the front's cheapest network of no less accuracy; None where none is as accurate."""


def average(problem: Problem, target: Target, random: tuple[Codes, F64], front: tuple[Codes, F64]) -> Average | None:
    """From random rows and those of the front, each with accuracies; None without random rows or a cost to compare."""
    meets = problem.excess(target, *random) == 0
    if not problem.costs or not meets.any():
        return None
    cost = target.values(problem.costs[0], random[0][meets])
    accuracy, mean_cost = float(random[1][meets].mean()), float(cost.mean())
    of_front = target.values(problem.costs[0], front[0])
    cheap, good = of_front <= mean_cost, front[1] >= accuracy
    return Average(
        accuracy,
        mean_cost,
        float(front[1][cheap].max() - accuracy) if cheap.any() else None,
        float(mean_cost / of_front[good].min()) if good.any() else None,
    )


def spread(values: Sequence[float]) -> dict[str, float | int | None]:
    """Mean, standard deviation over seeds (None for one) and their number."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "std": std, "seeds": len(values)}
