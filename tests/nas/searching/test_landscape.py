"""The benchmark of search quality: its landscape, its peers, and its report."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from latency_tables.predicting.predictor import AdditivePredictor
from nas.searching.fronts import hypervolume
from search_spaces import costs, define_space

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
SPACE = define_space("tiny", resolutions=[8, 12, 16], channels=[32, 64], strides=[1, 2], expands=[0.5, 1.0])
IMAGES = np.array([200, 1000])
SIGMA = 0.01


@pytest.fixture(scope="module")
def module():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module


@pytest.fixture(scope="module")
def landscape_py(module):
    return module("landscape")


@pytest.fixture(scope="module")
def peers_py(module):
    pytest.importorskip("pymoo")
    return module("peers")


def smooth(codes):
    """Grows with the size of a network, and less where its resolution is low."""
    size = np.log(costs(SPACE, codes, "params")) / 20
    return 0.15 + size * (0.8 + 0.2 * codes[:, 0])


def hits_of(codes, rng):
    accuracy = smooth(codes) + rng.normal(0, SIGMA, len(codes))
    few = rng.binomial(IMAGES[0], accuracy)
    return np.stack([few, np.rint(accuracy * IMAGES[1]).astype(int)], axis=1)


def recorded(n=500):
    rng = np.random.default_rng(0)
    codes = np.unique(SPACE.sample(rng, n), axis=0)
    return codes, hits_of(codes, rng)


def predictor(power=1.0):
    codes = np.unique(SPACE.sample(np.random.default_rng(1), 40), axis=0)
    return AdditivePredictor.fit(SPACE, codes, 0.02 + (costs(SPACE, codes, "macs") / 1e7) ** power)


@pytest.fixture(scope="module")
def landscape(landscape_py):
    codes, hits = recorded()
    return landscape_py.Landscape.of(SPACE, codes, hits, IMAGES, {"a": predictor(), "b": predictor(0.5)})


@pytest.fixture(scope="module")
def others(landscape):
    """Architectures that were not recorded."""
    codes = np.unique(SPACE.sample(np.random.default_rng(2), 4000), axis=0)
    known = {tuple(row) for row in landscape.codes.tolist()}
    return np.array([row for row in codes if tuple(row.tolist()) not in known], dtype=np.int16)


def test_what_was_recorded_is_answered_as_recorded(landscape):
    codes, hits = recorded()
    for k, images in enumerate(IMAGES):
        np.testing.assert_array_equal(landscape.accuracy(codes, int(images)), hits[:, k] / images)
    np.testing.assert_array_equal(landscape.accuracy(codes), hits[:, -1] / IMAGES[-1])


def test_an_architecture_has_one_accuracy_whatever_is_asked_with_it(landscape, others):
    together = landscape.accuracy(others[:50])
    np.testing.assert_array_equal([landscape.accuracy(row[None])[0] for row in others[:50]], together)
    mixed = landscape.accuracy(np.concatenate([landscape.codes[:5], others[:50]]))
    np.testing.assert_array_equal(mixed[5:], together)


def test_accuracies_are_of_whole_images(landscape, others):
    for images in IMAGES:
        hits = landscape.accuracy(others, int(images)) * images
        np.testing.assert_allclose(hits, np.rint(hits), atol=1e-9)
        assert 0 <= hits.min() <= hits.max() <= images


def test_a_number_of_images_that_was_not_recorded_is_refused(landscape, landscape_py):
    with pytest.raises(landscape_py.LandscapeError, match="recorded on 200, 1000 images, not on 300"):
        landscape.accuracy(landscape.codes, 300)


def test_the_surrogate_finds_the_function_and_is_as_rough_as_what_was_recorded(landscape, landscape_py, others):
    quality = landscape.surrogate.quality
    assert quality.r2 > 0.9
    assert SIGMA < quality.rmse < 1.3 * SIGMA
    mean = np.mean([m.predict(landscape_py.features(SPACE, others)) for m in landscape.surrogate.models], axis=0)
    assert (landscape.accuracy(others) - mean).std() == pytest.approx(quality.rmse, rel=0.1)


def test_fewer_images_say_the_same_with_more_noise(landscape, others):
    few, all_ = (landscape.accuracy(others, int(images)) for images in IMAGES)
    assert np.mean(few - all_) == pytest.approx(0, abs=0.005)
    binomial = np.sqrt(np.mean(all_ * (1 - all_)) / IMAGES[0])
    assert np.std(few - all_) == pytest.approx(binomial, rel=0.15)


def test_neighbours_differ_by_independent_residuals(landscape_py, others):
    drawn = landscape_py._normals(landscape_py.keys(SPACE, others), 2)
    assert np.abs(drawn.mean(axis=0)).max() < 0.1
    assert np.abs(np.cov(drawn.T) - np.eye(2)).max() < 0.1
    assert abs(np.corrcoef(drawn[1:, 0], drawn[:-1, 0])[0, 1]) < 0.1


def test_keys_tell_all_architectures_apart(landscape_py, others):
    assert len(np.unique(landscape_py.keys(SPACE, others))) == len(others)


def test_quality_is_perfect_for_the_truth_and_nothing_for_the_mean(landscape_py):
    recorded_ = np.random.default_rng(0).random(200)
    perfect = landscape_py.Quality.of(recorded_, recorded_)
    assert (perfect.r2, perfect.kendall, perfect.rmse, perfect.top_kendall) == (1.0, 1.0, 0.0, 1.0)
    guess = np.full(200, recorded_.mean()) + 1e-9 * np.random.default_rng(1).random(200)
    assert landscape_py.Quality.of(guess, recorded_).r2 == pytest.approx(0, abs=1e-6)


@pytest.fixture
def folder(tmp_path):
    codes, hits = recorded(80)
    (tmp_path / "predictors").mkdir()
    predictor().save(tmp_path / "predictors" / "a.json")
    (tmp_path / "space.json").write_text(json.dumps(SPACE.to_json()))
    arrays_ = {"codes": codes.astype(np.int8), "hits": hits.astype(np.int32), "images": IMAGES}
    np.savez(tmp_path / "landscape.npz", **arrays_)
    return tmp_path, arrays_


def test_a_folder_is_read(landscape_py, folder):
    path, arrays_ = folder
    found = landscape_py.Landscape.load(path)
    assert (found.space, list(found.predictors)) == (SPACE, ["a"])
    np.testing.assert_array_equal(found.accuracy(arrays_["codes"].astype(np.int16), 200), arrays_["hits"][:, 0] / 200)


DAMAGES = {
    "narrow": (lambda a: a | {"codes": a["codes"][:, 1:]}, "wanted codes"),
    "few": (lambda a: a | {"codes": a["codes"][:9], "hits": a["hits"][:9]}, "n of 50 or more"),
    "outside": (lambda a: a | {"codes": a["codes"] + 9}, "outside the values"),
    "twice": (lambda a: a | {"codes": np.repeat(a["codes"][:1], len(a["codes"]), axis=0)}, "each once"),
    "too many hits": (lambda a: a | {"hits": a["hits"] + 1000}, "hits from 0 to images"),
    "no images": (lambda a: {key: a[key] for key in ("codes", "hits")}, "images"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_recording_is_refused_in_one_line(landscape_py, folder, name):
    path, arrays_ = folder
    damage, message = DAMAGES[name]
    np.savez(path / "landscape.npz", **damage(arrays_))
    with pytest.raises(landscape_py.LandscapeError, match=message) as error:
        landscape_py.Landscape.load(path)
    assert "\n" not in str(error.value)


def test_a_landscape_without_devices_is_refused(landscape_py, folder):
    (folder[0] / "predictors" / "a.json").unlink()
    with pytest.raises(landscape_py.LandscapeError, match="found none"):
        landscape_py.Landscape.load(folder[0])


POINTS = arrays(float, st.tuples(st.integers(1, 20), st.just(2)), elements=st.integers(0, 6).map(float))


@given(points=POINTS, n=st.integers(1, 25))
def test_no_point_that_is_left_out_dominates_one_that_is_kept(landscape_py, points, n):
    kept = landscape_py.fittest(points, n)
    assert len(set(kept.tolist())) == len(kept) == min(n, len(points))
    for lost in points[np.setdiff1d(np.arange(len(points)), kept)]:
        assert not ((lost <= points[kept]).all(axis=1) & (lost < points[kept]).any(axis=1)).any()


def test_of_one_front_the_ends_stay_and_the_crowd_goes(landscape_py):
    x = np.array([0.0, 1.0, 4.9, 5.0, 5.1, 9.0])
    assert set(landscape_py.fittest(np.stack([x, -x], axis=1), 4).tolist()) == {0, 1, 2, 5} | {5}


def test_the_best_known_front_is_nearly_the_true_one(landscape, landscape_py):
    every = np.unique(SPACE.sample(np.random.default_rng(3), 200_000), axis=0)
    device = landscape.predictors["a"]
    largest = float(device.predict(SPACE.encode([SPACE.largest()]))[0])
    found, true = (
        hypervolume(landscape.accuracy(codes), device.predict(codes), largest)
        for codes in (landscape_py.best_known(landscape, device, generations=40), every)
    )
    assert 0.99 * true <= found <= true


@pytest.fixture(scope="module")
def quick(peers_py):
    """All peers that take no minutes; LINAS with a shorter inner search."""
    return {name: peer for name, peer in peers_py.PEERS.items() if name != "optuna_gp"} | {
        "linas": peers_py.of_linas(500)
    }


@pytest.mark.parametrize("name", ["random", "optuna_nsga2", "optuna_nsga2_20", "optuna_tpe", "dynas_nsga2", "linas"])
def test_a_peer_evaluates_so_many_canonical_rows_and_is_a_function_of_its_seed(landscape, quick, name):
    first, again, other = (quick[name](landscape, landscape.predictors["a"], 55, seed) for seed in (1, 1, 2))
    assert first.shape == (55, len(SPACE.choices))
    np.testing.assert_array_equal(first, SPACE.canonical(first))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_linas_breeds_nothing_that_it_has_evaluated_and_beats_chance(landscape, quick):
    device = landscape.predictors["a"]
    largest = float(device.predict(SPACE.encode([SPACE.largest()]))[0])
    rows = {name: quick[name](landscape, device, 100, 0) for name in ("linas", "random")}
    assert len(np.unique(rows["linas"], axis=0)) == 50 + len(np.unique(rows["linas"][:50], axis=0))
    volumes = {name: hypervolume(landscape.accuracy(r), device.predict(r), largest) for name, r in rows.items()}
    assert volumes["linas"] > volumes["random"]


@pytest.fixture
def run(module, folder, capsys):
    pytest.importorskip("pymoo")
    main = module("search_quality").main
    return lambda *options: (main([str(folder[0]), *map(str, options)]), *capsys.readouterr())


def test_the_benchmark_ends_with_json(run):
    peers = ("random", "optuna_nsga2")
    code, output, _ = run("--peers", *peers, "--evaluations", 55, "--seeds", 2, "--generations", 2)
    assert code == 0
    result = json.loads(output.splitlines()[-1])
    found = result["devices"]["a"]["searchers"]
    assert list(found) == list(peers)
    for figures in found.values():
        counts = figures["hypervolume"]
        assert list(counts) == ["50", "55"]
        assert all(0 < early <= late for early, late in zip(counts["50"], counts["55"], strict=True))
    assert found["optuna_nsga2"]["evaluated"] == [55, 55]


def test_wins_count_the_seeds_in_which_the_first_is_ahead(module):
    pytest.importorskip("pymoo")
    quality = module("search_quality")
    volumes = {("linas", 100): [0.5, 0.7, 0.9], ("optuna_nsga2", 500): [0.6, 0.7, 0.8]}
    runs = [
        quality.Run(quality.Task("a", name, seed), {count: value}, 0.0, 0, 0.0)
        for (name, count), values in volumes.items()
        for seed, value in enumerate(values)
    ]
    (duel,) = quality.wins(runs)
    assert (duel["searcher"], duel["other"], duel["wins"], duel["of"]) == ("linas", "optuna_nsga2", 1, 3)


def test_fewer_images_count_as_a_part_of_an_evaluation(module, landscape):
    pytest.importorskip("pymoo")
    surface = module("search_quality").Clocked(landscape)
    surface.accuracy(landscape.codes[:10], 200)
    surface.accuracy(landscape.codes[:3])
    assert surface.evaluated == pytest.approx(5)


@pytest.mark.parametrize("options", [("--devices", "nobody"), ("--seeds", "0"), ("--generations", "0")])
def test_an_option_that_cannot_be_is_named(module, landscape, options):
    pytest.importorskip("pymoo")
    quality = module("search_quality")
    with pytest.raises(quality.OptionError, match=options[0]):
        quality.check(quality.arguments(options), landscape)


def test_a_folder_without_a_landscape_ends_in_one_line(run, folder):
    (folder[0] / "landscape.npz").unlink()
    code, _, errors = run()
    assert code == 2
    assert "landscape.npz" in errors
    assert errors.count("\n") == 1
