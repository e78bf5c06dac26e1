"""Predictors: the contract, exact recovery, files, and judging."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_tables import AdditivePredictor, LatencyError, judge, load_predictor, mape, plan
from latency_tables.features import CLASSES, layer_class
from search_spaces import costs, define_space, network, slot_configs, slot_index, slot_sizes, slots
from tests.contracts.predictor_contract import check_predictor
from tests.latency_tables.fakes import table, tiny_space

SPACE = tiny_space()
MOBILE = define_space("mobilenet_v3", stem="small", resolutions=[16, 24], depths=[1, 2], num_classes=5)


def latencies(space, codes, seed=0, spread=0.3):
    """An exactly additive latency: a little for each layer and MAC, and each slot configuration strays on its own."""
    rng = np.random.default_rng(seed)
    total = np.full(len(codes), 0.02)
    for slot in slots(space):
        sizes = dict(zip([s.name for s in slots(space)], slot_sizes(space), strict=True))
        factor = np.exp(rng.normal(0, spread, sizes[slot.name]))
        index = slot_index(space, slot, codes)
        total += factor[index] * slot_cost(space, slot)[index]
    return total


def slot_cost(space, slot):
    built = [slot.build(values) for values in slot_configs(space, slot)]
    return np.array([sum(0.002 + layer.macs / 5e7 for layer in layers) for layers in built])


def fitted(space, n=60, seed=0, spread=0.3):
    codes = space.encode(plan(space, n, seed))
    return AdditivePredictor.fit(space, codes, latencies(space, codes, spread=spread))


@pytest.mark.parametrize("space", [SPACE, MOBILE], ids=["tiny", "mobilenet_v3"])
@pytest.mark.parametrize("n", [8, 60])
def test_the_additive_predictor_keeps_the_contract(space, n):
    check_predictor(fitted(space, n), space)


@pytest.mark.parametrize("space", [SPACE, MOBILE], ids=["tiny", "mobilenet_v3"])
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


def test_more_networks_predict_better():
    codes = MOBILE.sample(np.random.default_rng(5), 500)
    truth = latencies(MOBILE, codes)
    few, many = (mape(fitted(MOBILE, n).predict(codes), truth) for n in (15, 200))
    assert many < few / 2


def test_intervals_cover_what_they_promise():
    """Over many fits to noisy latencies; 90% within a few points, as 30 networks allow."""
    covered = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        codes = SPACE.sample(rng, 230)
        noisy = latencies(SPACE, codes) * np.exp(rng.normal(0, 0.02, len(codes)))
        low, high = AdditivePredictor.fit(SPACE, codes[:30], noisy[:30]).interval(codes[30:], 0.9)
        covered.append(np.mean((low <= noisy[30:]) & (noisy[30:] <= high)))
    assert 0.85 < np.mean(covered) < 0.96


@pytest.mark.parametrize("coverage", [0.0, 1.0, -1.0, float("nan")])
def test_a_coverage_that_cannot_be_is_refused(coverage):
    with pytest.raises(LatencyError, match="coverage"):
        fitted(SPACE, 10).interval(SPACE.sample(np.random.default_rng(0), 2), coverage)


@given(st.floats(1e-3, 1e6))
def test_predictions_scale_with_the_latencies(factor):
    codes = SPACE.encode(plan(SPACE, 20))
    y = latencies(SPACE, codes)
    scaled = AdditivePredictor.fit(SPACE, codes, y * factor).predict(codes)
    np.testing.assert_allclose(scaled, AdditivePredictor.fit(SPACE, codes, y).predict(codes) * factor, rtol=1e-4)


def test_the_order_of_the_networks_does_not_matter():
    codes = SPACE.encode(plan(SPACE, 30))
    y, order = latencies(SPACE, codes), np.random.default_rng(0).permutation(30)
    np.testing.assert_allclose(
        AdditivePredictor.fit(SPACE, codes[order], y[order]).predict(codes),
        AdditivePredictor.fit(SPACE, codes, y).predict(codes),
        rtol=1e-9,
    )


def test_equal_latencies_give_a_constant():
    codes = SPACE.encode(plan(SPACE, 12))
    np.testing.assert_allclose(AdditivePredictor.fit(SPACE, codes, np.full(12, 3.0)).predict(codes), 3.0, rtol=1e-6)


def test_a_predictor_equals_its_own_file(tmp_path):
    predictor = fitted(SPACE)
    predictor.save(tmp_path / "p.json")
    again = load_predictor(tmp_path / "p.json", space=SPACE)
    codes = SPACE.sample(np.random.default_rng(0), 300)
    np.testing.assert_array_equal(again.predict(codes), predictor.predict(codes))
    np.testing.assert_array_equal(again.interval(codes, 0.9), predictor.interval(codes, 0.9))
    again.save(tmp_path / "q.json")
    assert (tmp_path / "q.json").read_bytes() == (tmp_path / "p.json").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format="nas.latency_predictor/2"), "format: wanted"),
        (lambda d: d.update(kind="oracle"), "kind: wanted one of additive, found 'oracle'"),
        (lambda d: d.update(kind=["additive"]), "kind: wanted"),
        (lambda d: d.pop("tables_ms"), "broken predictor: KeyError"),
        (lambda d: d["tables_ms"].pop(), "not those of the space's slots"),
        (lambda d: d["tables_ms"][0].append(1.0), "not those of the space's slots"),
        (lambda d: d.update(constant_ms=-1.0), "finite numbers, not below 0"),
        (lambda d: d.update(constant_ms=float("nan")), "finite numbers, not below 0"),
        (lambda d: d.update(residuals=[]), "finite numbers, not below 0"),
        (lambda d: d.update(residuals="x"), "broken predictor: ValueError"),
        (lambda d: d.update(space={}), "broken predictor: SpaceError"),
    ],
)
def test_a_file_that_is_no_predictor_is_refused(tmp_path, change, message):
    document = fitted(SPACE, 10).to_json()
    change(document)
    (tmp_path / "p.json").write_text(json.dumps(document))
    with pytest.raises(LatencyError, match=message) as caught:
        load_predictor(tmp_path / "p.json")
    assert str(caught.value).startswith(f"{tmp_path / 'p.json'}: ")


def test_a_predictor_of_another_space_or_no_file_is_refused(tmp_path):
    fitted(SPACE, 10).save(tmp_path / "p.json")
    with pytest.raises(LatencyError, match="space: the predictor is of"):
        load_predictor(tmp_path / "p.json", space=MOBILE)
    with pytest.raises(LatencyError, match="cannot be read"):
        load_predictor(tmp_path / "q.json")
    (tmp_path / "r.json").write_bytes(b"\xff")
    with pytest.raises(LatencyError, match=r"r\.json"):
        load_predictor(tmp_path / "r.json")


def test_measurements_that_cannot_be_fitted_are_refused():
    codes = SPACE.encode(plan(SPACE, 10))
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


def measured_table(space=SPACE, n=40):
    archs = plan(space, n)
    times = dict(zip(archs, latencies(space, space.encode(archs)) * 1e3, strict=True))
    return table(space, list(archs), us=times.get)


def test_judging_compares_predictions_with_networks_kept_from_the_fit():
    found = judge(measured_table())
    assert (found.quality.n_train, found.quality.n_test) == (30, 10) == (30, len(found.held_out))
    assert 0 < found.quality.mape < 0.15
    errors = [abs(row.predicted_ms / row.measured_ms - 1) for row in found.held_out]
    assert found.quality.mape == pytest.approx(np.mean(errors))
    ends = {SPACE.smallest().id, SPACE.largest().id}
    assert not ends & {row.arch_id for row in found.held_out}


def test_the_final_predictor_is_fitted_to_every_network():
    whole = measured_table()
    found, fit = judge(whole).predictor, AdditivePredictor.fit(SPACE, whole.codes(), whole.latency_ms())
    np.testing.assert_array_equal(found.predict(whole.codes()), fit.predict(whole.codes()))


def test_the_split_depends_on_the_networks_and_the_seed_alone():
    whole = measured_table()
    turned = replace(whole, entries=whole.entries[::-1])
    ids = [{row.arch_id for row in judge(t, seed=s).held_out} for t, s in ((whole, 0), (turned, 0), (whole, 1))]
    assert ids[0] == ids[1] != ids[2]


def test_every_layer_has_a_class_with_features():
    found = {layer_class(layer) for space in (SPACE, MOBILE) for layer in network(space, space.largest())}
    assert found <= set(CLASSES)


def test_larger_networks_are_predicted_slower_on_the_whole():
    codes = SPACE.sample(np.random.default_rng(0), 300)
    predicted = fitted(SPACE).predict(codes)
    assert np.corrcoef(np.log(predicted), np.log(costs(SPACE, codes, "macs")))[0, 1] > 0.8
