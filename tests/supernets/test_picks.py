"""Which sub-networks a step takes, and the predictions that some of them go by."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import FAMILIES, arch_cost, costs
from supernets.loss_gap import LossGap, features
from supernets.picks import nested, sub_networks
from supernets.recipes import Phase
from tests.contracts.supernet_contract import small_space

relaxed = settings(deadline=None, max_examples=20)


def attentive(pick: str, candidates: int = 8, subnets: int = 1) -> Phase:
    return Phase("some", 1.0, ("largest", *(pick,) * subnets), teacher="none", candidates=candidates)


def taught(space, weights, count: int = 600) -> LossGap:
    """What is learned from architectures whose gap is linear in their values."""
    gap, rng = LossGap.empty(space), np.random.default_rng(1)
    for _ in range(count // 3):
        codes = space.sample(rng, 3)
        gap.observe(codes, features(space, codes) @ weights + rng.normal(0, 0.01, 3))
    return gap


@relaxed
@given(st.sampled_from(list(FAMILIES)), st.integers(2, 12))
def test_a_nested_chain_grows_from_the_smallest_to_the_largest(family, levels):
    space = small_space(family)
    chain = nested(space, levels)
    assert chain[0] == space.smallest()
    assert chain[-1] == space.largest()
    assert 2 <= len(chain) == len(set(chain)) <= levels
    codes = space.encode(chain)
    both = space.active(codes[:-1]) & space.active(codes[1:])
    assert ((codes[:-1] <= codes[1:]) | ~both).all()
    macs = [arch_cost(space, arch).macs for arch in chain]
    assert macs == sorted(macs)


def test_nested_picks_are_those_of_the_chain_all_of_them_in_time():
    space = small_space("tiny")
    phase = Phase("some", 1.0, ("nested",) * 60, teacher="none", levels=3)
    assert set(sub_networks(space, phase, np.random.default_rng(0))) == set(nested(space, 3))


@pytest.mark.parametrize("family", FAMILIES)
def test_best_and_worst_choose_by_prediction_among_networks_of_about_the_same_macs(family):
    space = small_space(family)
    weights = np.random.default_rng(2).normal(size=len(LossGap.empty(space).moment))
    gap = taught(space, weights)
    taken = {
        pick: [sub_networks(space, attentive(pick), np.random.default_rng(seed), gap)[1] for seed in range(20)]
        for pick in ("best", "worst")
    }
    best, worst = (features(space, space.encode(archs)) @ weights for archs in taken.values())
    assert (best <= worst + 0.1).all()
    assert best.mean() < worst.mean() - 0.3
    macs = [costs(space, space.encode(archs), "macs") for archs in taken.values()]
    assert np.median(np.abs(np.log(macs[0] / macs[1]))) < 0.35


def test_without_a_prediction_best_and_worst_are_random_networks():
    space = small_space("tiny")
    for pick in ("best", "worst"):
        archs = sub_networks(space, attentive(pick, subnets=40), np.random.default_rng(0))
        assert len(set(archs)) > 10


def test_attentive_picks_keep_to_the_values_that_are_open():
    space = small_space("tiny")
    kinds = {choice.kind: 1 for choice in space.choices}
    phase = Phase("some", 1.0, ("largest", "best", "worst"), kinds, teacher="none")
    assert set(sub_networks(space, phase, np.random.default_rng(0))) == {space.largest()}


@pytest.mark.parametrize("family", FAMILIES)
def test_gaps_that_are_linear_in_the_choices_are_learned(family):
    space = small_space(family)
    weights = np.random.default_rng(3).normal(size=len(LossGap.empty(space).moment))
    codes = space.sample(np.random.default_rng(9), 100)
    truth = features(space, codes) @ weights
    assert np.corrcoef(taught(space, weights).predict(codes), truth)[0, 1] > 0.97
    assert (LossGap.empty(space).predict(codes) == 0).all()


def test_old_gaps_are_forgotten():
    space = small_space("tiny")
    weights = np.random.default_rng(3).normal(size=len(LossGap.empty(space).moment))
    gap, codes = taught(space, weights), space.sample(np.random.default_rng(9), 100)
    rng = np.random.default_rng(4)
    for _ in range(500):
        seen = space.sample(rng, 4)
        gap.observe(seen, -features(space, seen) @ weights)
    assert np.corrcoef(gap.predict(codes), features(space, codes) @ weights)[0, 1] < -0.9


@pytest.mark.parametrize("family", FAMILIES)
def test_features_say_which_values_the_active_choices_take(family):
    space = small_space(family)
    codes = space.sample(np.random.default_rng(0), 30)
    found = features(space, codes)
    assert (found.sum(1) == 1 + space.active(codes).sum(1)).all()
    assert len(np.unique(found, axis=0)) == len(np.unique(codes, axis=0))
    for row, arch in zip(found, space.decode(codes), strict=True):
        named = [f"{choice.name}={value}" for choice in space.choices for value in choice.values]
        assert {named[i] for i in np.flatnonzero(row[1:])} == {f"{name}={value}" for name, value in arch.items}
