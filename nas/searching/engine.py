"""The search: samplers propose in generations, a runner evaluates, the trial store remembers.

Accuracy does not depend on the device, so each canonical architecture is evaluated once and counts for every target. A
generation is a barrier: all of it is in the store before any of it is evaluated, and it is proposed from what was complete
before it, by a sampler seeded with (seed, study, generation). So a search that was cut off anywhere goes on in place and ends
with the same front, and one of 100 evaluations that is extended by 100 is one of 200.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, zip_longest

import numpy as np
from numpy.typing import NDArray

from nas.progress import Progress
from nas.searching.constraints import Feasible, Reach, feasible_sample, reach
from nas.searching.evaluations import Evaluations, OnScore
from nas.searching.fidelity import Fidelity, fidelity, promising, sampling_variance
from nas.searching.guided import Known
from nas.searching.problem import Problem
from nas.searching.samplers import SAMPLERS
from nas.searching.store import Proposal, TrialStore
from nas.searching.studies import NO_AIDS, Aids, Scored, SearchStudy, make_studies
from nas.searching.watch import UNWATCHED, GrowingFronts
from search_spaces import Arch, Codes, Space, digest

F64 = NDArray[np.float64]

# A small space may hold fewer new architectures than were asked for; this many generations without one end the search.
BARREN_GENERATIONS = 5
# The hypervolume stands still while it grows by no more than this share over `patience` generations.
LEAST_GROWTH = 1e-3


@dataclass(frozen=True, slots=True)
class Plan:
    """How to search. `images`: how many validation images an evaluation reads, or first so many and then so many;
    `patience`: generations without growth that end the search."""

    sampler: str
    evaluations: int
    images: tuple[int, ...]
    population: int | None = None
    patience: int | None = None
    seed: int = 0
    aids: Aids = NO_AIDS


@dataclass(frozen=True, slots=True)
class Identity:
    """The name of a search in the store, and by name the digests of all that its proposals depend on."""

    search: str
    inputs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Survey:
    """By target what its constraints can reach, and, where nothing meets them, what comes closest."""

    reach: Mapping[str, tuple[Reach, ...]]
    infeasible: Mapping[str, Feasible]


@dataclass(frozen=True, eq=False)
class SearchResult:
    """Everything evaluated, in the order in which it was asked for, and by target the indices of its front."""

    problem: Problem
    seed: int
    codes: Codes
    accuracy: F64
    final: NDArray[np.bool_]
    """Evaluated on all the images that the search reads; the others on fewer, and on no front."""
    fronts: Mapping[str, NDArray[np.int64]]
    hypervolume: Mapping[str, float]
    history: Sequence[tuple[int, Mapping[str, float]]]
    """Evaluations so far, and by target the hypervolume with them."""
    sources: Mapping[str, int]
    """How many of the architectures came from whom."""
    proposals: int
    ended: str
    """What ended it: its evaluations, patience, the space, or that no target's limits can be met."""
    reach: Mapping[str, tuple[Reach, ...]]
    infeasible: Mapping[str, Feasible]
    """Targets whose limits nothing meets, with what comes closest."""
    fidelity: Fidelity | None
    seconds: float
    proposing_seconds: float


def search(
    problem: Problem,
    plan: Plan,
    identity: Identity,
    store: TrialStore,
    evaluations: Evaluations,
    progress: Progress = lambda done, total, text: None,
    warm: Mapping[Arch, float] | None = None,
    surveyed: Survey | None = None,
    growing: GrowingFronts | None = None,
) -> SearchResult:
    """Look for the architectures that are Pareto-optimal on each target.

    `warm` are accuracies that are known already, on all images: samplers learn from them, fronts may hold them, and they
    do not count as evaluations. `surveyed` is the survey of the problem, where it was made before; `growing` is told of what
    is evaluated.
    """
    started = time.perf_counter()
    problem = _in_order(problem)
    surveyed = surveyed or survey(problem, plan.seed)
    open_to = replace(problem, targets=tuple(t for t in problem.targets if t.name not in surveyed.infeasible))
    store.begin(identity.search, identity.inputs)
    ledger = _Ledger(problem, plan, evaluations, progress, growing or GrowingFronts(problem, UNWATCHED))
    ledger.take_over(warm or {})
    ended = _run(open_to, ledger, store, identity.search) if open_to.targets else "infeasible"
    return ledger.result(ended, surveyed, time.perf_counter() - started)


def survey(problem: Problem, seed: int) -> Survey:
    """What constraints can reach, and whose cannot be met, before anything is proposed."""
    problem = _in_order(problem)
    rng = np.random.default_rng(int(digest(["reach", seed], 15), 16))
    reaches = {target.name: reach(problem.limits, target, rng) for target in problem.targets}
    nearest = {target.name: feasible_sample(problem.limits, target, rng, 1) for target in problem.targets}
    return Survey(reaches, {name: found for name, found in nearest.items() if len(found.codes) == 0})


def _in_order(problem: Problem) -> Problem:
    """The same whatever the order in which devices are named."""
    return replace(problem, targets=tuple(sorted(problem.targets, key=lambda target: target.name)))


def _run(problem: Problem, ledger: _Ledger, store: TrialStore, search: str) -> str:
    """Generation after generation; what ended them."""
    plan = ledger.plan
    kind = SAMPLERS[plan.sampler]
    studies = make_studies(problem, kind, plan.population or kind.population, plan.seed, plan.aids)
    if ledger.warm:
        scored = ledger.scored(list(ledger.accuracy))
        for study in studies:
            study.restore(scored.codes, scored, [{}] * ledger.warm)
    stored = [list(rows) for _, rows in groupby(store.proposals(search), key=lambda row: row.generation)]
    barren = generation = 0
    while not ledger.full and barren < BARREN_GENERATIONS:
        before = ledger.evaluated
        if generation < len(stored):
            asked = stored[generation]
        else:
            started = time.perf_counter()
            asked = _ask(studies, generation, ledger.proposals)
            ledger.proposing_seconds += time.perf_counter() - started
            store.propose(search, asked)
        if not ledger.evaluate(asked):
            break
        for study in studies:
            _tell(study, [row for row in asked if row.study == study.name], ledger, fresh=generation >= len(stored))
        barren = barren + 1 if ledger.evaluated == before else 0
        generation += 1
        if ledger.stands_still:
            return "patience"
    return "space" if ledger.exhausted or barren >= BARREN_GENERATIONS else "evaluations"


def _ask(studies: Sequence[SearchStudy], generation: int, number: int) -> list[Proposal]:
    """A generation of every study, one after another in turn: where the budget ends within it, each has had its share."""
    asked = []
    for study in studies:
        codes, attrs = study.ask(generation)
        source = "founder" if generation == 0 and not study.informed else "sampler"
        archs = study.problem.space.decode(codes)
        asked.append([(study.name, source, *each) for each in zip(archs, codes.tolist(), attrs, strict=True)])
    turns = [each for turn in zip_longest(*asked) for each in turn if each is not None]
    return [
        Proposal(number + i, generation, name, source, arch.id, tuple(row), attrs)
        for i, (name, source, arch, row, attrs) in enumerate(turns)
    ]


def _tell(study: SearchStudy, rows: Sequence[Proposal], ledger: _Ledger, fresh: bool) -> None:
    asked = _codes(study.problem.space, rows)
    scored = ledger.scored(study.problem.space.decode(asked))
    if fresh:
        study.tell(scored)
    else:
        study.restore(asked, scored, [row.attrs for row in rows])


def _codes(space: Space, rows: Sequence[Proposal]) -> Codes:
    return np.array([row.codes for row in rows], dtype=np.int16).reshape(len(rows), len(space.choices))


class _Ledger:
    """What a search has evaluated, in order, and what its fronts were worth on the way."""

    def __init__(
        self, problem: Problem, plan: Plan, evaluations: Evaluations, progress: Progress, growing: GrowingFronts
    ) -> None:
        self.problem, self.plan = problem, plan
        self._evaluations, self._progress, self._growing = evaluations, progress, growing
        self.accuracy: dict[Arch, float] = {}
        self._images: dict[Arch, int] = {}
        self._first: dict[Arch, float] = {}
        self._sources: dict[str, int] = {}
        self._history: list[tuple[int, dict[str, float]]] = []
        self.warm = 0
        self.proposals = 0
        self.proposing_seconds = 0.0

    @property
    def evaluated(self) -> int:
        return len(self.accuracy) - self.warm

    @property
    def exhausted(self) -> bool:
        return len(self.accuracy) >= self.problem.space.size

    @property
    def full(self) -> bool:
        return self.exhausted or self.evaluated >= self.plan.evaluations

    @property
    def stands_still(self) -> bool:
        """No target's hypervolume has grown by more than `LEAST_GROWTH` over the last `patience` generations."""
        if self.plan.patience is None or len(self._history) <= self.plan.patience:
            return False
        then, now = self._history[-1 - self.plan.patience][1], self._history[-1][1]
        return all(now[name] <= then[name] * (1 + LEAST_GROWTH) for name in now) and any(now.values())

    def take_over(self, known: Mapping[Arch, float]) -> None:
        """Accuracies on all images that were not evaluated for this search."""
        self._record(known, self.plan.images[-1])
        self._count("warm", len(known))
        self.warm = len(known)

    def evaluate(self, asked: Sequence[Proposal]) -> bool:
        """Score what is new in a generation, up to the budget; whether the budget held for all of it."""
        self.proposals += len(asked)
        archs = self.problem.space.decode(_codes(self.problem.space, asked))
        new = list(dict.fromkeys(arch for arch in archs if arch not in self.accuracy))
        scored = new[: self.plan.evaluations - self.evaluated]
        source = dict(zip(reversed(archs), (row.source for row in reversed(asked)), strict=True))
        *few, most = self.plan.images
        done, chosen = self.evaluated, scored
        if few and scored:
            first = self._evaluations.score(scored, few[0], self._shown(done))
            self._first |= first
            chosen = self._promising(first, few[0])
            self._record(first, few[0])
        self._growing.expect(chosen)
        found = self._evaluations.score(chosen, most, self._shown(done + (len(scored) - len(chosen)), self._growing))
        self._growing.add(found)
        self._record(found, most)
        for arch in scored:
            self._count(source[arch], 1)
        self._history.append((self.evaluated, self._volumes()))
        self._growing.generation(self.plan.seed, *self._history[-1])
        return len(scored) == len(new)

    def scored(self, archs: Sequence[Arch]) -> Scored:
        return Scored(
            self.problem.space.encode(archs),
            np.array([self.accuracy[arch] for arch in archs]),
            np.array([self._images[arch] for arch in archs], dtype=np.int64),
        )

    def result(self, ended: str, surveyed: Survey, seconds: float) -> SearchResult:
        known = self._known()
        fronts = {target.name: known.front(self.problem, target) for target in self.problem.targets}
        few = None
        if len(self.plan.images) > 1:
            pairs = [(self._first[a], self.accuracy[a]) for a in self._first if self._images[a] == self.plan.images[-1]]
            few = fidelity(self.plan.images[0], self.plan.images[-1], pairs, len(self._first))
        return SearchResult(
            problem=self.problem,
            seed=self.plan.seed,
            codes=known.codes,
            accuracy=known.accuracy,
            final=known.final,
            fronts=fronts,
            hypervolume=self._history[-1][1] if self._history else self._volumes(),
            history=list(self._history),
            sources=dict(self._sources),
            proposals=self.proposals,
            ended=ended,
            reach=surveyed.reach,
            infeasible=surveyed.infeasible,
            fidelity=few,
            seconds=seconds,
            proposing_seconds=self.proposing_seconds,
        )

    def _promising(self, first: Mapping[Arch, float], images: int) -> list[Arch]:
        archs, accuracy = list(first), np.array(list(first.values()))
        variance = sampling_variance(accuracy, np.full(len(archs), images), self.plan.images[-1], self.problem.labels)
        codes = self.problem.space.encode(archs)
        return [archs[i] for i in promising(self.problem, self._known(), codes, accuracy, variance)]

    def _known(self) -> Known:
        scored = self.scored(list(self.accuracy))
        most = self.plan.images[-1]
        variance = sampling_variance(scored.accuracy, scored.images, most, self.problem.labels)
        return Known(scored.codes, scored.accuracy, variance, scored.images == most)

    def _volumes(self) -> dict[str, float]:
        known = self._known()
        codes, accuracy = known.codes[known.final], known.accuracy[known.final]
        return {target.name: self.problem.hypervolume(target, codes, accuracy) for target in self.problem.targets}

    def _record(self, scores: Mapping[Arch, float], images: int) -> None:
        self.accuracy |= scores
        self._images |= dict.fromkeys(scores, images)

    def _count(self, source: str, n: int) -> None:
        if n:
            self._sources[source] = self._sources.get(source, 0) + n

    def _shown(self, before: int, growing: GrowingFronts | None = None) -> OnScore:
        total, best = self.plan.evaluations, max(self.accuracy.values(), default=0.0)

        def shown(arch: Arch, accuracy: float, done: int) -> None:
            nonlocal best
            best = max(best, accuracy)
            if growing is not None:
                growing.add({arch: accuracy})
            self._progress(min(before + done, total), total, f"best on validation images {100 * best:.1f}%")

        return shown
