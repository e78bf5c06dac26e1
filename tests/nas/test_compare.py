"""The cross-device matrix: a front at home loses nothing, and elsewhere what a front of that device's own would save."""

import numpy as np
import pytest

from nas.compare import Costed, compare, extra_latency, picks_elsewhere
from nas.errors import JobError
from nas.searching.fronts import front
from tests.nas.fakes import FakePredictor, small_space
from tests.search_spaces.spaces import all_codes

SPACE = small_space()
CODES = all_codes(SPACE)
PREDICTORS = {
    "a": FakePredictor(SPACE, seed=1),
    "b": FakePredictor(SPACE, seed=2),
    "twin": FakePredictor(SPACE, seed=1),
}
ACCURACY = np.random.default_rng(0).uniform(0.5, 0.9, len(CODES))


def front_of(device: str) -> list[dict]:
    kept = front(ACCURACY, PREDICTORS[device].predict(CODES))
    return [
        {"arch_id": arch.id, "arch": arch.values, "val_accuracy": float(ACCURACY[i])}
        for i, arch in zip(kept, SPACE.decode(CODES[kept]), strict=True)
    ]


def test_a_front_keeps_everything_at_home_and_on_a_device_just_like_it_and_loses_elsewhere():
    found = compare(SPACE, {"a": front_of("a"), "b": front_of("b")}, PREDICTORS)
    share, extra = np.array(found["hypervolume_share"]), np.array(found["extra_latency"])
    assert found["devices"] == ["a", "b", "twin"]
    np.testing.assert_allclose(share[[0, 0, 1], [0, 2, 1]], 1.0)
    np.testing.assert_allclose(extra[[0, 0, 1], [0, 2, 1]], 0.0, atol=1e-12)
    assert share[0, 1] < 1
    assert share[1, 0] < 1
    assert share[1, 0] == share[1, 2]
    assert extra[0, 1] > 0
    assert extra[1, 0] > 0
    correlation = np.array(found["rank_correlation"])
    np.testing.assert_allclose(correlation, correlation.T)
    np.testing.assert_allclose(np.diag(correlation), 1.0)
    assert correlation[0, 2] == pytest.approx(1.0)
    assert abs(correlation[0, 1]) < 1


def test_every_network_of_every_front_has_its_latency_on_every_device():
    fronts = {"a": front_of("a"), "b": front_of("b")}
    found = compare(SPACE, fronts, PREDICTORS)
    assert len(found["networks"]) == sum(map(len, fronts.values()))
    for row in found["networks"]:
        (arch,) = [one["arch"] for one in fronts[row["front_of"]] if one["arch_id"] == row["arch_id"]]
        for device, predictor in PREDICTORS.items():
            expected = predictor.predict(SPACE.encode([SPACE.arch(arch)]))[0]
            assert row["latency_ms"][device] == pytest.approx(expected)


def test_the_extra_latency_is_that_of_the_fastest_network_that_is_accurate_enough():
    reference = Costed(np.array([0.6, 0.8]), np.array([1.0, 2.0]))
    found = Costed(np.array([0.7, 0.8, 0.9]), np.array([1.5, 3.0, 2.5]))
    assert extra_latency(found, reference) == pytest.approx(((1.5 / 1.0 - 1) + (2.5 / 2.0 - 1)) / 2)
    assert extra_latency(Costed(np.array([0.7]), np.array([1.5])), reference) == pytest.approx(0.5)
    assert np.isnan(extra_latency(Costed(np.array([0.1]), np.array([1.5])), reference))


def test_an_empty_front_has_no_share_and_only_empty_ones_are_refused():
    found = compare(SPACE, {"a": front_of("a"), "none": []}, PREDICTORS)
    assert found["hypervolume_share"][1] == [0.0, 0.0, 0.0]
    assert found["extra_latency"][1] == [None, None, None]
    with pytest.raises(JobError, match="every front is empty"):
        compare(SPACE, {"a": []}, PREDICTORS)


def test_a_pick_loses_nothing_at_home_nor_on_a_device_just_like_it_and_is_beaten_elsewhere():
    fronts = {name: front_of(name) for name in PREDICTORS}
    found = compare(SPACE, fronts, PREDICTORS)
    picked = {name: rows[len(rows) // 2]["arch_id"] for name, rows in fronts.items()}
    picks = picks_elsewhere(found, picked)
    assert [(row["device"], row["arch_id"]) for row in picks] == list(picked.items())
    for row in picks:
        home = row["device"]
        assert row["ratio"][home] == pytest.approx(1.0)
        for device, ratio in row["ratio"].items():
            rivals = [one for one in fronts[device] if one["val_accuracy"] >= row["val_accuracy"]]
            codes = SPACE.encode([SPACE.arch(one["arch"]) for one in rivals])
            assert ratio == pytest.approx(row["latency_ms"][device] / PREDICTORS[device].predict(codes).min())
            assert ratio >= 1 - 1e-12
    assert picks[0]["ratio"]["twin"] == pytest.approx(1.0)
    assert any(ratio > 1.001 for row in picks for ratio in row["ratio"].values())


def test_a_pick_more_accurate_than_anything_on_another_front_has_no_ratio_there():
    best = front_of("a")[-1:]
    poor = [row for row in front_of("b") if row["val_accuracy"] < best[0]["val_accuracy"]]
    found = compare(SPACE, {"a": best, "b": poor, "twin": []}, PREDICTORS)
    (row,) = picks_elsewhere(found, {"a": best[0]["arch_id"]})
    assert row["ratio"] == {"a": pytest.approx(1.0), "b": None, "twin": None}
