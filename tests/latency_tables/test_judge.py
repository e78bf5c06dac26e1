"""Judging predictors, and finding what they are wrong about."""

from dataclasses import replace

import numpy as np
import pytest

from latency_tables import AdditivePredictor, judge, mape
from latency_tables.predicting.blame import choice_errors, slot_errors
from latency_tables.predicting.judge import judge_carried
from latency_tables.predicting.select import KINDS
from latency_tables.predicting.transfer import KnownPredictors
from search_spaces import slot_index, slots
from tests.latency_tables.latencies import SPACE, latencies, measured_table, planned


def test_judging_compares_predictions_with_networks_kept_from_the_fit():
    found = judge(measured_table())
    assert (found.quality.n_train, found.quality.n_test) == (30, 10) == (30, len(found.held_out))
    assert 0 < found.quality.mape < 0.15
    errors = [abs(row.predicted_ms / row.measured_ms - 1) for row in found.held_out]
    assert found.quality.mape == pytest.approx(np.mean(errors))
    assert found.coverage == np.mean([row.low_ms <= row.measured_ms <= row.high_ms for row in found.held_out])
    assert all(row.low_ms <= row.predicted_ms <= row.high_ms for row in found.held_out)
    assert found.noise_floor == measured_table().noise_floor
    ends = {SPACE.smallest().id, SPACE.largest().id}
    assert not ends & {row.arch_id for row in found.held_out}


def test_the_kind_and_the_errors_of_all_kinds_are_told():
    found = judge(measured_table())
    assert set(found.errors) == {*KINDS, "blend"}
    assert found.kind in found.errors
    assert found.errors["additive"] < found.errors["gp"]
    assert {each.slot for each in found.slot_errors} == {slot.name for slot in slots(SPACE)}
    assert found.choice_errors


def test_the_final_predictor_is_fitted_to_every_network():
    whole = measured_table(n=14)
    found, fit = judge(whole).predictor, AdditivePredictor.fit(SPACE, whole.codes(), whole.latency_ms())
    np.testing.assert_allclose(found.predict(whole.codes()), fit.predict(whole.codes()), rtol=1e-6)


def test_a_table_of_few_networks_is_judged_without_cross_validation():
    found = judge(measured_table(n=12))
    assert (found.kind, found.slot_errors, found.choice_errors) == ("additive", (), ())
    assert (found.quality.n_train, found.quality.n_test) == (9, 3)


def test_the_split_depends_on_the_networks_and_the_seed_alone():
    whole = measured_table(n=20)
    turned = replace(whole, entries=whole.entries[::-1])
    ids = [{row.arch_id for row in judge(t, seed=s).held_out} for t, s in ((whole, 0), (turned, 0), (whole, 1))]
    assert ids[0] == ids[1] != ids[2]


def test_a_device_on_which_all_networks_take_the_same_time_can_be_judged():
    found = judge(measured_table(n=24, of=lambda space, codes: np.full(len(codes), 3.0)))
    assert found.quality.mape == pytest.approx(0.0, abs=1e-6)
    assert np.isnan(found.quality.spearman)
    assert all(each.error == pytest.approx(0.0, abs=1e-6) for each in found.choice_errors)


def test_a_predictor_carried_over_is_judged_alike():
    codes = planned(n=40)
    others = [
        AdditivePredictor.fit(SPACE, codes, latencies(SPACE, codes, seed) * factor) for seed, factor in ((0, 2), (1, 5))
    ]
    whole = measured_table(n=20)
    found = judge_carried(whole, KnownPredictors.of(SPACE, others))
    # Each network is held out once.
    assert sorted(row.arch_id for row in found.held_out) == sorted(entry.arch.id for entry in whole.entries)
    assert (found.quality.n_train, found.quality.n_test) == (16, 20)
    assert (found.kind, found.errors) == ("transfer", {"transfer": found.quality.mape})
    shuffled = replace(whole, entries=whole.entries[::-1])
    assert judge_carried(shuffled, KnownPredictors.of(SPACE, others)).quality.mape == pytest.approx(found.quality.mape)
    assert found.quality.mape < 0.05
    assert found.predictor.predict(codes).shape == (40,)


# What predictions are wrong about


def additive(codes):
    return AdditivePredictor.fit(SPACE, codes, latencies(SPACE, codes))


def test_the_slot_whose_costs_are_off_is_found():
    """One slot's costs stray by 20%, each configuration for itself, and everything is measured with noise."""
    rng, codes = np.random.default_rng(0), np.unique(SPACE.sample(np.random.default_rng(0), 400), axis=0)
    fit = additive(codes)
    for wrong in (1, 3):
        slot = slots(SPACE)[wrong]
        off = rng.normal(0, 0.2, len(fit.tables_ms[wrong]))[slot_index(SPACE, slot, codes)]
        errors = off * fit.slot_costs_ms(codes)[:, wrong] / fit.predict(codes) + rng.normal(0, 0.01, len(codes))
        worst = slot_errors(fit, codes, errors, noise=0.01)[0]
        assert worst.slot == slot.name
        assert 0.1 < worst.error < 0.3
        assert 0 < worst.share < 1
        assert worst.networks == np.count_nonzero(fit.slot_costs_ms(codes)[:, wrong])


def test_errors_that_are_noise_alone_blame_no_slot():
    codes = planned(n=200)
    errors = np.random.default_rng(0).normal(0, 0.01, len(codes))
    assert max(each.error for each in slot_errors(additive(codes), codes, errors, noise=0.01)) < 0.02


def test_the_value_that_goes_with_errors_is_found():
    rng = np.random.default_rng(0)
    codes = SPACE.sample(rng, 200)
    column = SPACE.columns["s2.b0.expand"]
    errors = rng.normal(0, 0.01, 200) + 0.02 * (codes[:, column] == 1)
    worst, *_ = choice_errors(SPACE, codes, errors)
    assert (worst.choice, worst.value) == ("s2.b0.expand", SPACE.choices[column].values[1])
    assert worst.error == pytest.approx(0.02, abs=4 * worst.standard_error)
    assert worst.networks == np.count_nonzero(codes[:, column] == 1)


def test_values_of_inactive_choices_are_not_counted():
    codes = SPACE.sample(np.random.default_rng(0), 200)
    deep = codes[:, SPACE.columns["s2.depth"]] == 1
    counts = {}
    for each in choice_errors(SPACE, codes, np.random.default_rng(1).normal(0, 0.01, 200)):
        counts[each.choice] = counts.get(each.choice, 0) + each.networks
    assert counts["s2.b1.expand"] == np.count_nonzero(deep)
    assert counts["s2.b0.expand"] == 200


def test_a_judgement_of_one_kind_uses_it():
    whole = measured_table()
    found = judge(whole, kinds={"additive": AdditivePredictor.fit})
    truth = latencies(SPACE, whole.codes())
    assert mape(found.predictor.predict(whole.codes()), truth) < 0.05
