"""Samplers: who proposes. Optuna's own; `GuidedSampler`, which searches on predictions; `NestedSampler`, which does not search.

All of them are Optuna samplers over one integer parameter a choice, its code; so any study of a search can be shown with
Optuna's plots and in optuna-dashboard.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from nas.searching.bounds import exact_candidates
from nas.searching.constraints import feasible_sample
from nas.searching.fidelity import sampling_variance
from nas.searching.guided import Known, propose
from nas.searching.problem import Problem
from nas.searching.quantities import Target
from nas.searching.warmup import warm_start
from search_spaces import Codes, Space, costs, digest, first_rows
from supernets.picks import nested
from supernets.recipes import LEVELS

F64 = NDArray[np.float64]

CANDIDATES = 4
# Integer programming takes half a second for each target.
EXACT_EVERY, EXACT_TARGETS = 4, 2
# The losses of three networks take about as long as five evaluations.
MIXED_EVERY = 2

Mix = Callable[[Target, Codes, int], Codes]
"""Candidates in other precisions, from the rows of a target's front and the number of the batch."""

IMAGES = "images"
"""User attribute of a trial: the validation images that its accuracy was counted on."""
ACCURACY = "accuracy"
"""User attribute of a trial: its accuracy, where that is no objective."""


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The parameters of a trial: the code of every choice that has more than one value, active or not."""
    return {c.name: IntDistribution(0, len(c.values) - 1) for c in space.choices if len(c.values) > 1}


def params_of(space: Space, row: Sequence[int]) -> dict[str, int]:
    """A code row as a trial's parameters."""
    return {c.name: int(code) for c, code in zip(space.choices, row, strict=True) if len(c.values) > 1}


def codes_of(space: Space, trials: Sequence[FrozenTrial]) -> Codes:
    """Canonical codes `(n, choices)` of trials that have all parameters."""
    rows = [[trial.params[c.name] if len(c.values) > 1 else 0 for c in space.choices] for trial in trials]
    return space.canonical(np.array(rows, dtype=np.int16).reshape(len(rows), len(space.choices)))


class _WholeSampler(optuna.samplers.BaseSampler):
    """Proposes the codes of all choices of a space together."""

    _problem: Problem

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return distributions(self._problem.space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise ValueError(f"{param_name!r} is no choice of the space {self._problem.space.id}")


class GuidedSampler(_WholeSampler):
    """Proposes batches by evolution on predictions, `nas.searching.guided`; the first batch spreads over the sizes.

    The study's directions must be `problem.directions()`, a trial's values `problem.trial_values(...)`. A batch is a
    function of the seed, the batch's first trial, the trials before it and what this sampler gave out. With `exact` the
    optima of additive models are among the candidates in every `EXACT_EVERY`-th batch, and what `mix` makes of one target's
    front in every `MIXED_EVERY`-th.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        batch: int = 10,
        seed: int = 0,
        images: int | None = None,
        exact: bool = False,
        mix: Mix | None = None,
    ) -> None:
        self._problem = problem
        self._batch = batch
        self._seed = seed
        self._images = images
        self._exact = exact
        self._mix = mix
        self._waiting: list[dict[str, int]] = []
        self._given: list[dict[str, int]] = []
        self._alone = threading.Lock()

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        with self._alone:
            if not self._waiting:
                self._waiting = [params_of(self._problem.space, row) for row in self._batch_for(study, trial)]
            params = self._waiting.pop(0)
            self._given.append(params)
            return params

    def _batch_for(self, study: optuna.Study, trial: FrozenTrial) -> Codes:
        rng = np.random.default_rng(int(digest(["batch", self._seed, trial.number], 15), 16))
        trials = study.get_trials(deepcopy=False)
        known = known_of(self._problem, trials, self._images)
        if len(known.codes) < 2:
            rows = founders(self._problem, rng, self._batch)
        else:
            turn = trial.number // self._batch
            also = np.concatenate([known.codes[:0], *self._optima(known, turn), *self._mixes(known, turn)])
            taken = taken_of(self._problem.space, trials, self._given)
            rows = propose(self._problem, known, rng, self._batch, also, taken)
        # Where nothing is left that would be new, anything will do.
        return rows if len(rows) else self._problem.space.sample(rng, 1)

    def _optima(self, known: Known, batch: int) -> list[Codes]:
        """Optima of additive models on some targets, others each time; none in most batches."""
        turn, off = divmod(batch, EXACT_EVERY)
        rows = np.flatnonzero(known.final)
        if not self._exact or off != EXACT_EVERY // 2 or len(rows) < 2:
            return []
        targets = self._problem.targets
        some = [targets[(turn * EXACT_TARGETS + i) % len(targets)] for i in range(min(EXACT_TARGETS, len(targets)))]
        return [exact_candidates(self._problem, some, known.codes[rows], known.accuracy[rows], self._batch)]

    def _mixes(self, known: Known, batch: int) -> list[Codes]:
        turn, off = divmod(batch, MIXED_EVERY)
        if self._mix is None or off:
            return []
        target = self._problem.targets[turn % len(self._problem.targets)]
        return [self._mix(target, known.codes[known.front(self._problem, target)], turn)]


class NestedSampler(_WholeSampler):
    """Proposes the networks of one nested chain, over and over: nothing is searched (recipe `sorted`)."""

    def __init__(self, problem: Problem, levels: int) -> None:
        self._problem = problem
        rows = problem.space.encode(nested(problem.space, levels)).tolist()
        self._chain = [params_of(problem.space, row) for row in rows]

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return dict(self._chain[trial.number % len(self._chain)])


def known_of(problem: Problem, trials: Sequence[FrozenTrial], images: int | None) -> Known:
    """What a study's completed trials say, each architecture once, at the most images that it was evaluated on.

    `images` are all those that a search reads; a trial on fewer of them has an error of its own: that of a sample without
    replacement.
    """
    done = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    total = images or max([trial.user_attrs.get(IMAGES, 0) for trial in done], default=0)
    read = np.array([trial.user_attrs.get(IMAGES) or total for trial in done], dtype=np.int64)
    accuracy = np.array([_accuracy_of(problem, trial) for trial in done])
    codes = codes_of(problem.space, done)
    order = np.argsort(-read, kind="stable")
    kept = np.sort(order[first_rows(codes[order])])
    variance = sampling_variance(accuracy[kept], read[kept], total, problem.labels)
    return Known(codes[kept], accuracy[kept], variance, read[kept] >= total)


def taken_of(space: Space, trials: Sequence[FrozenTrial], given: Sequence[Mapping[str, int]]) -> Codes:
    """Canonical codes of what is being evaluated, was pruned or failed, and of what was given out."""
    names = distributions(space).keys()
    others = [t.params for t in trials if t.state is not TrialState.COMPLETE and names <= t.params.keys()]
    rows = [[params[c.name] if len(c.values) > 1 else 0 for c in space.choices] for params in (*others, *given)]
    return space.canonical(np.array(rows, dtype=np.int16).reshape(len(rows), len(space.choices)))


def _accuracy_of(problem: Problem, trial: FrozenTrial) -> float:
    if "accuracy" in problem.objectives:
        return float(trial.values[problem.objectives.index("accuracy")])
    return float(trial.user_attrs[ACCURACY])


def founders(problem: Problem, rng: np.random.Generator, n: int, prefer: Callable[[Codes], F64] | None = None) -> Codes:
    """The first architectures of a search, up to `n`: the ends of the space, and others evenly over the logarithm of MACs,
    all of which meet the limits of at least one target. None where no target can be met.

    `prefer` scores rows: of `CANDIDATES` times as many, those are taken that it likes best among their like in MACs.
    """
    space = problem.space
    ends = space.encode([space.smallest(), space.largest()])
    drawn = [feasible_sample(problem.limits, target, rng, 50 * n).codes for target in problem.targets]
    met = [ends[[(problem.excess(target, ends[[i]]) == 0)[0] for i in (0, 1)]] for target in problem.targets]
    shares = [_spread(space, rows, share, prefer) for rows, share in zip(drawn, _shares(n, len(drawn)), strict=True)]
    # Where ends and shares overlap, others fill up.
    rows = np.concatenate([*met, *shares, *drawn])
    return rows[first_rows(rows)][:n]


def _shares(n: int, parts: int) -> list[int]:
    return [n // parts + (i < n % parts) for i in range(parts)]


def _spread(space: Space, rows: Codes, n: int, prefer: Callable[[Codes], F64] | None) -> Codes:
    """`n` of the rows, evenly over the logarithm of their MACs, or the preferred ones of as many strata of MACs."""
    if len(rows) <= n:
        return rows
    if prefer is not None and n > 0:
        some = rows[: CANDIDATES * n]
        return some[warm_start(some, prefer(some), costs(space, some, "macs").astype(np.float64), n)]
    size = np.log(costs(space, rows, "macs"))
    order = np.argsort(size, kind="stable")
    wanted = np.linspace(size[order[0]], size[order[-1]], n)
    near = np.clip(np.searchsorted(size[order], wanted), 0, len(rows) - 1)
    return rows[order[np.unique(near)]]


@dataclass(frozen=True, slots=True)
class SamplerKind:
    """How a sampler is made from a problem, a seed, the proposals of a generation, and what mixes precisions.

    A `joint` one proposes for all targets at once; of others each target has its own study. Generations have `population`
    proposals unless the job says otherwise, the first one `founders` times as many; with 0 founders it is like the others.
    """

    make: Callable[[Problem, int, int, Mix | None], optuna.samplers.BaseSampler]
    population: int
    joint: bool = False
    founders: int = 1


def _nsga3(problem: Problem, seed: int, population: int, mix: Mix | None) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # it has been so since version 3.2
        return optuna.samplers.NSGAIIISampler(seed=seed, population_size=population)


def _guided(
    problem: Problem, seed: int, population: int, mix: Mix | None, exact: bool = False, mixed: bool = False
) -> optuna.samplers.BaseSampler:
    return GuidedSampler(problem, batch=population, seed=seed, exact=exact, mix=mix if mixed else None)


def _nested(problem: Problem, seed: int, population: int, mix: Mix | None) -> optuna.samplers.BaseSampler:
    return NestedSampler(problem, population)


SAMPLERS: Mapping[str, SamplerKind] = {
    "guided": SamplerKind(_guided, 10, joint=True, founders=2),
    # The same with the optima of additive models among its candidates. On a recorded landscape (8 M networks, 6 seeds, 100
    # evaluations) that changed nothing: a hypervolume of 0.6649 in place of 0.6650.
    "guided_exact": SamplerKind(partial(_guided, exact=True), 10, joint=True, founders=2),
    # The same with mixes by integer programming among its candidates.
    "guided_mixed": SamplerKind(partial(_guided, mixed=True), 10, joint=True, founders=2),
    "nsga2": SamplerKind(
        lambda problem, seed, population, mix: optuna.samplers.NSGAIISampler(seed=seed, population_size=population), 24
    ),
    "nsga3": SamplerKind(_nsga3, 24),
    "tpe": SamplerKind(
        lambda problem, seed, population, mix: optuna.samplers.TPESampler(seed=seed, constant_liar=True), 10
    ),
    "gp": SamplerKind(lambda problem, seed, population, mix: optuna.samplers.GPSampler(seed=seed), 4),
    "random": SamplerKind(lambda problem, seed, population, mix: optuna.samplers.RandomSampler(seed=seed), 24),
    "nested": SamplerKind(_nested, LEVELS, joint=True, founders=0),
}
