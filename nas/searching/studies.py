"""One Optuna study of a search: it asks its sampler for generations, and is rebuilt from what the store remembers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, create_trial

from nas.searching.constraints import excesses
from nas.searching.problem import Problem
from nas.searching.samplers import ACCURACY, IMAGES, Mix, SamplerKind, distributions, founders, params_of
from search_spaces import Codes, digest

F64 = NDArray[np.float64]
Prefer = Callable[[Codes], F64]
"""Scores rows before anything is evaluated; higher is better."""

ARCH = "arch_id"
"""User attribute of a trial that is not being asked for."""
JOINT = "all"
"""The name of a study that proposes for all targets."""


@dataclass(frozen=True, eq=False)
class Scored:
    """Rows with their accuracies and on how many images they were counted, as a study is told of them."""

    codes: Codes
    accuracy: F64
    images: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Aids:
    """What helps to propose: `prefer` chooses the first generation among architectures of like size, `mix` makes candidates in
    other precisions."""

    prefer: Prefer | None = None
    mix: Mix | None = None


NO_AIDS = Aids()


class SearchStudy:
    """The study called `name` of a problem, which has one target or, for a joint sampler, all of them."""

    def __init__(
        self,
        name: str,
        problem: Problem,
        kind: SamplerKind,
        population: int,
        seed: int,
        aids: Aids = NO_AIDS,
    ) -> None:
        self.name, self.problem, self._aids = name, problem, aids
        self._kind, self._population, self._seed = kind, population, seed
        self._asked: list[optuna.Trial] = []
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._storage = optuna.storages.InMemoryStorage()
        self.study = optuna.create_study(directions=problem.directions(), study_name=name, storage=self._storage)
        self._study_id = self._storage.get_study_id_from_name(name)

    @property
    def informed(self) -> bool:
        """It proposes from what it knows; one that knows nothing, or breeds from its own, begins with founders."""
        return self._kind.joint and len(self.study.get_trials(deepcopy=False)) > 0

    def ask(self, generation: int) -> tuple[Codes, list[Mapping[str, Any]]]:
        """A generation of proposals: codes as the sampler chose them, inactive choices included, and what else Optuna has to
        remember: the system attributes of each trial, and with the first of them those of the study."""
        begins = generation == 0 and not self.informed and self._kind.founders > 0
        n = self._population * (self._kind.founders if begins else 1)
        seed = int(digest(["sampler", self._seed, self.name, generation], 8), 16)
        self.study.sampler = self._kind.make(self.problem, seed, n, self._aids.mix)
        if begins:
            self._enqueue_founders(n)
        self._asked = [self.study.ask() for _ in range(n)]
        for trial in () if self._kind.joint else self._asked:
            # Optuna turns to its sampler where a trial lacks a value, and founders lack none; but NSGA-II breeds only from
            # trials that it was asked about. Without this, its first generation was drawn at random after the founders.
            _ = trial.relative_params
        # Every choice is asked for, active or not: NSGA-II crosses over what all its trials have in common.
        choices = self.problem.space.choices
        rows = [
            [t.suggest_int(c.name, 0, len(c.values) - 1) if len(c.values) > 1 else 0 for c in choices]
            for t in self._asked
        ]
        trials = self.study.get_trials(deepcopy=False)[-n:]
        attrs: list[Mapping[str, Any]] = [{"trial": dict(trial.system_attrs)} for trial in trials]
        # NSGA-III draws its parents, once a generation, and keeps them with the study.
        attrs[0] = {**attrs[0], "study": dict(self._storage.get_study_system_attrs(self._study_id))}
        return np.array(rows, dtype=np.int16), attrs

    def tell(self, scored: Scored) -> None:
        """Report the generation that was asked for last, row by row."""
        values = self.problem.trial_values(scored.codes, scored.accuracy)
        limits = constraint_values(self.problem, scored)
        for trial, value, limit, accuracy, images in zip(
            self._asked, values, limits, scored.accuracy, scored.images, strict=True
        ):
            for text, excess in limit.items():
                trial.set_constraint(text, excess)
            trial.set_user_attr(ACCURACY, float(accuracy))
            trial.set_user_attr(IMAGES, int(images))
            self.study.tell(trial, value.tolist())
        self._asked = []

    def restore(self, asked: Codes, scored: Scored, attrs: Sequence[Mapping[str, Any]]) -> None:
        """Take in trials that were asked for and scored before, or elsewhere; `asked` as `ask` gave them."""
        self.study.add_trials(trials_of(self.problem, asked, scored, [attr.get("trial", {}) for attr in attrs]))
        for key, value in (item for attr in attrs for item in attr.get("study", {}).items()):
            self._storage.set_study_system_attr(self._study_id, key, value)

    def _enqueue_founders(self, n: int) -> None:
        rng = np.random.default_rng(int(digest(["founders", self._seed], 15), 16))
        for row in founders(self.problem, rng, n, self._aids.prefer):
            self.study.enqueue_trial(params_of(self.problem.space, row))


def make_studies(
    problem: Problem,
    kind: SamplerKind,
    population: int,
    seed: int,
    aids: Aids = NO_AIDS,
) -> list[SearchStudy]:
    """One study for all targets, or one for each."""
    if kind.joint:
        return [SearchStudy(JOINT, problem, kind, population, seed, aids)]
    return [
        SearchStudy(target.name, replace(problem, targets=(target,)), kind, population, seed, aids)
        for target in problem.targets
    ]


def trials_of(problem: Problem, asked: Codes, scored: Scored, attrs: Sequence[Mapping[str, Any]]) -> list[FrozenTrial]:
    """Completed trials, one a row: parameters, values, constraints; the accuracy and its images as user attributes."""
    known = distributions(problem.space)
    values = problem.trial_values(scored.codes, scored.accuracy)
    limits = constraint_values(problem, scored)
    return [
        create_trial(
            params=params_of(problem.space, row),
            distributions=known,
            values=value,
            user_attrs={ARCH: arch.id, ACCURACY: accuracy, IMAGES: images},
            system_attrs=dict(attr),
            constraints=limit,
        )
        for arch, row, value, limit, accuracy, images, attr in zip(
            problem.space.decode(scored.codes),
            asked.tolist(),
            values.tolist(),
            limits,
            scored.accuracy.tolist(),
            scored.images.tolist(),
            attrs,
            strict=True,
        )
    ]


def constraint_values(problem: Problem, scored: Scored) -> list[dict[str, float]]:
    """Each row's constraints by their text, as Optuna takes them: above 0 is violated."""
    names: list[str] = []
    columns: list[F64] = []
    for target in problem.targets:
        own = problem.limits_on(target)
        names += [f"{target.name}: {limit.text}" for limit in own]
        columns += list(excesses(own, target, scored.codes, scored.accuracy).T)
    return [dict(zip(names, map(float, row), strict=True)) for row in zip(*columns, strict=True)] or [
        {} for _ in scored.codes
    ]
