"""The additive predictor: what it recovers, and what it refuses."""

import numpy as np
import pytest

from latency_tables import AdditivePredictor, LatencyError, mape, plan
from search_spaces import costs, network
from tests.contracts.predictor_contract import check_file, check_predictor
from tests.latency_tables.fakes import tiny_space
from tests.latency_tables.latencies import MOBILE, SPACE, latencies, planned

SPACES = pytest.mark.parametrize("space", [SPACE, MOBILE], ids=["tiny", "mobilenet_v3"])


def fitted(space, n=60, seed=0, spread=0.3):
    codes = planned(space, n, seed)
    return AdditivePredictor.fit(space, codes, latencies(space, codes, spread=spread))


@SPACES
@pytest.mark.parametrize("n", [8, 60])
def test_the_additive_predictor_keeps_the_contract(space, n, tmp_path):
    check_predictor(fitted(space, n), space)
    check_file(fitted(space, n), space, tmp_path)


@SPACES
def test_costs_that_features_explain_are_recovered_from_few_networks(space):
    codes = space.sample(np.random.default_rng(5), 500)
    predicted = fitted(space, n=40, spread=0.0).predict(codes)
    np.testing.assert_allclose(predicted, latencies(space, codes, spread=0.0), rtol=1e-3)


def test_any_additive_latency_is_recovered_from_enough_networks():
    space = tiny_space(widths=[1.0])
    codes = np.unique(space.sample(np.random.default_rng(0), 3000), axis=0)
    truth = latencies(space, codes, spread=0.5)
    train = np.random.default_rng(1).permutation(len(codes))[: len(codes) // 2]
    predictor = AdditivePredictor.fit(space, codes[train], truth[train])
    assert mape(predictor.predict(codes), truth) < 0.003


def test_layers_that_are_alike_are_learned_from_each_other():
    """Costs that bend smoothly with the shape of a layer, from far fewer networks than there are layers."""

    def bent(codes):
        nets = [network(MOBILE, arch) for arch in MOBILE.decode(codes)]
        return np.array([sum(layer.macs**0.7 + layer.traffic_bytes**0.8 for layer in net) for net in nets]) / 1e5

    codes, unseen = planned(MOBILE, 60), MOBILE.sample(np.random.default_rng(3), 200)
    assert mape(AdditivePredictor.fit(MOBILE, codes, bent(codes)).predict(unseen), bent(unseen)) < 0.004


def test_more_networks_predict_better():
    codes = MOBILE.sample(np.random.default_rng(5), 500)
    truth = latencies(MOBILE, codes)
    few, many = (mape(fitted(MOBILE, n).predict(codes), truth) for n in (15, 200))
    assert many < few / 2


def test_the_costs_of_slots_add_up_to_the_prediction():
    predictor, codes = fitted(SPACE), planned(n=30)
    total = predictor.constant_ms + predictor.slot_costs_ms(codes).sum(axis=1)
    np.testing.assert_allclose(total, predictor.predict(codes), rtol=1e-12)


def test_larger_networks_are_predicted_slower_on_the_whole():
    codes = SPACE.sample(np.random.default_rng(0), 300)
    assert np.corrcoef(np.log(fitted(SPACE).predict(codes)), np.log(costs(SPACE, codes, "macs")))[0, 1] > 0.8


def test_intervals_cover_what_they_promise():
    """Over many fits to noisy latencies; 90% within a few points, as 30 networks allow."""
    covered, below = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        codes = SPACE.sample(rng, 230)
        noisy = latencies(SPACE, codes) * np.exp(rng.normal(0, 0.02, len(codes)))
        predictor = AdditivePredictor.fit(SPACE, codes[:30], noisy[:30])
        low, high = predictor.interval(codes[30:], 0.9)
        covered.append(np.mean((low <= noisy[30:]) & (noisy[30:] <= high)))
        below.append(np.mean(noisy[30:] <= predictor.upper(codes[30:], 0.9)))
    assert 0.85 < np.mean(covered) < 0.95
    assert 0.85 < np.mean(below) < 0.95


@pytest.mark.parametrize("factor", [1e-3, 0.3, 7.0, 422390.4, 913079.16])
def test_predictions_scale_with_the_latencies(factor):
    codes = SPACE.encode(plan(SPACE, 20))
    y = latencies(SPACE, codes)
    scaled = AdditivePredictor.fit(SPACE, codes, y * factor).predict(codes)
    np.testing.assert_allclose(scaled, AdditivePredictor.fit(SPACE, codes, y).predict(codes) * factor, rtol=1e-4)


def test_the_order_of_the_networks_does_not_matter():
    codes = planned(n=30)
    y, order = latencies(SPACE, codes), np.random.default_rng(0).permutation(30)
    np.testing.assert_allclose(
        AdditivePredictor.fit(SPACE, codes[order], y[order]).predict(codes),
        AdditivePredictor.fit(SPACE, codes, y).predict(codes),
        rtol=1e-9,
    )


def test_equal_latencies_give_a_constant():
    codes = planned(n=12)
    np.testing.assert_allclose(AdditivePredictor.fit(SPACE, codes, np.full(12, 3.0)).predict(codes), 3.0, rtol=1e-6)


def test_measurements_that_cannot_be_fitted_are_refused():
    codes = planned(n=10)
    y = latencies(SPACE, codes)
    for wrong_codes, wrong_y, message in (
        (codes[:7], y[:7], "too few"),
        (codes, y[:9], "one latency for each of 10"),
        (codes, np.where(np.arange(10) == 3, np.nan, y), "positive number"),
        (codes, np.where(np.arange(10) == 3, 0.0, y), "positive number"),
    ):
        with pytest.raises(LatencyError, match=message):
            AdditivePredictor.fit(SPACE, wrong_codes, wrong_y)
    with pytest.raises(ValueError, match="codes"):
        AdditivePredictor.fit(MOBILE, codes, y)
