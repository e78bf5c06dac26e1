"""The search as its user runs it: going on, beginning anew, other objectives, other samplers, Optuna's studies."""

import json
import shutil
from pathlib import Path

import numpy as np
import optuna
import pytest

from nas.folder import RunFolder
from nas.searching.store import TrialStore
from tests.nas.test_bad_input import set_job


def searched(root: Path) -> dict:
    return json.loads((root / "search.json").read_text())


def evaluated(root: Path) -> list[str]:
    return [row["arch_id"] for row in searched(root)["devices"][0]["evaluated"]]


def front(root: Path, device: int = 0) -> list[dict]:
    return searched(root)["devices"][device]["front"]


def again(nas, root: Path, *settings: str) -> dict:
    """The result of a search anew under other settings."""
    options = [part for setting in settings for part in ("--set", f"search.{setting}")]
    said = nas("search", root, "--jobs", 1, "--again", *options)
    assert said.code == 0, said
    return searched(root)


def test_a_search_that_is_extended_is_one_that_was_longer_from_the_start(nas, copied, tmp_path):
    longer = Path(shutil.copytree(copied, tmp_path / "longer"))
    before = evaluated(copied)
    assert nas("search", copied, "--jobs", 1, "--extend", 6).code == 0
    assert evaluated(copied)[: len(before)] == before
    assert len(evaluated(copied)) == 16
    assert RunFolder.open(copied).job.search.evaluations == 16
    assert not (copied / "summary.json").exists(), "what came after it is to be made anew"
    again(nas, longer, "evaluations=16")
    assert evaluated(longer) == evaluated(copied)
    assert front(longer) == front(copied)


def test_extend_takes_no_other_settings(nas, copied):
    said = nas("search", copied, "--extend", 6, "--again")
    assert "takes no --again or --set" in said.complaint


def test_anew_evaluates_nothing_twice_and_asks_the_same(nas, copied, monkeypatch):
    before = searched(copied)
    monkeypatch.setattr("nas.pipeline.Evaluator.score", lambda self, *asked: pytest.fail("evaluated again"))
    found = again(nas, copied)
    assert [device["front"] for device in found["devices"]] == [device["front"] for device in before["devices"]]


def test_anew_goes_on_with_predictors_of_another_profile(nas, copied):
    shutil.copy(copied / "predictors" / "four.json", copied / "predictors" / "one.json")
    RunFolder.open(copied).reopen("search")
    assert "input `predictor of latency_ms on one` changed" in nas("search", copied, "--jobs", 1).complaint
    assert len(again(nas, copied)["devices"][0]["front"]) > 0


@pytest.mark.parametrize("sampler", ["nsga2", "nsga3", "tpe", "random", "guided_exact"])
def test_every_sampler_finds_a_front(nas, copied, sampler):
    found = again(nas, copied, f"sampler={sampler}", "evaluations=6", "population=4", "controls=false")
    assert [len(device["front"]) > 0 for device in found["devices"]] == [True, True]
    assert found["search"]["sampler"] == sampler
    assert (found["search"]["random"], found["devices"][0]["uniform"]) == ([], None)


def test_other_objectives_and_constraints_hold_as_predicted_and_as_measured(nas, copied):
    limits = ["latency_p95_ms@four <= 10 with 90%", "model_bytes <= 90kB", "peak_memory_bytes <= 1MB"]
    again(nas, copied, "objectives=[accuracy, latency_p95_ms, params]", f"constraints={json.dumps(limits)}")
    assert nas("export", copied).code == 0
    one, four = json.loads((copied / "summary.json").read_text())["devices"]
    assert [len(one["front"]) > 0, len(four["front"]) > 0] == [True, True]
    for row in four["front"]:
        assert set(row["values"]) == {"latency_p95_ms", "params", "model_bytes", "peak_memory_bytes"}
        assert row["values"]["params"]["predicted"] == row["values"]["params"]["measured"] == row["params"]
        p95 = row["values"]["latency_p95_ms"]
        assert p95["low"] <= p95["predicted"] <= p95["high"]
        assert p95["measured"] > 0
        assert [each["text"] for each in row["constraints"]] == limits
        assert all(each["predicted"] and each["measured"] for each in row["constraints"])
        assert row["values"]["model_bytes"]["predicted"] <= 90_000
    assert [row["text"] for row in four["reach"]] == limits
    assert [row["text"] for row in one["reach"]] == limits[1:]


def test_a_constraint_on_accuracy_is_held_against_the_test_images(nas, copied):
    bound = np.median([row["val_accuracy"] for row in front(copied)])
    again(nas, copied, f'constraints=["accuracy >= {bound}"]')
    assert nas("export", copied).code == 0
    for device in json.loads((copied / "summary.json").read_text())["devices"]:
        for row in device["front"]:
            assert row["val_accuracy"] >= bound
            (each,) = row["constraints"]
            tested = row["test_accuracy"]
            assert each["measured"] == (None if tested is None else tested >= bound)


def test_the_best_are_confirmed_on_all_validation_images(copied):
    found = searched(copied)
    assert found["search"]["images"] == [200]
    assert 0 < found["search"]["confirmed"] <= 10
    assert any(row["val_accuracy"] != row["search_accuracy"] for row in front(copied))


def test_few_images_come_first_and_their_ranking_is_told(nas, copied):
    found = again(nas, copied, "first_images=50", "evaluations=12")
    fidelity = found["search"]["searches"][0]["fidelity"]
    assert (fidelity["first"], fidelity["images"], fidelity["n"]) == (50, 200, 6)
    assert -1 <= fidelity["kendall"] <= 1
    assert found["search"]["images"] == [50, 200]


def test_more_first_images_than_there_are_is_refused(nas, copied):
    said = nas(
        "search", copied, "--again", "--set", "search.validation_images=null", "--set", "search.first_images=5000"
    )
    assert "search.first_images must be fewer than the" in said.complaint


def test_seeds_give_a_spread_for_the_search_and_for_chance(nas, copied):
    found = again(nas, copied, "seeds=2")["search"]
    first, second = (each["seed"] for each in found["searches"])
    assert first == 0 != second
    assert found["hypervolume"]["seeds"] == found["hypervolume_random"]["seeds"] == 2
    assert found["hypervolume"]["std"] is not None
    assert [each["evaluations"] for each in found["random"]] == [10, 10]
    assert 10 <= found["evaluations"] <= 20


def test_proxies_are_told_beside_size_and_may_choose_the_first_generation(nas, copied):
    plain = evaluated(copied)
    found = again(nas, copied, "proxies=[synflow, jacob_cov]", "warm_up=synflow")
    rows = found["search"]["proxies"]["rows"]
    assert [row["name"] for row in rows] == ["macs", "params", "synflow", "jacob_cov"]
    assert all(-1 <= row["spearman"] <= 1 for row in rows)
    assert evaluated(copied) != plain


def test_a_warm_start_takes_over_what_another_run_evaluated(nas, copied, tmp_path, monkeypatch):
    other = Path(shutil.copytree(copied, tmp_path / "other"))
    (copied / "evaluations.sqlite").unlink()
    again(nas, copied, f"warm_start=[{other}]", "evaluations=5", "controls=false")
    found = searched(copied)["search"]
    assert found["evaluations"] == found["searches"][0]["sources"]["sampler"] == 5
    assert found["searches"][0]["sources"]["warm"] >= 10
    assert set(evaluated(other)) < set(evaluated(copied))


def test_a_warm_start_from_another_supernet_is_refused(nas, copied, tmp_path):
    other = Path(shutil.copytree(copied, tmp_path / "other"))
    set_job(other, lambda job: job["search"].update(calibration_batches=2))
    again(nas, other)
    with TrialStore(other / "evaluations.sqlite") as store:
        store.forget(next(iter(store.searches())).partition("/")[0])
    said = nas("search", copied, "--jobs", 1, "--again", "--set", f"search.warm_start=[{tmp_path / 'nothing'}]")
    assert "is not the folder of a run" in said.complaint


def test_a_store_elsewhere_is_used_in_place_of_the_runs_own(nas, copied, tmp_path):
    again(nas, copied, f"store=sqlite:///{tmp_path}/elsewhere.sqlite", "evaluations=4", "controls=false")
    with TrialStore(tmp_path / "elsewhere.sqlite") as store:
        (inputs,) = store.searches().values()
    assert {"supernet", "data", "calibration"} < set(inputs)


def test_a_device_without_a_table_says_how_to_make_one(nas, copied):
    (copied / "tables" / "four.json").unlink()
    complaint = nas("search", copied, "--jobs", 1, "--again").complaint
    assert f"device four has no latency table; `nas profile {copied} --again` measures it" in complaint


def test_what_constraints_can_reach_is_told_before_the_search(nas, copied):
    said = nas("search", copied, "--jobs", 1, "--again", "--set", 'search.constraints=["params <= 20k"]')
    first, *_ = said.err.splitlines()
    assert first.split(None, 1)[1].startswith("four: params <= 20k: the space has ")
    assert first.endswith("% of random architectures meet it")


def test_energy_without_a_meter_says_how_to_get_it(nas, copied):
    complaint = nas("search", copied, "--again", "--set", "search.objectives=[accuracy, energy_mj]").complaint
    assert "no energy was measured" in complaint
    assert ".[energy]" in complaint


def test_studies_of_a_run_can_be_plotted(nas, copied, tmp_path):
    storage = f"sqlite:///{tmp_path}/optuna.db"
    assert nas("studies", copied, "--storage", storage, "--json").json == ["little one", "little four"]
    study = optuna.load_study(study_name="little one", storage=storage)
    assert study.metric_names == ["accuracy", "latency_ms"]
    shown = dict.fromkeys(trial.user_attrs["arch_id"] for trial in study.trials)
    # What the budget cut off is there as well, if a control evaluated it.
    assert list(shown)[: len(evaluated(copied))] == evaluated(copied)
    front_ids = {trial.user_attrs["arch_id"] for trial in study.best_trials}
    rows = searched(copied)["devices"][0]["evaluated"]
    best = max(rows, key=lambda row: row["val_accuracy"])
    assert best["arch_id"] in front_ids
    optuna.visualization.plot_pareto_front(study)
    assert "has a study 'little one' already" in nas("studies", copied, "--storage", storage).complaint
    assert "is no storage that Optuna can use" in nas("studies", copied, "--storage", "nonsense").complaint
