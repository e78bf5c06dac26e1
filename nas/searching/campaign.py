"""A job's whole search: one search a seed, the best confirmed on all validation images, and what it is all compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import moocore
import numpy as np
from numpy.typing import NDArray

from nas.progress import Progress
from nas.searching.bounds import Bound, bound
from nas.searching.constraints import Reach
from nas.searching.controls import Average, average, curve, random_rows, uniform_rows
from nas.searching.engine import Identity, Plan, SearchResult, search, survey
from nas.searching.evaluations import Evaluations
from nas.searching.problem import Problem
from nas.searching.quantities import Target
from nas.searching.store import TrialStore
from nas.searching.watch import UNWATCHED, GrowingFronts, Watch
from search_spaces import Arch, Codes, digest, first_rows

F64 = NDArray[np.float64]
Curve = Sequence[tuple[int, Mapping[str, float]]]

# Fronts that are evaluated again on all validation images: the first and the one behind it, which the first may fall back to.
CONFIRMED_FRONTS = 2


@dataclass(frozen=True, slots=True)
class Extent:
    """`seeds`: searches, each with a random search of as many evaluations where there are `controls`; `all_images`: the
    validation images that there are, on which the best are evaluated at the end."""

    seeds: int
    controls: bool
    all_images: int


@dataclass(frozen=True, eq=False)
class RandomSearch:
    """A random search of as many evaluations as the search with the same seed."""

    codes: Codes
    accuracy: F64
    history: Curve


@dataclass(frozen=True, eq=False)
class Campaign:
    """Everything that a job's search found. Rows of all seeds together, each architecture once."""

    problem: Problem
    searches: tuple[SearchResult, ...]
    codes: Codes
    accuracy: F64
    """As the search evaluated it, on all the images that an evaluation reads or on the first of them."""
    final: NDArray[np.bool_]
    confirmed: F64
    """On all validation images; NaN where that was not evaluated."""
    fronts: Mapping[str, NDArray[np.int64]]
    """By target, of confirmed accuracies."""
    random: tuple[RandomSearch, ...]
    uniform: tuple[Codes, F64] | None
    averages: Mapping[str, Average | None]
    bounds: Mapping[str, Bound | None]
    """By target, what additive models say at best."""


def campaign(
    problem: Problem,
    plan: Plan,
    extent: Extent,
    store: TrialStore,
    evaluations: Evaluations,
    identity: Identity,
    *,
    warm: Mapping[Arch, float] | None = None,
    progress: Progress = lambda done, total, text: None,
    reached: Callable[[Mapping[str, tuple[Reach, ...]]], None] = lambda reach: None,
    watch: Watch = UNWATCHED,
) -> Campaign:
    """Search with every seed, confirm the best, and evaluate the controls. All of it is in the store as it comes."""
    surveyed = survey(problem, plan.seed)
    reached(surveyed.reach)
    growing = GrowingFronts(problem, watch)
    searches = tuple(
        search(
            problem,
            replace(plan, seed=seed),
            replace(identity, search=f"{identity.search}/{seed}"),
            store,
            evaluations,
            progress,
            warm,
            surveyed,
            growing,
        )
        for seed in seeds_of(plan.seed, extent.seeds)
    )
    codes, accuracy, final = _merged(searches)
    shown = _Shown(progress, "confirmed on all validation images")
    confirmed = _confirmed(problem, codes, accuracy, final, evaluations, plan.images[-1], extent.all_images, shown)
    known = np.flatnonzero(np.isfinite(confirmed))
    fronts = {t.name: known[problem.front(t, codes[known], confirmed[known])] for t in problem.targets}
    random: tuple[RandomSearch, ...] = ()
    uniform, averages = None, {}
    if extent.controls and any(len(found.codes) for found in searches):
        random = tuple(_random_search(problem, found, plan, evaluations, progress) for found in searches)
        rows = uniform_rows(problem.space)
        shown = _Shown(progress, "uniformly scaled networks")
        uniform = (rows, _scores(problem, rows, evaluations, plan.images[-1], shown))
        averages = {
            t.name: average(problem, t, _joined(random), (codes[fronts[t.name]], confirmed[fronts[t.name]]))
            for t in problem.targets
        }
    bounds = {
        t.name: bound(problem, t, codes[final], accuracy[final])
        for t in problem.targets
        if t.name not in searches[0].infeasible
    }
    return Campaign(problem, searches, codes, accuracy, final, confirmed, fronts, random, uniform, averages, bounds)


def seeds_of(seed: int, n: int) -> list[int]:
    """The job's seed and others that follow from it."""
    return [seed, *(int(digest(["seed", seed, i], 8), 16) for i in range(1, n))]


def _merged(searches: Sequence[SearchResult]) -> tuple[Codes, F64, NDArray[np.bool_]]:
    """All that was evaluated, each architecture once: as it was on the most images."""
    codes = np.concatenate([found.codes for found in searches])
    accuracy = np.concatenate([found.accuracy for found in searches])
    final = np.concatenate([found.final for found in searches])
    order = np.argsort(~final, kind="stable")
    kept = np.sort(order[first_rows(codes[order])])
    return codes[kept], accuracy[kept], final[kept]


def _confirmed(
    problem: Problem,
    codes: Codes,
    accuracy: F64,
    final: NDArray[np.bool_],
    evaluations: Evaluations,
    images: int,
    all_images: int,
    shown: _Shown,
) -> F64:
    """Accuracy on all validation images of the fronts and of those behind them; where the search read all, as it is."""
    if images >= all_images:
        return np.where(final, accuracy, np.nan)
    chosen = sorted({int(i) for t in problem.targets for i in _foremost(problem, t, codes, accuracy, final)})
    found = np.full(len(codes), np.nan)
    found[chosen] = _scores(problem, codes[chosen], evaluations, all_images, shown)
    return found


def _foremost(
    problem: Problem, target: Target, codes: Codes, accuracy: F64, final: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """The rows on a target's first `CONFIRMED_FRONTS` fronts."""
    rows = np.flatnonzero(final)
    rows = rows[problem.excess(target, codes[rows], accuracy[rows]) == 0]
    rank = moocore.pareto_rank(problem.points(target, codes[rows], accuracy[rows])) if len(rows) else np.zeros(0)
    return np.asarray(rows[rank < CONFIRMED_FRONTS])


def _random_search(
    problem: Problem, found: SearchResult, plan: Plan, evaluations: Evaluations, progress: Progress
) -> RandomSearch:
    evaluated = len(found.codes) - found.sources.get("warm", 0)
    rows = random_rows(problem, evaluated, found.seed)
    accuracy = _scores(problem, rows, evaluations, plan.images[-1], _Shown(progress, "random search, to compare with"))
    return RandomSearch(rows, accuracy, curve(problem, rows, accuracy))


def _joined(random: Sequence[RandomSearch]) -> tuple[Codes, F64]:
    return np.concatenate([each.codes for each in random]), np.concatenate([each.accuracy for each in random])


def _scores(problem: Problem, rows: Codes, evaluations: Evaluations, images: int, shown: _Shown) -> F64:
    archs = problem.space.decode(rows)
    found = evaluations.score(archs, images, lambda arch, accuracy, done: shown(done, len(archs)))
    return np.array([found[arch] for arch in archs])


@dataclass(frozen=True, slots=True)
class _Shown:
    """Progress of a part, under its name."""

    progress: Progress
    text: str

    def __call__(self, done: int, total: int) -> None:
        self.progress(done, total, self.text)
