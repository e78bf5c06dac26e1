"""The search: Optuna proposes in generations, a runner evaluates, the evaluation store remembers.

One study a device, all fed by the same evaluations: each canonical architecture is evaluated once, whichever device asked
for it. A generation is a barrier, and its sampler is seeded by (seed, device, generation). So a search that starts again
over a store asks the same questions in the same order, finds their answers there, and ends with the same front.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import optuna
from numpy.typing import NDArray

from latency_tables.predicting.predictor import LatencyPredictor
from nas.errors import JobError
from nas.job import SearchSettings
from nas.progress import Progress
from nas.searching.constraints import Constraint, constraint_values, feasible_sample, parse_constraint, violations
from nas.searching.fronts import front, hypervolume
from nas.searching.runners import Runner
from nas.searching.store import EvaluationStore
from search_spaces import Arch, Codes, Space, digest

SAMPLERS: dict[str, Callable[[int, int], optuna.samplers.BaseSampler]] = {
    "nsga2": lambda seed, population: optuna.samplers.NSGAIISampler(seed=seed, population_size=population),
    "random": lambda seed, population: optuna.samplers.RandomSampler(seed=seed),
}

# A small space may hold fewer new architectures than were asked for; this many generations without one end the search.
BARREN_GENERATIONS = 5


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Everything evaluated, in the order in which it was asked for, and by device the indices of its front."""

    space: Space
    codes: Codes
    val_accuracy: NDArray[np.float64]
    latency_ms: Mapping[str, NDArray[np.float64]]
    fronts: Mapping[str, NDArray[np.int64]]
    hypervolume: Mapping[str, float]
    history: Sequence[tuple[int, float]]
    """Evaluations so far, and the mean hypervolume over devices with them."""
    proposals: int
    seconds: float


@dataclass
class _State:
    """Evaluated architectures in order."""

    space: Space
    settings: SearchSettings
    accuracy: dict[Arch, float] = field(default_factory=dict)
    proposals: int = 0

    @property
    def full(self) -> bool:
        return len(self.accuracy) >= min(self.settings.evaluations, self.space.size)


def search(
    space: Space,
    predictors: Mapping[str, LatencyPredictor],
    runner: Runner,
    store: EvaluationStore,
    settings: SearchSettings,
    seed: int,
    progress: Progress = lambda done, total, text: None,
) -> SearchResult:
    """Look for the architectures that are Pareto-optimal in validation accuracy and predicted latency on each device."""
    started = time.perf_counter()
    if settings.sampler not in SAMPLERS:
        raise JobError(f"unknown search.sampler {settings.sampler!r}; known are {', '.join(SAMPLERS)}")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    limits = [parse_constraint(text) for text in settings.constraints]
    studies = {
        name: _Study(name, space, predictor, limits, settings, seed) for name, predictor in sorted(predictors.items())
    }
    state = _State(space, settings)
    history: list[tuple[int, float]] = []
    barren = 0
    while not state.full and barren < BARREN_GENERATIONS:
        asked = {name: study.ask() for name, study in studies.items()}
        state.proposals += sum(map(len, asked.values()))
        before = len(state.accuracy)
        _evaluate(asked.values(), state, runner, store, progress)
        for name, study in studies.items():
            study.tell(asked[name], state.accuracy)
        barren = barren + 1 if len(state.accuracy) == before else 0
        volumes = _result(state, studies, history, started).hypervolume
        history.append((len(state.accuracy), float(np.mean(list(volumes.values())))))
    return _result(state, studies, history, started)


class _Study:
    """One device's Optuna study, with its predictor and constraints."""

    def __init__(
        self,
        device: str,
        space: Space,
        predictor: LatencyPredictor,
        limits: Sequence[Constraint],
        settings: SearchSettings,
        seed: int,
    ) -> None:
        self.device = device
        self.space = space
        self.predictor = predictor
        self.limits = [limit for limit in limits if limit.device in (None, device)]
        self.largest_ms = float(predictor.predict(space.encode([space.largest()]))[0])
        self._settings = settings
        self._seed = seed
        self._generation = 0
        self._trials: list[optuna.Trial] = []
        self._study = optuna.create_study(directions=["maximize", "minimize"], sampler=self._sampler())
        for row in self._founders():
            self._study.enqueue_trial({c.name: int(row[j]) for j, c in enumerate(space.choices) if len(c.values) > 1})

    def ask(self) -> Codes:
        """A generation of proposals: canonical codes (population, choices)."""
        self._study.sampler = self._sampler()
        self._generation += 1
        self._trials = [self._study.ask() for _ in range(self._settings.population)]
        for trial in self._trials:
            # Optuna turns to its sampler where a trial lacks a value, and founders lack none; but NSGA-II breeds only from
            # trials that it was asked about. Without this, its first generation was drawn at random after the founders.
            _ = trial.relative_params
        # Every choice is asked for, active or not: NSGA-II crosses over what all its trials have in common.
        codes = [
            [t.suggest_int(c.name, 0, len(c.values) - 1) if len(c.values) > 1 else 0 for c in self.space.choices]
            for t in self._trials
        ]
        return self.space.canonical(np.array(codes, dtype=np.int16))

    def tell(self, codes: Codes, accuracy: Mapping[Arch, float]) -> None:
        """Report the generation; proposals that the budget left unevaluated count as failed."""
        latency_ms = self.predictor.predict(codes)
        excess = violations(self.limits, self.device, self.space, self.predictor, codes)
        for i, (trial, arch) in enumerate(zip(self._trials, self.space.decode(codes), strict=True)):
            for text, value in constraint_values(excess[i], self.limits).items():
                trial.set_constraint(text, value)
            if arch in accuracy:
                self._study.tell(trial, (accuracy[arch], float(latency_ms[i])))
            else:
                self._study.tell(trial, state=optuna.trial.TrialState.FAIL)

    def feasible(self, codes: Codes) -> NDArray[np.bool_]:
        """Which rows meet the device's constraints."""
        met = violations(self.limits, self.device, self.space, self.predictor, codes) <= 0
        return np.asarray(met.all(axis=1))

    def _sampler(self) -> optuna.samplers.BaseSampler:
        number = int(digest(["sampler", self._seed, self.device, self._generation], 8), 16)
        return SAMPLERS[self._settings.sampler](number, self._settings.population)

    def _founders(self) -> Codes:
        """The first generation: the ends of the space where they are feasible, and feasible random rows."""
        rng = np.random.default_rng(int(digest(["founders", self._seed], 8), 16))
        ends = self.space.encode([self.space.smallest(), self.space.largest()])
        rows = feasible_sample(self.limits, self.device, self.space, self.predictor, rng, self._settings.population)
        rows = np.concatenate([ends[self.feasible(ends)], rows])
        _, first = np.unique(rows, axis=0, return_index=True)
        return rows[np.sort(first)][: self._settings.population]


def _evaluate(
    generations: Iterable[Codes], state: _State, runner: Runner, store: EvaluationStore, progress: Progress
) -> None:
    """Score what is new in these generations, up to the budget: from the store, or else by the runner."""
    room = state.settings.evaluations - len(state.accuracy)
    # In turn: where the budget ends within a generation, every device has had its share of it.
    proposed = [arch for row in zip(*map(state.space.decode, generations), strict=True) for arch in row]
    new = [arch for arch in dict.fromkeys(proposed) if arch not in state.accuracy][:room]
    known = store.known()
    done = len(state.accuracy) + sum(arch.id in known for arch in new)
    for arch, score in runner.scores([arch for arch in new if arch.id not in known]):
        store.add(arch, score.val_accuracy, score.seconds)
        known[arch.id] = score.val_accuracy
        done += 1
        best = max([*state.accuracy.values(), score.val_accuracy])
        progress(done, state.settings.evaluations, f"best validation accuracy {100 * best:.1f}%")
    state.accuracy.update({arch: known[arch.id] for arch in new})


def _result(
    state: _State, studies: Mapping[str, _Study], history: Sequence[tuple[int, float]], started: float
) -> SearchResult:
    archs = list(state.accuracy)
    codes = state.space.encode(archs)
    accuracy = np.array([state.accuracy[arch] for arch in archs])
    latency_ms, fronts, volumes = {}, {}, {}
    for name, study in studies.items():
        latency_ms[name] = study.predictor.predict(codes)
        meets = np.flatnonzero(study.feasible(codes))
        fronts[name] = meets[front(accuracy[meets], latency_ms[name][meets])]
        volumes[name] = hypervolume(accuracy[fronts[name]], latency_ms[name][fronts[name]], study.largest_ms)
    seconds = time.perf_counter() - started
    return SearchResult(
        state.space, codes, accuracy, latency_ms, fronts, volumes, list(history), state.proposals, seconds
    )
