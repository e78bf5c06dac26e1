"""Whoever watches a search sees its fronts grow to what they are at the end."""

from dataclasses import replace

import pytest

from nas.searching.engine import search
from nas.searching.evaluations import Evaluations
from nas.searching.store import TrialStore
from nas.searching.watch import GrowingFronts
from tests.nas.fakes import FAKE_IMAGES, FakeRunner, Interrupted
from tests.nas.searching.test_engine import ALONE, FEW, GUIDED, SPACE, problem_of


class Witness:
    """Remembers what it was told."""

    def __init__(self):
        self.points, self.volumes = [], []

    def point(self, device, evaluations, arch_id, accuracy, latency_ms):
        self.points.append((device, evaluations, arch_id, accuracy, latency_ms))

    def volume(self, device, seed, evaluations, hypervolume):
        self.volumes.append((device, seed, evaluations, hypervolume))

    def measured(self, device, arch_id, latency_ms):
        raise AssertionError


def watched(path, plan, problem, runner=None):
    witness = Witness()
    with TrialStore(path) as store:
        evaluations = Evaluations(store, "same", runner or FakeRunner(problem.space), problem.space)
        growing = GrowingFronts(problem, witness)
        return witness, search(problem, plan, ALONE, store, evaluations, growing=growing)


def front_of(target, witness):
    """What is left of the points told of a device when those that others dominate are taken out."""
    told = [row for row in witness.points if row[0] == target]
    return {row[2] for row in told if not any(o[3] >= row[3] and o[4] <= row[4] and o[2] != row[2] for o in told)}


@pytest.mark.parametrize("limits", [(), ("latency_ms <= 3.5",), ("accuracy >= 0.5",)])
@pytest.mark.parametrize("plan", [FEW, GUIDED, replace(FEW, images=(50, FAKE_IMAGES))], ids=["nsga2", "guided", "few"])
def test_the_points_told_end_with_the_front(plan, limits):
    problem = problem_of(limits=limits)
    witness, found = watched("sqlite://", plan, problem)
    for target in problem.targets:
        ids = {arch.id for arch in SPACE.decode(found.codes[found.fronts[target.name]])}
        assert front_of(target.name, witness) == ids
    assert len(witness.points) == len({row[:3:2] for row in witness.points})


def test_points_are_told_while_the_generation_still_runs():
    problem, runner = problem_of(), FakeRunner(SPACE)
    seen = []
    witness = Witness()
    witness.point = lambda *row: seen.append(len(runner.scored))
    with TrialStore("sqlite://") as store:
        evaluations = Evaluations(store, "same", runner, SPACE)
        search(problem, replace(FEW, evaluations=6), ALONE, store, evaluations, growing=GrowingFronts(problem, witness))
    assert seen[0] == 1


def test_volumes_are_those_of_the_history():
    problem = problem_of()
    witness, found = watched("sqlite://", FEW, problem)
    told = [(n, {d: v for d, _, m, v in witness.volumes if m == n}) for n, _ in found.history]
    assert told == [(n, dict(by)) for n, by in found.history]


def test_a_search_that_goes_on_tells_the_same_front(tmp_path):
    problem, path = problem_of(), tmp_path / "e.sqlite"
    whole, _ = watched("sqlite://", GUIDED, problem)
    with pytest.raises(Interrupted):
        watched(path, GUIDED, problem, FakeRunner(SPACE, stop_after=13))
    again, _ = watched(path, GUIDED, problem)
    for target in problem.targets:
        assert front_of(target.name, again) == front_of(target.name, whole)
