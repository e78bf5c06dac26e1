"""Selecting a predictor: which kind wins where, and what its intervals hold."""

from functools import partial

import numpy as np
import pytest

from latency_tables import AdditivePredictor, mape
from latency_tables.predicting.learned import MODELS, LearnedPredictor
from latency_tables.predicting.select import BLEND, FOLDS, KINDS, MIN_SELECT, folds, select
from tests.contracts.predictor_contract import check_file, check_predictor
from tests.latency_tables.latencies import MOBILE, SPACE, curved, latencies, planned


@pytest.mark.parametrize("kind", [*KINDS, BLEND])
def test_every_kind_keeps_the_contract(kind, tmp_path):
    codes = planned(n=30)
    kinds = KINDS if kind == BLEND else {kind: KINDS[kind]}
    found = select(SPACE, codes, latencies(SPACE, codes) * noise(30), kinds=kinds)
    check_predictor(found.predictor, SPACE)
    check_file(found.predictor, SPACE, tmp_path)


def noise(n, seed=0, spread=0.02):
    return np.exp(np.random.default_rng(seed).normal(0, spread, n))


def test_every_kind_is_compared_on_the_same_networks():
    codes = planned(n=40)
    y = latencies(SPACE, codes)
    found = select(SPACE, codes, y)
    assert list(found.errors) == ["additive", "ridge", "gp", "trees", "blend"]
    assert len(found.left_out) == len(found.left_out_ms) == 38
    assert {int(y.argmin()), int(y.argmax())} == set(range(40)) - set(found.left_out.tolist())
    assert found.errors[found.kind] == pytest.approx(mape(found.left_out_ms, y[found.left_out]))


def test_cross_validation_foretells_the_error_on_unseen_networks():
    codes, unseen = planned(MOBILE, 60), MOBILE.sample(np.random.default_rng(1), 300)
    found = select(MOBILE, codes, latencies(MOBILE, codes))
    actual = mape(found.predictor.predict(unseen), latencies(MOBILE, unseen))
    assert 0.6 * actual < found.errors[found.kind] < 1.6 * actual


def test_a_kind_that_is_clearly_better_wins_alone():
    codes = planned(n=60)
    y = curved(SPACE, codes)
    hopeless = partial(LearnedPredictor.fit, kind="ridge")
    # A blend of a kind with itself can be no better than it, and its weights have to be learned.
    found = select(SPACE, codes, y, kinds={"ridge": hopeless, "gp": KINDS["gp"]})
    assert found.errors["gp"] < found.errors["ridge"] / 3
    assert found.kind == "gp" or found.errors[BLEND] < 1.1 * found.errors["gp"]


def test_a_blend_is_no_worse_than_the_additive_predictor_alone():
    """Over latencies that add up and such that do not, on networks that nothing was fitted to."""
    for space, latency in ((SPACE, latencies), (SPACE, curved), (MOBILE, latencies), (MOBILE, curved)):
        codes, unseen = planned(space, 40), space.sample(np.random.default_rng(1), 300)
        y = latency(space, codes) * noise(40, spread=0.01)
        alone, selected = AdditivePredictor.fit(space, codes, y), select(space, codes, y).predictor
        truth = latency(space, unseen)
        assert mape(selected.predict(unseen), truth) < 1.1 * mape(alone.predict(unseen), truth) + 0.002


def test_the_order_of_the_networks_does_not_matter():
    codes = planned(n=30)
    y, order = latencies(SPACE, codes), np.random.default_rng(0).permutation(30)
    one, other = select(SPACE, codes, y), select(SPACE, codes[order], y[order])
    assert one.kind == other.kind
    np.testing.assert_allclose(list(other.errors.values()), list(one.errors.values()), rtol=1e-9)
    np.testing.assert_allclose(other.predictor.predict(codes), one.predictor.predict(codes), rtol=1e-9)
    np.testing.assert_array_equal(order[other.left_out], one.left_out)


def test_intervals_cover_what_they_promise():
    """90% within the few points that 25 or 60 networks allow, over many fits to noisy latencies."""
    kinds = {"additive": KINDS["additive"], "ridge": KINDS["ridge"]}
    for n in (25, 60):
        covered, below = [], []
        for seed in range(12):
            codes = SPACE.sample(np.random.default_rng(seed), n + 200)
            y = latencies(SPACE, codes) * noise(len(codes), seed, 0.03)
            found = select(SPACE, codes[:n], y[:n], kinds=kinds, seed=seed).predictor
            low, high = found.interval(codes[n:], 0.9)
            covered.append(np.mean((low <= y[n:]) & (y[n:] <= high)))
            below.append(np.mean(y[n:] <= found.upper(codes[n:], 0.9)))
        assert 0.84 < np.mean(covered) < 0.95
        assert 0.84 < np.mean(below) < 0.95


def test_few_networks_are_left_to_the_additive_predictor():
    codes = planned(n=MIN_SELECT - 1)
    y = latencies(SPACE, codes)
    found = select(SPACE, codes, y)
    assert (found.kind, list(found.errors), len(found.left_out)) == ("additive", ["additive"], 0)
    alone = AdditivePredictor.fit(SPACE, codes, y)
    np.testing.assert_allclose(found.predictor.predict(codes), alone.predict(codes), rtol=1e-6)
    assert 0 < found.errors["additive"] < 1


def test_folds_share_out_all_but_the_ends():
    fold = folds(47, seed=0)
    assert np.flatnonzero(fold < 0).tolist() == [0, 46]
    assert sorted(np.bincount(fold[1:-1])) == [4] * 5 + [5] * 5
    assert sorted(fold[11:21]) == list(range(FOLDS))
    assert (folds(47, seed=1) != fold).any()


def test_every_model_is_a_kind():
    assert list(KINDS) == ["additive", *MODELS]
