"""Studies: what is trained for a budget, how sure an order is, and going on after an interruption."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas import supernet_study
from nas.errors import JobError
from nas.supernet_study import FILE, Plan, fitted, ranked, study, supernet_passes, verdict
from nas.trained import Trained, open_trained
from supernets.settings import TrainSettings
from supernets.train import train
from tests.nas.fakes import FakeDisplay, small_space

SPACE = small_space()
ARCHS = (SPACE.smallest(), SPACE.largest(), *SPACE.decode(SPACE.sample(np.random.default_rng(1), 6)))


# Plans


@given(st.lists(st.floats(0.01, 50), min_size=3, max_size=8), st.floats(1, 500), st.floats(0.01, 1e5))
def test_a_plan_keeps_to_its_budget_and_trains_all_alike(epoch_s, cost, budget_s):
    archs = ARCHS[: len(epoch_s)]
    if sum(epoch_s) > budget_s:
        with pytest.raises(JobError, match="more than the budget of"):
            fitted(archs, epoch_s, cost, budget_s)
        return
    found = fitted(archs, epoch_s, cost, budget_s)
    seconds = dict(zip(archs, epoch_s, strict=True))
    assert sum(seconds[arch] * epochs for arch, epochs in found.trainings) <= budget_s * (1 + 1e-9)
    assert found.archs == archs
    assert 1 <= found.epochs <= cost + 1
    assert found.tenth == archs[: len(found.tenth)]
    assert cost / 10 <= found.tenth_epochs <= cost / 10 + 1
    # No more networks get a tenth than half of what is left after an epoch of each pays for.
    spent = sum(seconds[arch] * found.tenth_epochs for arch in found.tenth)
    assert spent <= (budget_s - sum(epoch_s)) / 2 * (1 + 1e-9)


def test_a_budget_for_less_than_an_epoch_of_each_is_refused_in_one_line():
    with pytest.raises(JobError) as refused:
        fitted(ARCHS[:4], [10.0, 20.0, 30.0, 40.0], 26, 99)
    assert str(refused.value) == (
        "one epoch of each of 4 networks takes 1 min 40 s, more than the budget of 1 min 39 s; give a --budget of that or "
        "more, or fewer --archs"
    )


def test_a_plan_survives_its_way_through_json():
    plan = fitted(ARCHS, [1.0] * 8, 26, 100)
    assert plan.tenth
    assert Plan.from_json(SPACE, plan.to_json()) == plan


def test_a_supernet_costs_a_pass_for_each_sub_network_of_a_step():
    assert supernet_passes(TrainSettings(recipe="sandwich", epochs=10)) == pytest.approx(10 * (0.4 * 2 + 0.6 * 3))
    assert supernet_passes(TrainSettings(recipe="alone", epochs=7)) == pytest.approx(7)


# How sure


def test_the_same_order_is_one_and_the_reverse_minus_one_however_networks_are_drawn():
    scores = np.array([0.1, 0.5, 0.2, 0.9, 0.4])
    for sign in (1, -1):
        found = ranked(scores, sign * scores**3)
        for name in ("kendall", "spearman"):
            assert found[name] == pytest.approx({"value": sign, "low": sign, "high": sign})


def test_an_interval_holds_its_value_and_shrinks_with_more_networks():
    rng = np.random.default_rng(0)
    accuracy = rng.normal(size=60)
    noisy = accuracy + 0.7 * rng.normal(size=60)
    few, many = (ranked(noisy[:n], accuracy[:n])["kendall"] for n in (8, 60))
    for found in (few, many):
        assert -1 <= found["low"] < found["value"] < found["high"] <= 1
    assert many["high"] - many["low"] < 0.7 * (few["high"] - few["low"])


def test_a_verdict_says_when_there_are_too_few_networks():
    def said(score, accuracy):
        rank = {"supernet": ranked(np.array(score), np.array(accuracy))}
        return verdict({"rank": rank, "networks": [None] * len(score)})

    assert "orders networks better than chance" in said(np.arange(12.0), np.arange(12.0) ** 2)
    assert "too few to tell that the supernet orders" in said([0.1, 0.4, 0.2, 0.3], [0.2, 0.3, 0.4, 0.1])
    assert said([0.5, 0.5, 0.5], [0.1, 0.2, 0.3]).startswith("3 networks tell nothing: ")


# Whole studies


@pytest.fixture
def trained(finished) -> Trained:
    return open_trained(finished)


@pytest.fixture(autouse=True)
def went_on(monkeypatch) -> list[bool]:
    """Every epoch takes a second, every step is saved; of each training, whether it found a checkpoint."""
    found = []

    def train_saving_all(space, dataset, settings, *, path, progress):
        found.append(path.exists())
        return train(space, dataset, settings, path=path, checkpoint_s=0, progress=progress)

    monkeypatch.setattr(supernet_study, "RESAMPLES", 200)
    monkeypatch.setattr(supernet_study, "_epoch_seconds", lambda trained, arch, seed: 1.0)
    monkeypatch.setattr(supernet_study, "train", train_saving_all)
    return found


def timeless(document):
    """Without what the clock says."""
    return {**document, "trained": {key: row["accuracy"] for key, row in document["trained"].items()}}


def test_a_study_interrupted_again_and_again_ends_like_one_in_one_go(trained, tmp_path, went_on):
    whole = study(trained, tmp_path / "whole", 4, 7.0, 3, FakeDisplay())
    # One epoch of each, and a tenth of the supernet's 5.2 passes is one epoch as well.
    assert len(whole["trained"]) == 4
    pieces = tmp_path / "pieces"
    for stage, at in (("plan", 2), ("train 1/4", 4), ("train 1/4", 3), ("train 3/4", 1), ("train 4/4", 5)):
        with pytest.raises(KeyboardInterrupt):
            study(trained, pieces, 4, 7.0, 3, FakeDisplay(stage, at))
    display = FakeDisplay()
    assert timeless(study(trained, pieces, 4, 7.0, 3, display)) == timeless(whole)
    assert display.shown == ["train 4/4", "compare"]
    # The whole study; then the first training in three parts, the second in one, the others in two.
    assert went_on == [False] * 4 + [False, True, True, False, False, True, False, True]
    assert [path.name for path in pieces.iterdir()] == [FILE]
    again = FakeDisplay()
    assert timeless(study(trained, pieces, 4, 7.0, 3, again)) == timeless(whole)
    assert again.shown == []


def test_a_study_tells_what_is_known_of_each_network(trained, tmp_path):
    found = study(trained, tmp_path, 4, 7.0, 0, FakeDisplay())["result"]
    space = trained.space
    assert [row["arch_id"] for row in found["networks"][:2]] == [space.smallest().id, space.largest().id]
    assert len({row["arch_id"] for row in found["networks"]}) == 4
    for row in found["networks"]:
        assert 0 <= row["alone_accuracy"] <= 1
        assert row["tenth_accuracy"] == row["alone_accuracy"]
    ahead = [row["supernet_accuracy"] - row["tenth_accuracy"] for row in found["networks"]]
    assert found["ahead_of_tenth"] == pytest.approx(sum(ahead) / 4)
    assert set(found["rank"]) == {"supernet", "macs"}


def test_a_folder_with_a_study_of_something_else_is_refused(trained, tmp_path):
    study(trained, tmp_path, 3, 3.0, 0, FakeDisplay())
    with pytest.raises(
        JobError, match="has a study with another networks and another seed; go on with what it was begun"
    ):
        study(trained, tmp_path, 4, 3.0, 1, FakeDisplay())
    (tmp_path / FILE).write_text('{"format": "nas.study/0"}')
    with pytest.raises(JobError, match=r"wanted format 'nas\.study/1', found 'nas\.study/0'"):
        study(trained, tmp_path, 3, 3.0, 0, FakeDisplay())
