"""The search: the same front whatever happens on the way, and no evaluation twice."""

from pathlib import Path

import numpy as np
import pytest

from nas.errors import Infeasible, JobError
from nas.job import SearchSettings
from nas.searching.constraints import METRICS
from nas.searching.engine import SearchResult, search
from nas.searching.fronts import front
from nas.searching.store import EvaluationStore
from search_spaces import Space, costs, define_space
from tests.nas.fakes import FakePredictor, FakeRunner, Interrupted, fake_accuracy, small_space
from tests.search_spaces.spaces import all_codes

SPACE = define_space("tiny", in_channels=1, resolutions=[8, 12], channels=[64, 96], strides=[1, 2])
FEW = SearchSettings(evaluations=30, population=6)
IN_MEMORY = Path(":memory:")


def predictors(space: Space = SPACE, names: str = "abc") -> dict[str, FakePredictor]:
    return {name: FakePredictor(space, seed=ord(name)) for name in names}


def searched(
    path: Path = IN_MEMORY,
    settings: SearchSettings = FEW,
    runner: FakeRunner | None = None,
    seed: int = 0,
    space: Space = SPACE,
    names: str = "abc",
) -> SearchResult:
    with EvaluationStore(path, "same") as store:
        return search(space, predictors(space, names), runner or FakeRunner(space), store, settings, seed)


def assert_same(one: SearchResult, other: SearchResult) -> None:
    """Equal but for the seconds."""
    np.testing.assert_array_equal(one.codes, other.codes)
    np.testing.assert_array_equal(one.val_accuracy, other.val_accuracy)
    assert one.fronts.keys() == other.fronts.keys()
    for device in one.fronts:
        np.testing.assert_array_equal(one.latency_ms[device], other.latency_ms[device])
        np.testing.assert_array_equal(one.fronts[device], other.fronts[device])
    assert one.hypervolume == other.hypervolume
    assert list(one.history) == list(other.history)
    assert one.proposals == other.proposals


@pytest.fixture(scope="module")
def uninterrupted() -> SearchResult:
    return searched()


def test_every_architecture_is_evaluated_once_for_all_devices():
    runner = FakeRunner(SPACE)
    found = searched(runner=runner)
    assert len(runner.scored) == len(set(runner.scored)) == FEW.evaluations
    assert {arch.id for arch in SPACE.decode(found.codes)} == set(runner.scored)
    assert found.proposals > FEW.evaluations


def test_the_result_is_what_was_evaluated_and_predicted(uninterrupted):
    np.testing.assert_array_equal(SPACE.canonical(uninterrupted.codes), uninterrupted.codes)
    archs = SPACE.decode(uninterrupted.codes)
    assert uninterrupted.val_accuracy.tolist() == [fake_accuracy(SPACE, arch) for arch in archs]
    for name, predictor in predictors().items():
        latency_ms = uninterrupted.latency_ms[name]
        np.testing.assert_array_equal(latency_ms, predictor.predict(uninterrupted.codes))
        wanted = front(uninterrupted.val_accuracy, latency_ms)
        np.testing.assert_array_equal(uninterrupted.fronts[name], wanted)
    assert SPACE.smallest() in archs
    assert SPACE.largest() in archs


def test_the_history_never_falls_and_ends_with_the_result(uninterrupted):
    counts, volumes = zip(*uninterrupted.history, strict=True)
    assert list(counts) == sorted(set(counts))
    assert (np.diff(volumes) >= 0).all()
    assert (counts[-1], volumes[-1]) == (30, pytest.approx(np.mean(list(uninterrupted.hypervolume.values()))))


def test_the_same_seed_gives_the_same_result_and_another_one_another(uninterrupted):
    assert_same(searched(), uninterrupted)
    other = searched(seed=1)
    assert not np.array_equal(other.codes, uninterrupted.codes)


def test_the_order_in_which_evaluations_end_does_not_matter(uninterrupted):
    for shuffle in range(3):
        runner = FakeRunner(SPACE, shuffle=shuffle)
        assert_same(searched(runner=runner), uninterrupted)


def test_the_order_in_which_devices_are_named_does_not_matter(uninterrupted):
    assert_same(searched(names="cba"), uninterrupted)


@pytest.mark.parametrize("stop_after", [0, 1, 5, 6, 11, 17, 23, 29])
def test_a_search_that_was_interrupted_ends_as_if_it_was_not(tmp_path, uninterrupted, stop_after):
    runners = [FakeRunner(SPACE, stop_after=stop_after, shuffle=stop_after), FakeRunner(SPACE)]
    with pytest.raises(Interrupted):
        searched(tmp_path / "a.sqlite", runner=runners[0])
    assert_same(searched(tmp_path / "a.sqlite", runner=runners[1]), uninterrupted)
    assert len(runners[0].scored) == stop_after
    assert set(runners[0].scored).isdisjoint(runners[1].scored)
    assert len(runners[0].scored) + len(runners[1].scored) == FEW.evaluations


def test_a_search_that_is_interrupted_again_and_again_ends_as_if_it_was_not(tmp_path, uninterrupted):
    scored = []
    for _ in range(30):
        runner = FakeRunner(SPACE, stop_after=4)
        try:
            found = searched(tmp_path / "a.sqlite", runner=runner)
            break
        except Interrupted:
            scored += runner.scored
    assert_same(found, uninterrupted)
    assert len(scored) == len(set(scored)) == 28


def test_a_search_over_a_full_store_evaluates_nothing(tmp_path, uninterrupted):
    searched(tmp_path / "a.sqlite")
    runner = FakeRunner(SPACE, stop_after=0)
    assert_same(searched(tmp_path / "a.sqlite", runner=runner), uninterrupted)


def test_a_longer_search_goes_on_from_a_shorter_one(tmp_path):
    searched(tmp_path / "a.sqlite")
    runner, longer = FakeRunner(SPACE), SearchSettings(evaluations=45, population=6)
    found = searched(tmp_path / "a.sqlite", longer, runner)
    # The last generation of the shorter search was cut short, and goes on differently.
    assert len(found.codes) == 45
    assert 15 <= len(runner.scored) < 30
    assert_same(found, searched(settings=longer))


@pytest.mark.parametrize("sampler", ["nsga2", "random"])
@pytest.mark.parametrize("evaluations", [4, 17, 40])
def test_the_budget_is_spent_exactly(sampler, evaluations):
    settings = SearchSettings(sampler=sampler, evaluations=evaluations, population=6)
    runner = FakeRunner(SPACE)
    assert len(searched(settings=settings, runner=runner).codes) == evaluations
    assert len(runner.scored) == evaluations


def test_the_search_ends_when_there_is_nothing_left_to_evaluate():
    space = small_space(resolutions=[8], depths=[1], kernels=[3])
    assert space.size == 4
    found = searched(settings=SearchSettings(evaluations=100, population=6), space=space)
    np.testing.assert_array_equal(np.unique(found.codes, axis=0), all_codes(space))
    for name, predictor in predictors(space).items():
        codes = found.codes[found.fronts[name]]
        accuracy = np.array([fake_accuracy(space, arch) for arch in space.decode(all_codes(space))])
        best = all_codes(space)[front(accuracy, predictor.predict(all_codes(space)))]
        np.testing.assert_array_equal(codes, best)


def test_the_search_of_a_small_space_ends_though_it_was_to_evaluate_more():
    space = small_space()
    found = searched(settings=SearchSettings(evaluations=10_000, population=6), space=space)
    assert 20 < len(found.codes) <= space.size == 40


def test_a_space_of_one_network_has_a_front_of_one():
    space = small_space(resolutions=[8], depths=[1], kernels=[3], widths=[1.0], expands=[1.0])
    found = searched(space=space)
    assert len(found.codes) == 1
    assert [each.tolist() for each in found.fronts.values()] == [[0], [0], [0]]


def test_a_constraint_on_one_device_limits_its_front_alone():
    free = searched()
    bound = float(np.median(free.latency_ms["a"][free.fronts["a"]]))
    settings = SearchSettings(evaluations=30, population=6, constraints=(f"latency_ms@a <= {bound}",))
    found = searched(settings=settings)
    assert (found.latency_ms["a"][found.fronts["a"]] <= bound).all()
    # What is too slow for a is still evaluated and on the other fronts.
    assert (found.latency_ms["a"] > bound).any()
    for name in "bc":
        np.testing.assert_array_equal(found.fronts[name], front(found.val_accuracy, found.latency_ms[name]))
    meets = np.flatnonzero(found.latency_ms["a"] <= bound)
    wanted = meets[front(found.val_accuracy[meets], found.latency_ms["a"][meets])]
    np.testing.assert_array_equal(found.fronts["a"], wanted)


def test_a_constraint_without_a_device_limits_every_front():
    bound = float(np.median(costs(SPACE, SPACE.sample(np.random.default_rng(0), 100), "macs")))
    settings = SearchSettings(evaluations=30, population=6, constraints=(f"macs <= {bound}",))
    found = searched(settings=settings)
    macs = costs(SPACE, found.codes, "macs")
    assert all(len(indices) and (macs[indices] <= bound).all() for indices in found.fronts.values())


def test_every_device_has_a_front_even_if_the_budget_ends_in_the_first_generation():
    # The networks that meet the one constraint do not meet the other.
    macs = METRICS["macs"](SPACE, predictors()["a"], SPACE.encode([SPACE.smallest(), SPACE.largest()]))
    limits = (f"macs@a <= {3 * macs[0]}", f"macs@c >= {macs[1] / 3}")
    settings = SearchSettings(evaluations=4, population=16, constraints=limits)
    found = searched(settings=settings)
    assert all(len(indices) for indices in found.fronts.values())


def test_a_search_that_nothing_can_satisfy_evaluates_nothing():
    runner = FakeRunner(SPACE)
    settings = SearchSettings(evaluations=30, population=6, constraints=("latency_ms@b <= 0.5",))
    with pytest.raises(Infeasible, match=r"no architecture meets 'latency_ms@b <= 0.5' on b"):
        searched(settings=settings, runner=runner)
    assert runner.scored == []


def test_an_unknown_sampler_is_refused():
    with pytest.raises(JobError, match=r"unknown search\.sampler 'tpe'; known are nsga2, random"):
        searched(settings=SearchSettings(sampler="tpe"))


def test_progress_counts_up_to_the_budget():
    seen = []
    with EvaluationStore(IN_MEMORY, "same") as store:
        search(SPACE, predictors(), FakeRunner(SPACE), store, FEW, 0, lambda *at: seen.append(at))
    assert [(done, total) for done, total, _ in seen] == [(i, 30) for i in range(1, 31)]
    assert all(text.startswith("best validation accuracy ") for _, _, text in seen)


def test_the_search_stays_where_the_constraints_are_met():
    # Slow networks, against the pull of the objective. 0.53 to 0.66 of what comes after the first generation meets the
    # bound; 0.26 to 0.33 where Optuna is not told of it, 0.34 to 0.44 where the first generation has no children.
    drawn = predictors()["a"].predict(SPACE.sample(np.random.default_rng(0), 2000))
    bound = np.quantile(drawn, 0.93)
    settings = SearchSettings(evaluations=100, population=10, constraints=(f"latency_ms >= {bound}",))
    found = [searched(settings=settings, seed=seed, names="a").latency_ms["a"][10:] for seed in range(3)]
    assert np.mean(np.concatenate(found) >= bound) > 0.5


def test_nsga2_finds_more_than_chance():
    space = define_space("tiny")
    volumes = {}
    for sampler in ("nsga2", "random"):
        settings = SearchSettings(sampler=sampler, evaluations=150, population=15)
        found = [searched(settings=settings, seed=s, space=space, names="a") for s in range(3)]
        volumes[sampler] = np.mean([each.hypervolume["a"] for each in found])
    assert volumes["nsga2"] > volumes["random"] + 0.03
