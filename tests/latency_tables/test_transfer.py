"""Carrying latencies over: exactness, use of other devices, outliers, intervals, choosing, files, and the benchmark."""

import importlib
import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latency_tables import AdditivePredictor, LatencyError, mape, spearman
from latency_tables.predicting.carry import carry, choose
from latency_tables.predicting.kernels import Posterior, Rows, design, kernels
from latency_tables.predicting.known import KnownDevices
from latency_tables.predicting.predictor import predictor_from_json
from latency_tables.predicting.transfer import KnownPredictors, TransferPredictor
from search_spaces import define_space, slot_configs, slot_index, slots
from tests.contracts.predictor_contract import check_file, check_predictor
from tests.latency_tables.fakes import tiny_space

SPACE = tiny_space()
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def devices(n=800, known=6, seed=0, noise=0.02):
    """Features `(n, 5)`, and latencies `(n, known + 1)` of devices that weigh them alike but not equally."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n, 5))
    weights = 0.2 + 0.1 * rng.standard_normal((5, known + 1))
    log_ms = features @ weights + 0.05 * features[:, :1] * features[:, 1:2] + rng.normal(0, 2, known + 1)
    return features, np.exp(log_ms + noise * rng.standard_normal(log_ms.shape))


def known_of(features, latency_ms):
    return KnownDevices.of(features, latency_ms[:, :-1])


def ridge(inputs, sampled, y):
    """Ridge on standardised columns at the best of many penalties, chosen with the answers: no real ridge is better."""
    x = (inputs - inputs.mean(axis=0)) / inputs.std(axis=0)
    centred = x - x[sampled].mean(axis=0)
    train, level = centred[sampled], y[sampled].mean()
    guesses = [
        level + centred @ train.T @ np.linalg.solve(train @ train.T + a * np.eye(len(sampled)), y[sampled] - level)
        for a in 10.0 ** np.arange(-3, 3)
    ]
    return min(guesses, key=lambda guess: np.abs(guess - y).mean())


@pytest.mark.parametrize("m", [10, 20, 50])
def test_few_samples_predict_better_than_ridge_on_known_devices_or_on_features(m):
    errors = {"ours": [], "known": [], "features": []}
    for seed in range(6):
        features, ms = devices(seed=seed)
        known, rows, y = known_of(features, ms), np.arange(m), np.log(ms[:, -1])
        guesses = {
            "ours": np.log(carry(known, rows, ms[:m, -1]).predict(known.rows)),
            "known": ridge(known.log_ms_nd, rows, y),
            "features": ridge(features, rows, y),
        }
        for name, guess in guesses.items():
            errors[name].append(mape(np.exp(guess[m:]), ms[m:, -1]))
    assert np.mean(errors["ours"]) < min(np.mean(errors["known"]), np.mean(errors["features"]))


def test_a_device_that_is_a_known_one_slowed_down_is_predicted_to_the_noise():
    features, ms = devices(noise=0.005)
    known = known_of(features, ms)
    twin = 3.7 * ms[:, 2]
    predicted = carry(known, np.arange(8), twin[:8]).predict(known.rows)
    assert mape(predicted, twin) < 0.02


def test_noise_of_the_known_devices_is_smoothed_away():
    """With 20% noise in what the known devices say, the new one is predicted far better than that."""
    features, ms = devices(noise=0.0)
    noisy = ms[:, :-1] * np.exp(np.random.default_rng(1).normal(0, 0.2, (800, 6)))
    known = KnownDevices.of(features, noisy)
    predicted = carry(known, np.arange(30), ms[:30, -1]).predict(known.rows)
    assert mape(predicted, ms[:, -1]) < 0.05


def test_quirks_that_all_known_devices_share_are_carried_over():
    features, ms = devices(noise=0.0)
    quirk = np.exp(np.random.default_rng(1).normal(0, 0.1, (800, 1)))
    known, rest = known_of(features, ms * quirk), np.arange(50, 800)
    truth = (ms * quirk)[:, -1]
    predicted = carry(known, np.arange(50), truth[:50]).predict(known.rows[rest])
    assert mape(predicted, truth[rest]) < 0.7 * mape(ms[rest, -1], truth[rest])


def test_codes_explain_what_features_do_not():
    rng = np.random.default_rng(0)
    codes = rng.integers(4, size=(600, 6))
    costs = rng.exponential(1.0, (6, 4, 8))
    ms = sum(costs[j, codes[:, j]] for j in range(6)) * np.exp(rng.normal(0, 0.1, (600, 8)))
    features = rng.standard_normal((600, 2))
    truth = np.log(sum(costs[j, codes[:, j]] for j in range(6)))
    found = [KnownDevices.of(features, ms, given).rows.shared_nd for given in (codes, None)]
    with_codes, without = ([abs(spearman(part[:, d], truth[:, d])) for d in range(8)] for part in found)
    assert min(with_codes) > 0.9 > max(without)


@settings(max_examples=8, deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_predictions_scale_with_the_latencies_and_do_not_depend_on_units_of_known_devices(own, other):
    features, ms = devices(n=120)
    known = known_of(features, ms)
    scales = np.array([other, *[1.0] * 5, 1.0])
    again = known_of(features, ms * scales)
    predicted = carry(known, np.arange(12), ms[:12, -1]).predict(known.rows)
    np.testing.assert_allclose(
        carry(again, np.arange(12), own * ms[:12, -1]).predict(again.rows), own * predicted, rtol=1e-5
    )


def test_the_order_of_samples_and_of_known_devices_does_not_matter():
    features, ms = devices(n=200)
    order, columns = np.random.default_rng(0).permutation(15), [3, 0, 5, 2, 4, 1, 6]
    known, turned = known_of(features, ms), known_of(features, ms[:, columns])
    first = carry(known, np.arange(15), ms[:15, -1]).predict(known.rows)
    np.testing.assert_allclose(carry(turned, order, ms[order, -1]).predict(turned.rows), first, rtol=1e-6)


@pytest.mark.parametrize("factor", [1e-3, 100.0])
def test_a_wild_sample_hardly_counts(factor):
    features, ms = devices()
    known, rows = known_of(features, ms), np.arange(12)
    y = ms[:12, -1].copy()
    clean = mape(carry(known, rows, y).predict(known.rows), ms[:, -1])
    y[5] *= factor
    carried = carry(known, rows, y)
    assert mape(carried.predict(known.rows), ms[:, -1]) < 2 * clean + 0.01
    assert carried.posterior.doubt_m.argmax() == 5


def test_broken_values_of_a_known_device_do_little_harm():
    features, ms = devices()
    broken = ms.copy()
    broken[::40, 0] = 1e-4
    errors = [
        mape(carry(known, np.arange(20), ms[:20, -1]).predict(known.rows), ms[:, -1])
        for known in (known_of(features, ms), known_of(features, broken))
    ]
    assert errors[1] < 1.3 * errors[0]


@pytest.mark.parametrize("m", [6, 25])
def test_intervals_cover_what_they_promise_on_average_over_devices(m):
    covered, below = [], []
    for seed in range(12):
        features, ms = devices(n=300, seed=seed)
        known = known_of(features, ms)
        carried, rest = carry(known, np.arange(m), ms[:m, -1]), np.arange(m, 300)
        low, high = carried.interval(known.rows[rest], 0.9)
        covered.append(np.mean((low <= ms[rest, -1]) & (ms[rest, -1] <= high)))
        below.append(np.mean(ms[rest, -1] <= carried.upper(known.rows[rest], 0.9)))
    assert 0.86 < np.mean(covered) < 0.98
    assert 0.84 < np.mean(below) < 0.98


def test_deviations_are_wider_where_nothing_was_sampled():
    features, ms = devices()
    near = np.flatnonzero(np.abs(features).max(axis=1) < 1.5)
    far = np.flatnonzero(np.abs(features).max(axis=1) > 2.5)
    known = known_of(features, ms)
    posterior = carry(known, near[:10], ms[near[:10], -1]).posterior
    assert posterior.deviation(known.rows[far]).mean() > 1.1 * posterior.deviation(known.rows[near]).mean()


def test_chosen_architectures_are_different_from_the_pool_and_not_measured_before():
    features, ms = devices()
    known, pool = known_of(features, ms), np.arange(100, 300)
    first = choose(known, 12, pool)
    then = choose(known, 12, pool, measured=first)
    assert len({*first, *then}) == 24
    assert {*first, *then} <= set(pool)
    np.testing.assert_array_equal(np.sort(choose(known, 200, pool)), pool)


def test_choosing_one_after_the_other_gives_what_choosing_at_once_gives():
    features, ms = devices(n=300)
    known = known_of(features, ms)
    at_once, one_by_one = choose(known, 8), np.zeros(0, dtype=np.int64)
    for _ in range(8):
        one_by_one = np.append(one_by_one, choose(known, 1, measured=one_by_one))
    np.testing.assert_array_equal(one_by_one, at_once)


def test_chosen_architectures_predict_better_than_random_ones():
    errors = {"chosen": [], "random": []}
    for seed in range(6):
        features, ms = devices(n=400, seed=seed)
        known = known_of(features, ms)
        for name, rows in (("chosen", choose(known, 6)), ("random", np.arange(6))):
            errors[name].append(mape(carry(known, rows, ms[rows, -1]).predict(known.rows), ms[:, -1]))
    assert np.mean(errors["chosen"]) < 0.9 * np.mean(errors["random"])


def test_design_takes_first_what_lowers_the_summed_variance_most():
    rng = np.random.default_rng(0)
    rows = Rows(rng.standard_normal((30, 3)), rng.standard_normal((30, 3)), rng.standard_normal((30, 4)))
    left = []
    for row in range(30):
        sampled = rows[np.array([row])]
        cross, own = (weighted(kernels(rows, sampled)), weighted(kernels(sampled, sampled)))
        left.append(-(cross**2).sum() / (own + 0.1))
    assert design(rows, 1)[0] == int(np.argmin(left))


def weighted(kernels_3nm):
    return np.tensordot([1.0, 1e-3, 0.5], kernels_3nm, 1) + 25.0


def test_predictions_of_a_row_do_not_depend_on_the_rows_beside_it():
    features, ms = devices()
    known = known_of(features, ms)
    posterior = Posterior.of(known.rows[np.arange(10)], np.log(ms[:10, -1]), 0.5)
    whole = posterior.mean(known.rows)
    for size in (1, 2, 7, 65):
        np.testing.assert_array_equal(posterior.mean(known.rows[slice(5, 5 + size)]), whole[5 : 5 + size])


def test_input_that_cannot_be_used_is_refused():
    features, ms = devices(n=50)
    known = known_of(features, ms)
    hole, zero = ms[:, :-1].copy(), ms[:, :-1].copy()
    hole[3, 2], zero[3, 2] = np.nan, 0.0
    for wrong, message in (
        (lambda: KnownDevices.of(features, hole), "known_ms: wanted finite"),
        (lambda: KnownDevices.of(features, zero), "positive number"),
        (lambda: KnownDevices.of(features[:40], ms), "same architectures"),
        (lambda: KnownDevices.of(features, ms[:, :1]), "at least 2 known"),
        (lambda: KnownDevices.of(features[:, 0], ms), "features: wanted finite numbers in 2 dimensions"),
        (lambda: carry(known, np.arange(2), ms[:2, -1]), "3 or more"),
        (lambda: carry(known, np.arange(5), ms[:4, -1]), "got 4 for 5"),
        (lambda: carry(known, np.arange(5), -ms[:5, -1]), "positive number"),
        (lambda: carry(known, np.arange(5), ms[:5, -1]).interval(known.rows, 1.0), "between 0 and 1"),
        (lambda: choose(known, 51), "wanted 1 to 50"),
        (lambda: choose(known, 0), "not 0"),
    ):
        with pytest.raises(LatencyError, match=message):
            wrong()


# Predictors: devices over a space of ours that differ in what a layer, a MAC and a depthwise MAC cost them.


def device_ms(seed, codes, space=SPACE):
    cost = np.exp(np.random.default_rng(seed).normal(0, 0.7, 3)) * [0.002, 2e-8, 6e-8]
    total = np.full(len(codes), 0.02)
    for slot in slots(space):
        built = [slot.build(values) for values in slot_configs(space, slot)]
        table = [sum(cost[0] + cost[1 + (x.groups > 1)] * x.macs for x in layers) for layers in built]
        total += np.array(table)[slot_index(space, slot, codes)]
    return total


@lru_cache(maxsize=1)
def known_predictors():
    codes = SPACE.sample(np.random.default_rng(3), 60)
    return KnownPredictors.of(SPACE, [AdditivePredictor.fit(SPACE, codes, device_ms(seed, codes)) for seed in range(4)])


def carried_over(m=10):
    known = known_predictors()
    codes = known.choose(SPACE.sample(np.random.default_rng(1), 300), m)
    return TransferPredictor.fit(known, codes, device_ms(9, codes))


def read(document):
    return TransferPredictor.from_json(document, predictor_from_json)


def test_the_transfer_predictor_keeps_the_contract(tmp_path):
    check_predictor(carried_over(), SPACE)
    check_file(carried_over(), SPACE, tmp_path)


def test_ten_networks_of_a_new_device_suffice_where_others_are_known():
    codes = SPACE.sample(np.random.default_rng(7), 500)
    predicted = carried_over().predict(codes)
    assert mape(predicted, device_ms(9, codes)) < 0.04
    assert spearman(predicted, device_ms(9, codes)) > 0.98


def test_networks_to_measure_are_candidates_that_were_not_measured():
    known = known_predictors()
    candidates = SPACE.sample(np.random.default_rng(1), 300)
    first = known.choose(candidates, 5)
    then = known.choose(candidates, 5, measured=first)
    rows = {tuple(row) for row in np.concatenate([first, then])}
    assert len(rows) == 10
    assert rows <= {tuple(row) for row in candidates}
    with pytest.raises(LatencyError, match="not measured yet"):
        known.choose(first, 1, measured=first)


@lru_cache(maxsize=1)
def text():
    return json.dumps(carried_over().to_json())


FIELDS = ("known", "middle", "spread", "tables", "codes", "log_ms", "doubt", "settings", "shares", "scores", "space")


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("wrong", [None, "x", [], [[1.0]], {}, float("nan")], ids=repr)
def test_a_field_that_is_missing_or_of_another_kind_is_named(name, wrong):
    document = json.loads(text())
    document.pop(name)
    with pytest.raises(LatencyError, match=f"^{name}: missing"):
        read(document)
    document[name] = wrong
    with pytest.raises(LatencyError, match=f"^{name}"):
        read(document)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["spread"].__setitem__(0, 0.0), "spread: "),
        (lambda d: d["doubt"].__setitem__(0, -1.0), "doubt: "),
        (lambda d: d["settings"][0].__setitem__(3, 0.0), "settings: "),
        (lambda d: d["log_ms"].pop(), "log_ms: "),
        (lambda d: d["shares"].pop(), "shares: "),
        (lambda d: d["scores"].__setitem__(5, 99.0), "scores: "),
        (lambda d: d["codes"][0].__setitem__(0, 99), "codes: "),
        (lambda d: d["codes"][0].__setitem__(0, 0.5), "codes: "),
        (lambda d: d["tables"].pop(), "tables: "),
        (lambda d: d["tables"][0].pop(), r"tables\[0\]: "),
        (lambda d: d["known"][1].pop("space"), r"known\[1\]: space"),
        (lambda d: d["known"].__delitem__(slice(1, None)), "known: wanted predictors of 2"),
    ],
)
def test_a_document_that_was_changed_is_refused(change, message):
    document = json.loads(text())
    change(document)
    with pytest.raises(LatencyError, match=f"^{message}"):
        read(document)


def test_known_devices_of_another_space_are_refused():
    other = define_space("tiny", in_channels=3)
    codes = other.sample(np.random.default_rng(0), 20)
    stranger = AdditivePredictor.fit(other, codes, device_ms(0, codes, other))
    with pytest.raises(LatencyError, match=r"known\[1\]: space: wanted"):
        KnownPredictors.of(SPACE, [known_predictors().predictors[0], stranger])
    with pytest.raises(LatencyError, match="2 or more"):
        KnownPredictors.of(SPACE, [])


# The benchmark, on a small file.


def published(path, **changes):
    features, ms = devices(n=300)
    arrays = {
        "s_codes": np.random.default_rng(0).integers(3, size=(300, 4)).astype(np.int8),
        "s_features": features.astype(np.float32),
        "s_latency_ms": ms.astype(np.float32),
        "s_devices": np.array([f"d{i}" for i in range(7)]),
        "s_targets": np.array(["d6", "d5"]),
        **changes,
    }
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the benchmark in this process: arguments -> exit code, output, errors."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    main = importlib.import_module("latency_transfer").main
    return lambda *arguments: (main(list(map(str, arguments))), *capsys.readouterr())


def test_the_benchmark_reports_every_method_and_ends_with_json(tmp_path, run):
    path, out = published(tmp_path / "f.npz"), tmp_path / "out.json"
    code, output, _ = run(path, "--samples", 5, "--seeds", 2, "--out", out)
    assert code == 0
    result = json.loads(output.splitlines()[-1])
    assert result["benchmark"] == "latency_transfer"
    keys = {(row["protocol"], row["choose"], row["method"]) for row in result["means"]}
    assert len(keys) == len(result["means"]) == 2 * 2 * 3
    ours = [row for row in result["devices"] if row["method"] == "transfer"]
    assert len(ours) == 2 * 2 * 2
    assert all(0 <= row["within_5"] <= row["within_10"] <= 1 and 0 <= row["coverage"] <= 1 for row in ours)
    assert json.loads(out.read_text())["means"] == result["means"]


def test_the_benchmark_names_the_file_and_the_key_that_is_wrong(tmp_path, run):
    _, ms = devices(n=300)
    hole, zero = ms.astype(np.float32), ms.astype(np.float32)
    hole[2, 2], zero[2, 2] = np.nan, 0
    path = tmp_path / "f.npz"
    for changes, options, message in (
        ({"s_codes": None}, (), "s_codes: missing"),
        ({"s_features": np.zeros((299, 5))}, (), "s_features: wanted 300"),
        ({"s_latency_ms": hole}, (), "s_latency_ms: a latency is NaN"),
        ({"s_latency_ms": zero}, (), "s_latency_ms: a latency is NaN, infinite or not above 0"),
        ({"s_targets": np.array(["d9"])}, (), "s_targets: 'd9' is not in s_devices"),
        ({"s_targets": np.array([f"d{i}" for i in range(6)])}, (), "leaves 1 known devices"),
        ({}, ("--spaces", "t"), "no space 't'; it has s"),
        ({}, ("--devices", "d1"), "no target 'd1'"),
        ({}, ("--samples", "200"), "too many"),
    ):
        code, _, errors = run(published(path, **changes), *options)
        assert (code, len(errors.splitlines())) == (2, 1), errors
        assert errors.startswith(f"{path}: ")
        assert message in errors
    assert run(tmp_path / "none.npz")[0] == 2
