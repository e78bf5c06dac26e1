"""Predictors over features of whole networks: what each kind can learn."""

import numpy as np
import pytest

from latency_tables import LatencyError, mape
from latency_tables.predicting.features import (
    CLASSES,
    FEATURES,
    layer_class,
    network_features,
    slot_features,
    space_layers,
)
from latency_tables.predicting.gaussian import GaussianProcess
from latency_tables.predicting.learned import MODELS, LearnedPredictor
from latency_tables.predicting.ridge import Ridge, ridge_left_out
from latency_tables.predicting.trees import BoostedTrees
from search_spaces import network
from tests.latency_tables.latencies import MOBILE, SPACE, curved, latencies, planned

KINDS = pytest.mark.parametrize("kind", list(MODELS))


def features_of(n, seed=0):
    """Features of whole networks, some orders of magnitude apart, and one that never changes."""
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.uniform(1, 10, n), rng.uniform(1e6, 1e8, n), rng.integers(1, 9, n), np.full(n, 7.0)])


@KINDS
def test_more_networks_predict_better(kind):
    codes = MOBILE.sample(np.random.default_rng(5), 300)
    errors = []
    for n in (12, 150):
        measured = planned(MOBILE, n)
        found = LearnedPredictor.fit(MOBILE, measured, latencies(MOBILE, measured, spread=0.0), kind)
        errors.append(mape(found.predict(codes), latencies(MOBILE, codes, spread=0.0)))
    assert errors[1] < 0.5 * errors[0]


@KINDS
def test_predictions_scale_with_the_latencies(kind):
    x = features_of(40)
    y = x @ [0.1, 1e-8, 0.2, 0.01]
    one, other = (MODELS[kind].fit(x, y * factor).predict(x) for factor in (1.0, 1000.0))
    np.testing.assert_allclose(one * 1000, other, rtol=1e-6)


@KINDS
def test_equal_latencies_are_learned(kind):
    x = features_of(20)
    np.testing.assert_allclose(MODELS[kind].fit(x, np.full(20, 3.0)).predict(features_of(50, seed=1)), 3.0, rtol=0.01)


@KINDS
def test_measurements_that_cannot_be_fitted_are_refused(kind):
    with pytest.raises(LatencyError, match="too few"):
        LearnedPredictor.fit(SPACE, planned(n=7), np.ones(7), kind)


def test_ridge_recovers_a_linear_latency():
    x, unseen = features_of(60), features_of(200, seed=1)
    truth = [0.1, 1e-8, 0.2, 0.01]
    np.testing.assert_allclose(Ridge.fit(x, x @ truth).predict(unseen), unseen @ truth, rtol=1e-4)


def test_ridge_never_goes_below_half_the_fastest_network():
    x = features_of(60)
    y = x[:, 0] - 0.9
    far = x.copy()
    far[:, 0] = -100.0
    np.testing.assert_array_equal(Ridge.fit(x, y).predict(far), y.min() / 2)


def test_what_ridge_leaves_out_is_what_it_predicts_without_it():
    """Closed form against refitting, at one penalty: nearly none, so the choice of it does not matter."""
    x = features_of(30)
    y = (x @ [0.1, 1e-8, 0.2, 0.01]) * np.exp(np.random.default_rng(0).normal(0, 0.05, 30))
    z = np.column_stack([x[:, :3], np.ones(30)]) / y[:, None]
    refitted = [z[i] @ np.linalg.lstsq(np.delete(z, i, 0), np.ones(29), rcond=None)[0] * y[i] for i in range(30)]
    np.testing.assert_allclose(ridge_left_out(x[:, :3], y)[1], refitted, rtol=0.02)


def test_a_gaussian_process_bends():
    """A latency that is no linear function of features."""
    codes, unseen = planned(n=60), SPACE.sample(np.random.default_rng(3), 200)
    x, x_unseen = network_features(SPACE, codes), network_features(SPACE, unseen)
    assert mape(GaussianProcess.fit(x, curved(SPACE, codes)).predict(x_unseen), curved(SPACE, unseen)) < 0.005


def test_trees_learn_steps():
    """Half as slow again above a threshold: what neither a line nor a smooth function follows."""
    x, unseen = features_of(300), features_of(300, seed=1)

    def stepped(x):
        return x[:, 0] * np.where(x[:, 1] > 4e7, 1.5, 1.0)

    errors = {kind: mape(MODELS[kind].fit(x, stepped(x)).predict(unseen), stepped(unseen)) for kind in MODELS}
    assert errors["trees"] < 0.03
    assert errors["trees"] < errors["gp"] < errors["ridge"]


def test_trees_answer_at_their_thresholds_as_they_were_grown():
    """Values equal to a threshold, as features that count layers have, fall on the same side in fit and prediction."""
    x = np.repeat(np.arange(1.0, 5.0), 10)[:, None]
    y = np.repeat([1.0, 2.0, 1.0, 3.0], 10)
    np.testing.assert_allclose(BoostedTrees.fit(x, y).predict(x), y, rtol=0.15)


# Features


def test_every_layer_has_a_class_with_features():
    found = {layer_class(layer) for space in (SPACE, MOBILE) for layer in network(space, space.largest())}
    assert found <= set(CLASSES)


@pytest.mark.parametrize("space", [SPACE, MOBILE], ids=["tiny", "mobilenet_v3"])
def test_the_features_of_a_network_are_the_sums_over_its_layers(space):
    codes = space.sample(np.random.default_rng(0), 5)
    nets = [network(space, arch) for arch in space.decode(codes)]
    wanted = [[sum(map(feature, net)) for feature in FEATURES.values()] for net in nets]
    np.testing.assert_allclose(network_features(space, codes), wanted)
    layers = space_layers(space)
    counts = layers.counts(space, codes)
    np.testing.assert_array_equal(counts.sum(axis=1), [len(net) for net in nets])
    np.testing.assert_allclose(counts @ layers.features_Lk, wanted)
    np.testing.assert_allclose(slot_features(space)[0], layers.slot_sums(layers.features_Lk)[0])
