"""Exact optima: what the solver says, against every architecture of spaces that are small enough to enumerate."""

import ctypes
import math

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.errors import JobError
from nas.searching.additive import AdditiveModel
from nas.searching.exact import Limit, Optimum, solve, trace
from search_spaces import FAMILIES, Slot, Space, define_space, slot_sizes
from search_spaces.family import Family
from tests.search_spaces.spaces import all_codes, enumerable, spaces


@pytest.fixture(scope="module", autouse=True)
def listed_family():
    """A family whose settings list the choices of its slots."""

    def listed(settings):
        return tuple(Slot(f"slot{i}", tuple(names), lambda values: ()) for i, names in enumerate(settings["slots"]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "listed", Family(dict, lambda settings: (), listed))
        yield


def random_model(space: Space, rng: np.random.Generator, whole: bool = False) -> AdditiveModel:
    """Numbers for choices and slots, at times none or whole ones, so that networks tie."""

    def numbers(n: int) -> np.ndarray:
        drawn = rng.normal(size=n) * rng.integers(0, 2)
        return np.round(2 * drawn) if whole else drawn

    by_choice = tuple(numbers(len(choice.values) + 1) for choice in space.choices)
    return AdditiveModel(space, float(rng.normal()), by_choice, tuple(numbers(n) for n in slot_sizes(space)))


@st.composite
def problems(draw):
    """A space with slots over any of its choices, an objective, and limits at what some networks tell."""
    plain = draw(spaces())
    names = st.lists(st.sampled_from(sorted(plain.columns)), max_size=3, unique=True)
    space = Space("listed", {"slots": draw(st.lists(names, max_size=4))}, plain.choices)
    rng, whole = np.random.default_rng(draw(st.integers(0, 2**32))), draw(st.booleans())
    codes = all_codes(space)
    limits = []
    for _ in range(draw(st.integers(0, 3))):
        model = random_model(space, rng, whole)
        limits.append(Limit(model, float(rng.choice(model.predict(codes)))))
    return random_model(space, rng, whole), limits, codes


def meeting(limits, codes):
    return codes[np.all([limit.model.predict(codes) <= limit.at_most for limit in limits], axis=0)] if limits else codes


def check(found: Optimum | None, objective: AdditiveModel, limits, codes) -> None:
    """The best by enumeration, and all that an optimum promises."""
    meets = meeting(limits, codes)
    if len(meets) == 0:
        assert found is None
        return
    assert found is not None
    assert found.proven
    assert found.codes.dtype == np.int16
    assert len(meeting(limits, found.codes)) == 1
    assert (objective.space.canonical(found.codes) == found.codes).all()
    assert found.value == objective.predict(found.codes)[0]
    assert found.value == pytest.approx(objective.predict(meets).max(), abs=1e-8)
    assert found.value <= found.bound <= found.value + 1e-8


@settings(deadline=None)
@given(problems())
def test_the_optimum_is_the_best_of_all_architectures(problem):
    objective, limits, codes = problem
    check(solve(objective, limits), objective, limits, codes)


@pytest.mark.parametrize("name", ["one stage", "two stages", "fixed depth"])
@pytest.mark.parametrize("metric", ["macs", "params"])
def test_the_optimum_of_a_family_is_the_best_of_all_architectures(name, metric):
    space = enumerable(name)
    codes, objective = all_codes(space), random_model(space, np.random.default_rng(3))
    cost = AdditiveModel.of_cost(space, metric)
    for at_most in np.quantile(cost.predict(codes), [0.0, 0.2, 0.5, 1.0], method="lower"):
        limits = [Limit(cost, float(at_most))]
        check(solve(objective, limits), objective, limits, codes)


@given(problems())
@settings(deadline=None, max_examples=30)
def test_a_limit_just_below_the_best_is_kept(problem):
    # Closer than the solver can tell: the models alone decide.
    objective, _, codes = problem
    value = objective.predict(codes).max()
    limits = [Limit(objective, float(np.nextafter(value, -np.inf)))]
    check(solve(objective, limits), objective, limits, codes)


def test_limits_that_no_network_meets_have_no_optimum():
    space = enumerable("two stages")
    macs, params = AdditiveModel.of_cost(space, "macs"), AdditiveModel.of_cost(space, "params")
    codes = all_codes(space)
    assert solve(macs, [Limit(macs, float(macs.predict(codes).min()) - 1)]) is None
    # Each can be met, but not both.
    large = float(params.predict(codes).max())
    small = float(macs.predict(codes).min())
    assert solve(macs, [Limit(macs, small), Limit(-params, -large)]) is None
    assert trace(macs, params, [Limit(macs, 0.0)]) == ()


def test_a_large_space_is_solved_to_a_proof():
    space = define_space("mobilenet_v3", resolutions=[128, 160, 192, 224])
    rng = np.random.default_rng(0)
    objective, cost = random_model(space, rng), AdditiveModel.of_cost(space, "macs")
    pool = space.sample(rng, 2000)
    limits = [Limit(cost, float(np.median(cost.predict(pool))))]
    found = solve(objective, limits)
    assert found.proven
    assert found.bound == pytest.approx(found.value, abs=1e-6)
    assert objective.predict(meeting(limits, pool)).max() < found.value
    again = solve(objective, limits)
    assert (again.codes == found.codes).all()


def test_out_of_time_there_is_still_a_bound():
    space = define_space("mobilenet_v3", resolutions=[128, 160, 192, 224])
    rng = np.random.default_rng(0)
    objective, cost = random_model(space, rng), AdditiveModel.of_cost(space, "macs")
    limits = [Limit(cost, float(np.median(cost.predict(space.sample(rng, 2000)))))]
    best = solve(objective, limits)
    hasty = solve(objective, limits, time_limit_s=0.0)
    assert not hasty.proven
    assert math.isfinite(hasty.bound)
    assert hasty.bound > best.value
    assert hasty.value == -math.inf
    assert hasty.codes.shape == (0, len(space.choices))
    assert trace(objective, cost, limits, time_limit_s=0.0) == ()


@settings(deadline=None, max_examples=30)
@given(problems(), st.integers(2, 6))
def test_a_trace_rises_from_the_cheapest_to_the_best(problem, points):
    objective, limits, codes = problem
    cost = random_model(objective.space, np.random.default_rng(1))
    found = trace(objective, cost, limits, points)
    meets = meeting(limits, codes)
    if len(meets) == 0:
        assert found == ()
        return
    assert 1 <= len(found) <= points
    spent = np.array([cost.predict(point.codes)[0] for point in found])
    value = np.array([point.value for point in found])
    assert (np.diff(spent) > 0).all()
    assert (np.diff(value) > 0).all()
    assert value[-1] == pytest.approx(objective.predict(meets).max(), abs=1e-8)
    assert spent[0] == pytest.approx(cost.predict(meets).min(), abs=1e-8)
    for point, at_most in zip(found, spent, strict=True):
        within = meets[cost.predict(meets) <= at_most]
        assert point.value == pytest.approx(objective.predict(within).max(), abs=1e-8)


def test_a_trace_has_as_many_points_as_were_asked_for_where_the_front_has():
    space = enumerable("two stages")
    rng = np.random.default_rng(0)
    objective = AdditiveModel(
        space, 0.0, tuple(np.append(np.sort(rng.uniform(size=len(c.values))), 0.0) for c in space.choices)
    )
    found = trace(objective, AdditiveModel.of_cost(space, "macs"), points=5)
    assert 3 <= len(found) <= 5
    assert (found[-1].codes[0] == space.cardinalities - 1).all()


def test_what_the_solver_writes_stays_out_of_standard_output(monkeypatch, capfd):
    quiet = scipy.optimize.milp

    def chatty(*arguments, **options):
        ctypes.CDLL(None).puts(b"a line of C")
        return quiet(*arguments, **options)

    monkeypatch.setattr(scipy.optimize, "milp", chatty)
    print("before", flush=True)
    assert solve(AdditiveModel.of_cost(enumerable("one stage"), "macs")).proven
    print("after", flush=True)
    written = capfd.readouterr()
    assert written.out == "before\nafter\n"
    assert "a line of C" in written.err


def test_models_of_different_spaces_are_refused():
    one, other = (AdditiveModel.of_cost(enumerable(name), "macs") for name in ("one stage", "two stages"))
    with pytest.raises(JobError, match="models of different spaces"):
        solve(one, [Limit(other, 1.0)])


@pytest.mark.parametrize("at_most", [math.nan, math.inf, -math.inf])
def test_a_limit_is_a_number(at_most):
    with pytest.raises(JobError, match="a limit must be a finite number"):
        Limit(AdditiveModel.of_cost(enumerable("one stage"), "macs"), at_most)
