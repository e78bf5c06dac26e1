"""Watching a search while it runs: every architecture that joins a front, as it is found, and what the fronts are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nas.searching.problem import Problem
from nas.searching.quantities import Target
from search_spaces import Arch

F64 = NDArray[np.float64]


class Watch(Protocol):
    """Is told of a search. After a search that was cut off goes on, it is told again what it was told before."""

    def point(self, device: str, evaluations: int, arch_id: str, accuracy: float, latency_ms: float) -> None:
        """An architecture that no evaluated one dominates, the latency predicted; `evaluations`: those that had been made."""

    def volume(self, device: str, seed: int, evaluations: int, hypervolume: float) -> None:
        """After a generation of the search with this seed."""

    def measured(self, device: str, arch_id: str, latency_ms: float) -> None:
        """An architecture of the final front, measured on its device."""


class Unwatched:
    """Nobody looks."""

    def point(self, device: str, evaluations: int, arch_id: str, accuracy: float, latency_ms: float) -> None: ...

    def volume(self, device: str, seed: int, evaluations: int, hypervolume: float) -> None: ...

    def measured(self, device: str, arch_id: str, latency_ms: float) -> None: ...


UNWATCHED = Unwatched()


class GrowingFronts:
    """The fronts of all targets while architectures are evaluated one after another, by all searches of a job."""

    def __init__(self, problem: Problem, watch: Watch) -> None:
        self._problem = problem
        self._watch = None if isinstance(watch, Unwatched) else watch
        self._costs: dict[str, dict[str, tuple[F64, float, bool]]] = {target.name: {} for target in problem.targets}
        self._fronts = {target.name: np.zeros((0, len(problem.objectives))) for target in problem.targets}
        self._seen: set[str] = set()
        self._evaluations = 0

    def expect(self, archs: Sequence[Arch]) -> None:
        """These come next: what is predicted for them is predicted for all at once."""
        if self._watch is None or not archs:
            return
        codes = self._problem.space.encode(archs)
        for target in self._problem.targets:
            costs = self._problem.scaled_costs(target, codes)
            latency_ms = target.values("latency_ms", codes)
            met = self._problem.excess(target, codes) == 0
            rows = zip(archs, costs, latency_ms, met, strict=True)
            self._costs[target.name] = {arch.id: (cost, float(ms), bool(ok)) for arch, cost, ms, ok in rows}

    def add(self, scores: Mapping[Arch, float]) -> None:
        """Expected architectures that now have an accuracy; those that were added before do not count again."""
        if self._watch is None:
            return
        for arch, accuracy in scores.items():
            if arch.id in self._seen:
                continue
            self._seen.add(arch.id)
            self._evaluations += 1
            for target in self._problem.targets:
                self._join(self._watch, target, arch, accuracy)

    def generation(self, seed: int, evaluations: int, volumes: Mapping[str, float]) -> None:
        """A generation of the search with this seed is complete."""
        if self._watch is not None:
            for device, volume in volumes.items():
                self._watch.volume(device, seed, evaluations, volume)

    def _join(self, watch: Watch, target: Target, arch: Arch, accuracy: float) -> None:
        cost, latency_ms, met = self._costs[target.name][arch.id]
        if not met or accuracy < self._problem.least_accuracy(target):
            return
        costs = iter(cost)
        point = np.array([1 - accuracy if name == "accuracy" else next(costs) for name in self._problem.objectives])
        front = self._fronts[target.name]
        if (front <= point).all(axis=1).any():
            return
        self._fronts[target.name] = np.vstack([front[~(point <= front).all(axis=1)], point])
        watch.point(target.name, self._evaluations, arch.id, accuracy, latency_ms)
