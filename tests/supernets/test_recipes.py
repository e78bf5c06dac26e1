"""Recipes: phases, the schedule of a run, and which sub-networks a step takes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import FAMILIES
from supernets.errors import SupernetError
from supernets.picks import sub_networks
from supernets.recipes import RECIPES, Phase, schedule
from tests.contracts.supernet_contract import small_space


@st.composite
def recipes(draw: st.DrawFn) -> tuple[Phase, ...]:
    """Up to five phases of random shares, peaks and restarts."""
    weights = draw(st.lists(st.integers(1, 20), min_size=1, max_size=5))
    return tuple(
        Phase(
            f"p{i}",
            weight / sum(weights),
            ("random",),
            teacher="none",
            peak=draw(st.floats(0.05, 2.0)),
            restart=draw(st.booleans()),
        )
        for i, weight in enumerate(weights)
    )


@settings(deadline=None)
@given(recipes(), st.integers(1, 300), st.floats(0.0, 0.9))
def test_a_schedule_covers_every_step_once_and_keeps_the_order(recipe, steps, warmup):
    check_schedule(recipe, steps, warmup)


@pytest.mark.parametrize("steps", [1, 2, 7, 100, 1234])
@pytest.mark.parametrize("name", RECIPES)
def test_shipped_recipes_make_schedules_of_any_length(name, steps):
    check_schedule(RECIPES[name], steps, 0.1)


def check_schedule(recipe, steps, warmup):
    moments = schedule(recipe, steps, warmup)
    assert len(moments) == steps
    order = [recipe.index(moment.phase) for moment in moments]
    assert order == sorted(order)
    for phase in recipe:
        count = sum(moment.phase is phase for moment in moments)
        assert abs(count - phase.share * steps) <= 1.0 + 1e-9
    for moment in moments:
        assert 0.0 < moment.learning_rate <= moment.phase.peak * (1 + 1e-12)


def rates(recipe, steps, warmup):
    return np.array([moment.learning_rate for moment in schedule(recipe, steps, warmup)])


def plain(name: str, share: float, **more) -> Phase:
    return Phase(name, share, ("random",), teacher="none", **more)


def test_the_learning_rate_warms_up_to_its_peak_and_falls_to_zero_on_a_cosine():
    found = rates((plain("all", 1.0),), 200, 0.25)
    assert (np.diff(found[:50]) > 0).all()
    assert (np.diff(found[50:]) < 0).all()
    np.testing.assert_allclose(np.diff(found[:50]), 1 / 50, rtol=1e-9)
    assert found.max() > 0.999
    assert found[-1] < 0.001
    position = (np.arange(50, 200) + 0.5 - 50) / 150
    np.testing.assert_allclose(found[50:], 0.5 * (1 + np.cos(np.pi * position)), atol=1e-12)


def test_without_warm_up_the_learning_rate_starts_at_its_peak():
    found = rates((plain("all", 1.0),), 100, 0.0)
    assert found[0] > 0.999
    assert (np.diff(found) < 0).all()


def test_a_restart_warms_up_again_to_the_peak_of_its_phase():
    found = rates((plain("a", 0.5), plain("b", 0.5, peak=0.3, restart=True)), 200, 0.2)
    np.testing.assert_allclose(found[100:], 0.3 * found[:100])
    assert found[99] < 0.01 < found[119] <= 0.3
    assert found[100] < found[101] < found[119]


def test_phases_without_a_restart_share_one_warm_up_and_one_decay():
    one, three = (plain("all", 1.0),), (plain("a", 0.25), plain("b", 0.5), plain("c", 0.25))
    np.testing.assert_allclose(rates(three, 100, 0.1), rates(one, 100, 0.1))


def test_the_weight_of_smaller_networks_ramps_over_its_phase_alone():
    recipe = (plain("a", 0.25), plain("b", 0.5, weight=(0.1, 0.9)), plain("c", 0.25, weight=(0.9, 0.9)))
    weights = [moment.weight for moment in schedule(recipe, 80, 0.1)]
    np.testing.assert_allclose(weights[:20], 1.0)
    np.testing.assert_allclose(weights[20:60], 0.1 + 0.8 * (np.arange(40) + 0.5) / 40)
    np.testing.assert_allclose(weights[60:], 0.9)


@pytest.mark.parametrize("name", RECIPES)
def test_every_phase_has_one_first_step(name):
    moments = schedule(RECIPES[name], 200, 0.1)
    assert [moment.phase for moment in moments if moment.first] == list(RECIPES[name])
    assert moments[0].first


def test_shares_that_do_not_add_up_are_refused():
    with pytest.raises(SupernetError, match="must add up to 1"):
        schedule((plain("a", 0.5), plain("b", 0.4)), 10, 0.1)


@pytest.mark.parametrize("name", RECIPES)
def test_the_shares_of_shipped_recipes_add_up(name):
    assert sum(phase.share for phase in RECIPES[name]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"share": 0.0}, r"'bad' needs a share in \(0, 1\] and at least one sub-network"),
        ({"share": 1.5}, r"'bad' needs a share in \(0, 1\] and at least one sub-network"),
        ({"subnets": ()}, r"'bad' needs a share in \(0, 1\] and at least one sub-network"),
        ({"subnets": ("random", "largest")}, "'bad' distils in place, so its first sub-network must be the largest"),
        (
            {"subnets": ("random", "best"), "teacher": "none"},
            "'bad' compares with the largest sub-network, so it must be the",
        ),
        ({"images": 0.0}, r"'bad': images must be from 0.01 to 1.0, not 0.0"),
        ({"weight": (-0.1, 1.0)}, r"'bad': weight must be from 0.0 to 1.0, not -0.1"),
        ({"momentum_gap": 0.6}, r"'bad': momentum_gap must be from 0.0 to 0.5, not 0.6"),
        ({"open": {"kernel": 2, "depth": 0}}, "'bad' must open at least 1 value of depth, not 0"),
    ],
)
def test_bad_phases_are_refused(arguments, message):
    with pytest.raises(SupernetError, match=message):
        Phase(**{"name": "bad", "share": 0.5, "subnets": ("largest", "random")} | arguments)


@pytest.mark.parametrize("opened", [{"kernel": 1, "expand": 1}, {"depth": 1}, {"kernel": 2, "width": 1, "depth": 9}])
@pytest.mark.parametrize("family", FAMILIES)
def test_random_sub_networks_take_the_largest_values_that_are_open(family, opened):
    # "width" is no kind of mobilenet_v3's, and no kind has nine values.
    space = small_space(family)
    phase = Phase("some", 1.0, ("random",) * 60, opened, teacher="none")
    archs = sub_networks(space, phase, np.random.default_rng(0))
    assert len(archs) == 60
    seen = {
        choice.name: {arch.values[choice.name] for arch in archs if choice.name in arch.values}
        for choice in space.choices
    }
    for choice in space.choices:
        largest = choice.values[-opened.get(choice.kind, len(choice.values)) :]
        # Sixty draws of at most three values meet all of them, where the choice is there at all.
        assert seen[choice.name] in (set(largest), set()), choice.name
    assert any(seen[choice.name] for choice in space.choices if choice.kind in opened)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_phase_that_opens_one_of_everything_trains_the_largest(family):
    space = small_space(family)
    kinds = {choice.kind: 1 for choice in space.choices}
    phase = Phase("one", 1.0, ("random",) * 5, kinds, teacher="none")
    assert set(sub_networks(space, phase, np.random.default_rng(1))) == {space.largest()}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_phase_picks_sub_networks_in_its_order(family, name):
    space = small_space(family)
    ends = {"largest": space.largest(), "smallest": space.smallest()}
    for phase in RECIPES[name]:
        archs = sub_networks(space, phase, np.random.default_rng(2))
        assert len(archs) == len(phase.subnets)
        for pick, arch in zip(phase.subnets, archs, strict=True):
            assert arch == ends.get(pick, arch)
        assert archs == sub_networks(space, phase, np.random.default_rng(2))


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_suit_a_space_with_nothing_but_a_depth_to_choose(name):
    space = small_space("tiny", resolutions=[8], widths=[1.0], expands=[1.0], kernels=[3])
    for phase in RECIPES[name]:
        for arch in sub_networks(space, phase, np.random.default_rng(3)):
            assert set(arch.values) >= {"s1.depth", "s2.depth"}
