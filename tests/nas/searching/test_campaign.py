"""A job's whole search: every seed, the best confirmed, and what it is compared with."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nas.searching.campaign import Campaign, Extent, campaign, seeds_of
from nas.searching.constraints import parse_constraint
from nas.searching.controls import uniform_rows
from nas.searching.engine import Identity, Plan
from nas.searching.evaluations import Evaluations
from nas.searching.problem import Problem
from nas.searching.quantities import Target
from nas.searching.store import TrialStore
from search_spaces import define_space
from tests.nas.fakes import FAKE_IMAGES, FakePredictor, FakeRunner, Interrupted, fake_accuracy

SPACE = define_space("tiny", in_channels=1, resolutions=[8, 12], channels=[64, 96], strides=[1, 2])
FEW = 100
PLAN = Plan("nsga2", 12, (FEW,), population=4)
TWICE = Extent(seeds=2, controls=True, all_images=FAKE_IMAGES)


def problem_of(*limits: str, names: str = "ab") -> Problem:
    targets = tuple(Target(name, SPACE, 1, {"latency_ms": FakePredictor(SPACE, seed=ord(name))}) for name in names)
    return Problem(SPACE, targets, limits=tuple(map(parse_constraint, limits)))


def found_by(
    path: Path | str = "sqlite://",
    plan: Plan = PLAN,
    extent: Extent = TWICE,
    problem: Problem | None = None,
    runner: FakeRunner | None = None,
    **more,
) -> Campaign:
    with TrialStore(path) as store:
        evaluations = Evaluations(store, "same", runner or FakeRunner(SPACE), SPACE)
        return campaign(problem or problem_of(), plan, extent, store, evaluations, Identity("one"), **more)


def scored(codes, images=None) -> np.ndarray:
    return np.array([fake_accuracy(SPACE, arch, images) for arch in SPACE.decode(codes)])


def assert_same(one: Campaign, other: Campaign) -> None:
    for name in ("codes", "accuracy", "final", "confirmed"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name in ("a", "b"):
        np.testing.assert_array_equal(one.fronts[name], other.fronts[name])
    for mine, yours in zip(one.random, other.random, strict=True):
        np.testing.assert_array_equal(mine.codes, yours.codes)
        assert mine.history == yours.history
    for mine, yours in zip(one.uniform, other.uniform, strict=True):
        np.testing.assert_array_equal(mine, yours)
    assert one.averages == other.averages
    assert [each.history for each in one.searches] == [each.history for each in other.searches]


@pytest.fixture(scope="module")
def found() -> Campaign:
    return found_by()


def test_every_seed_searches_on_its_own_and_rows_are_put_together(found):
    one, other = found.searches
    assert (one.seed, other.seed) == tuple(seeds_of(PLAN.seed, 2))
    assert not np.array_equal(one.codes, other.codes)
    rows = {tuple(row) for each in found.searches for row in each.codes.tolist()}
    assert {tuple(row) for row in found.codes.tolist()} == rows
    assert len(found.codes) == len(rows) < 24, "both begin with the ends of the space"
    np.testing.assert_array_equal(found.accuracy, scored(found.codes, FEW))


def test_seeds_are_different_and_the_first_is_the_jobs():
    assert seeds_of(7, 1) == [7]
    assert len(set(seeds_of(7, 50))) == 50
    assert seeds_of(7, 50)[:3] == seeds_of(7, 3)
    assert set(seeds_of(7, 50)[1:]).isdisjoint(seeds_of(8, 50))


def test_fronts_are_of_confirmed_accuracies(found):
    known = np.isfinite(found.confirmed)
    assert 0 < known.sum() < len(known)
    np.testing.assert_array_equal(found.confirmed[known], scored(found.codes[known]))
    for target in found.problem.targets:
        front = found.fronts[target.name]
        wanted = found.problem.front(target, found.codes[known], found.confirmed[known])
        np.testing.assert_array_equal(front, np.flatnonzero(known)[wanted])
        # What the search took for the front is confirmed, all of it.
        assert known[found.problem.front(target, found.codes, found.accuracy)].all()


def test_where_the_search_read_all_images_nothing_has_to_be_confirmed():
    runner = FakeRunner(SPACE)
    alone = Extent(seeds=1, controls=False, all_images=FAKE_IMAGES)
    found = found_by(plan=replace(PLAN, images=(FAKE_IMAGES,)), extent=alone, runner=runner)
    assert len(runner.scored) == 12
    np.testing.assert_array_equal(found.confirmed, found.accuracy)
    for name, front in found.searches[0].fronts.items():
        np.testing.assert_array_equal(found.fronts[name], front)


def test_of_an_architecture_on_few_and_on_many_images_the_latter_counts():
    plan = Plan("guided", 12, (FEW, 200), population=4)
    found = found_by(plan=plan)
    assert 0 < found.final.sum() < len(found.final)
    np.testing.assert_array_equal(found.accuracy[found.final], scored(found.codes[found.final], 200))
    assert not np.isfinite(found.confirmed[~found.final]).any()
    finals = {tuple(row) for each in found.searches for row in each.codes[each.final].tolist()}
    assert {tuple(row) for row in found.codes[found.final].tolist()} == finals


def test_controls_are_evaluated_as_the_search_was(found):
    for each, search in zip(found.random, found.searches, strict=True):
        assert len(each.codes) == len(search.codes) == 12
        np.testing.assert_array_equal(each.accuracy, scored(each.codes, FEW))
        counts, volumes = zip(*each.history, strict=True)
        assert counts[-1] == 12
        for target in found.problem.targets:
            assert volumes[-1][target.name] == found.problem.hypervolume(target, each.codes, each.accuracy)
    assert not np.array_equal(found.random[0].codes, found.random[1].codes)
    rows, accuracy = found.uniform
    np.testing.assert_array_equal(rows, uniform_rows(SPACE))
    np.testing.assert_array_equal(accuracy, scored(rows, FEW))
    everything = np.concatenate([each.accuracy for each in found.random])
    assert found.averages["a"].accuracy == pytest.approx(everything.mean())


def test_without_controls_there_are_none():
    runner = FakeRunner(SPACE)
    found = found_by(extent=replace(TWICE, controls=False), runner=runner)
    assert (found.random, found.uniform, found.averages) == ((), None, {})
    assert len(runner.scored) == len(found.codes) + np.isfinite(found.confirmed).sum()


def test_what_nothing_can_satisfy_is_not_evaluated():
    runner = FakeRunner(SPACE)
    found = found_by(problem=problem_of("macs <= 1"), runner=runner)
    assert runner.scored == []
    assert found.codes.shape == (0, len(SPACE.choices))
    assert all(len(front) == 0 for front in found.fronts.values())
    assert (found.random, found.uniform, found.averages) == ((), None, {})


def test_a_target_that_cannot_be_satisfied_leaves_the_others_as_they_are():
    found = found_by(problem=problem_of("latency_ms@b <= 0.1"))
    assert len(found.fronts["a"])
    assert len(found.fronts["b"]) == 0
    assert found.averages["b"] is None
    assert found.averages["a"].accuracy > 0


def test_known_accuracies_are_taken_over_by_every_seed():
    codes = np.unique(SPACE.sample(np.random.default_rng(5), 10), axis=0)
    warm = dict(zip(SPACE.decode(codes), scored(codes, FEW).tolist(), strict=True))
    runner = FakeRunner(SPACE)
    found = found_by(plan=replace(PLAN, sampler="guided"), runner=runner, warm=warm)
    for search, control in zip(found.searches, found.random, strict=True):
        assert search.sources == {"warm": len(codes), "sampler": 12}
        assert len(control.codes) == 12
    assert {tuple(row) for row in codes.tolist()} < {tuple(row) for row in found.codes.tolist()}


@pytest.mark.parametrize("step", [7, 19])
def test_a_campaign_that_is_interrupted_again_and_again_ends_as_if_it_was_not(tmp_path, found, step):
    total = []
    for _ in range(40):
        runner = FakeRunner(SPACE, stop_after=step)
        try:
            again = found_by(tmp_path / "a.sqlite", runner=runner)
            break
        except Interrupted:
            total += runner.scored
    assert_same(again, found)
    # On few and on all images at most.
    assert all(total.count(arch) <= 2 for arch in total)


def test_a_campaign_over_a_full_store_evaluates_nothing(tmp_path, found):
    found_by(tmp_path / "a.sqlite")
    assert_same(found_by(tmp_path / "a.sqlite", runner=FakeRunner(SPACE, stop_after=0)), found)


def test_progress_tells_what_is_being_done():
    seen = []
    found_by(progress=lambda done, total, text: seen.append((done, total, text)))
    assert all(0 < done <= total for done, total, _ in seen)
    texts = list(dict.fromkeys(re.sub(r" [0-9.]+%$", "", text) for _, _, text in seen))
    assert texts == [
        "best on validation images",
        "confirmed on all validation images",
        "random search, to compare with",
        "uniformly scaled networks",
    ]
