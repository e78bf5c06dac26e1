"""Statistics of measurements: in tables, under judges and in the files of predictors."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from latency_tables import AdditivePredictor, LatencyError, TableError, judge, load_predictor
from latency_tables.measuring.energy import Energy
from latency_tables.predicting.judge import fitted, judge_carried
from latency_tables.predicting.predictor import save_predictor
from latency_tables.predicting.transfer import KnownPredictors
from latency_tables.statistic import MEDIAN, STATISTICS, noise_floor
from latency_tables.table import LACKING, Entry
from tests.latency_tables.fakes import measurement, table, tiny_space
from tests.latency_tables.latencies import SPACE, latencies, measured_table, planned

ARCHS = tiny_space().decode(np.unique(tiny_space().sample(np.random.default_rng(0), 20), axis=0))
# Hundredths of what a network takes: the even rounds are calm, each odd one has a slow inference.
CALM, SLOW = (100.0, 101.0, 102.0, 103.0), (100.0, 101.0, 102.0, 130.0)


def spread_table(n=40):
    """A table of networks whose slowest inferences take 30% more than the usual ones."""
    whole = measured_table(n=n)
    entries = [(each, each.measurement.median_us / 101.5) for each in whole.entries]
    rounds = [tuple(tuple(scale * us for us in round_) for round_ in (CALM, SLOW) * 4) for _, scale in entries]
    return replace(
        whole,
        entries=tuple(
            Entry(entry.arch, measurement(entry.arch.id, samples_us=samples))
            for (entry, _), samples in zip(entries, rounds, strict=True)
        ),
    )


def with_energy(whole, joules, n=None):
    """The table with energies, in proportion to latencies, of its first `n` networks."""
    entries = tuple(
        Entry(
            each.arch,
            replace(each.measurement, energy=Energy(joules * each.measurement.median_us / 1e6, 5.0, 9, "cpu")),
        )
        for each in whole.entries[:n]
    )
    return replace(whole, entries=(*entries, *whole.entries[len(entries) :]))


def test_statistics_are_those_of_the_samples():
    found = with_energy(table(tiny_space(), ARCHS[:3]), 2.0)
    samples = [entry.measurement.samples_us / 1e3 for entry in found.entries]
    expected = {
        "latency_ms": [np.median(each) for each in samples],
        "latency_mean_ms": [np.mean(each) for each in samples],
        "latency_p90_ms": [np.percentile(each, 90) for each in samples],
        "latency_p95_ms": [np.percentile(each, 95) for each in samples],
        "latency_p99_ms": [np.percentile(each, 99) for each in samples],
        "energy_mj": [2.0 * np.median(each) for each in samples],
    }
    assert list(expected) == list(STATISTICS)
    for name, values in expected.items():
        np.testing.assert_allclose(found.values(name), values)
    np.testing.assert_array_equal(found.latency_ms(), found.values(MEDIAN))


def test_a_statistic_that_a_table_lacks_is_named_with_what_to_do():
    without = table(tiny_space(), ARCHS[:3])
    for ask in (without.values, without.having):
        with pytest.raises(
            TableError, match=r"fake: no energy was measured for it: pip install '\.\[energy\]' .* anew$"
        ):
            ask("energy_mj")
    some = with_energy(without, 2.0, n=1)
    assert some.having("energy_mj").entries == some.entries[:1]
    with pytest.raises(TableError, match="fake: no energy was measured for 2 of its 3 networks: "):
        some.values("energy_mj")
    with pytest.raises(TableError, match="fake: unknown statistic 'latency_us'; known are latency_ms, "):
        some.values("latency_us")
    assert some.having(MEDIAN) == some
    assert table(tiny_space(), []).having("energy_mj").entries == ()


def test_every_statistic_that_can_lack_says_what_to_do():
    bare = measurement("a")
    assert {name for name, of in STATISTICS.items() if of(bare) is None} == set(LACKING)


def test_the_noise_floor_is_that_of_the_statistic():
    whole = measurement("a", samples_us=(CALM, SLOW) * 4)
    assert noise_floor(whole) == whole.noise_floor == 0.0
    p99 = np.percentile(CALM * 4, 99), np.percentile(SLOW * 4, 99), np.percentile((CALM + SLOW) * 4, 99)
    assert noise_floor(whole, "latency_p99_ms") == pytest.approx(abs(p99[0] - p99[1]) / p99[2])
    assert spread_table(12).noise_floor_of("latency_p99_ms") == pytest.approx(noise_floor(whole, "latency_p99_ms"))
    # Rounds that do not count are in neither half.
    counts = (True, False) * 4
    calm = replace(whole, counts=counts, reasons=tuple("" if each else "preempted" for each in counts))
    assert noise_floor(calm, "latency_p99_ms") == 0.0


@pytest.mark.parametrize("statistic", STATISTICS)
def test_what_has_no_halves_has_an_infinite_noise_floor(statistic):
    energy = Energy(1.0, 1.0, 1, "cpu")
    assert noise_floor(measurement("a", rounds=1, energy=energy), statistic) == math.inf
    assert (noise_floor(measurement("a", energy=energy), statistic) == math.inf) == (statistic == "energy_mj")


def test_a_judge_of_a_statistic_predicts_it():
    whole = with_energy(spread_table(), 3.0)
    factors = {
        "latency_ms": 1.0,
        "latency_p99_ms": whole.values("latency_p99_ms") / whole.latency_ms(),
        "energy_mj": 3.0,
    }
    codes, truth = whole.codes(), latencies(SPACE, whole.codes())
    for statistic, factor in factors.items():
        found = judge(whole, statistic=statistic, kinds={"additive": AdditivePredictor.fit})
        assert found.statistic == statistic
        assert found.noise_floor == whole.noise_floor_of(statistic)
        np.testing.assert_allclose(found.predictor.predict(codes), factor * truth, rtol=0.1)
        ids = [entry.arch.id for entry in whole.entries]
        for row in found.held_out:
            assert row.measured_ms == whole.values(statistic)[ids.index(row.arch_id)]


def test_what_is_fitted_without_judging_is_the_same():
    few = with_energy(measured_table(n=12), 3.0)
    for statistic in ("latency_ms", "energy_mj"):
        predicted = fitted(few, statistic=statistic).predict(few.codes())
        np.testing.assert_array_equal(predicted, judge(few, statistic=statistic).predictor.predict(few.codes()))


def test_a_judge_leaves_networks_without_the_statistic_aside():
    whole = with_energy(measured_table(), 3.0, n=20)
    found = judge(whole, statistic="energy_mj", kinds={"additive": AdditivePredictor.fit})
    assert found.quality.n_train + found.quality.n_test == 20
    codes = planned(n=40)
    known = [
        AdditivePredictor.fit(SPACE, codes, latencies(SPACE, codes, seed) * factor) for seed, factor in ((0, 2), (1, 5))
    ]
    carried = judge_carried(whole, KnownPredictors.of(SPACE, known), statistic="energy_mj")
    assert len(carried.held_out) == 20
    assert carried.statistic == "energy_mj"
    with pytest.raises(TableError, match="no energy was measured"):
        judge(measured_table(), statistic="energy_mj")


# Files of predictors


def test_the_file_of_a_predictor_says_what_it_predicts(tmp_path):
    codes = planned(n=16)
    predictor = AdditivePredictor.fit(SPACE, codes, latencies(SPACE, codes))
    path = tmp_path / "p.json"
    save_predictor(predictor, path, "energy_mj")
    assert json.loads(path.read_text())["statistic"] == "energy_mj"
    again = load_predictor(path, space=SPACE, statistic="energy_mj")
    np.testing.assert_array_equal(again.predict(codes), predictor.predict(codes))
    with pytest.raises(LatencyError) as caught:
        load_predictor(path)
    assert (
        str(caught.value) == f"{path}: statistic: the predictor is of 'energy_mj', wanted 'latency_ms'; fit one for it"
    )
    save_predictor(predictor, path)
    predictor.save(tmp_path / "q.json")
    assert path.read_bytes() == (tmp_path / "q.json").read_bytes()
    with pytest.raises(LatencyError, match="the predictor is of 'latency_ms', wanted 'latency_p99_ms'"):
        load_predictor(path, statistic="latency_p99_ms")
    with pytest.raises(LatencyError, match=r"p\.json: unknown statistic 'joules'; known are latency_ms, "):
        save_predictor(predictor, path, "joules")
