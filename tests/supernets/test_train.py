"""Training: it learns, it repeats, and it stops where there is nothing to learn from."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from search_spaces import FAMILIES
from supernets import batches as batches_module
from supernets import checkpoint
from supernets import step as step_module
from supernets import train as train_module
from supernets.batches import Batches, calibration_batches
from supernets.calibrate import calibrate
from supernets.dataset import Dataset, Images
from supernets.errors import SupernetError, TrainError
from supernets.evaluation import evaluate
from supernets.layout import LAYOUTS
from supernets.picks import sub_networks
from supernets.recipes import RECIPES, Phase, schedule
from supernets.settings import CLASS_WEIGHTS
from supernets.supernet import Supernet
from supernets.train import train
from tests.supernets.bars import CLASSES, SETTINGS, bars, judged, same, space_of


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_falls_and_sub_networks_of_all_sizes_learn(monkeypatch, family):
    monkeypatch.setitem(RECIPES, "plain", (Phase("all", 1.0, ("largest", "random", "smallest"), teacher="none"),))
    space = space_of(family)
    dataset = bars(space, 128)
    settings = replace(SETTINGS, recipe="plain", epochs=5, batch=32, learning_rate=0.1, evaluations=5)
    state = train(space, dataset, settings)
    losses = [row["loss"] for row in state.history]
    assert losses[-1] < 0.6 * losses[0]
    assert judged(state, dataset, space.largest()) > 0.9
    assert judged(state, dataset, space.smallest()) > 2 / CLASSES


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_learns(name):
    space = space_of("tiny")
    dataset = bars(space, 128)
    state = train(space, dataset, replace(SETTINGS, recipe=name, epochs=6, batch=32, learning_rate=0.1))
    assert judged(state, dataset, space.largest()) > 0.6


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = space_of("tiny")
    train(space, bars(space), replace(SETTINGS, epochs=1), checkpoint_s=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_the_seed_decides_the_result(family):
    space = space_of(family)
    dataset = bars(space)
    settings = replace(SETTINGS, epochs=1)
    first = train(space, dataset, settings)
    torch.manual_seed(12345)
    np.random.seed(12345)
    assert same(train(space, dataset, settings).average, first.average)
    assert not same(train(space, dataset, replace(settings, seed=1)).average, first.average)


def test_training_starts_from_the_weights_that_the_seed_draws():
    space = space_of("tiny")
    settings = replace(SETTINGS, epochs=1, learning_rate=1e-8, weight_decay=0.0, seed=3)
    trained = train(space, bars(space), settings).net
    for parameter, wanted in zip(trained.parameters(), Supernet(space, 3).parameters(), strict=True):
        torch.testing.assert_close(parameter, wanted, atol=1e-6, rtol=0)


def test_every_step_of_every_seed_augments_in_its_own_way(monkeypatch):
    def drawn(seed):
        seeds = []

        def note(x_BCHW, settings, generator):
            seeds.append(generator.initial_seed())
            return x_BCHW

        monkeypatch.setattr(batches_module, "augmented", note)
        train(space, bars(space), replace(SETTINGS, epochs=2, seed=seed))
        return seeds

    space = space_of("tiny")
    first = drawn(0)
    assert drawn(0) == first
    assert len({*first, *drawn(1)}) == 2 * (8 + 1)  # the steps and the calibration


def test_a_bf16_layout_trains_in_bf16():
    space = space_of("tiny")
    results = [
        train(space, bars(space), replace(SETTINGS, epochs=1, layout=layout)).net
        for layout in ("fp32_channels_last", "bf16_channels_last")
    ]
    assert not same(*results)
    assert all(parameter.dtype == torch.float32 for net in results for parameter in net.parameters())


@pytest.mark.parametrize("name", [name for name in RECIPES if any(p.teacher == "frozen" for p in RECIPES[name])])
def test_a_frozen_teacher_is_the_average_from_before_the_first_phase_that_has_one(tmp_path, name):
    space = space_of("tiny")
    path = tmp_path / "train.safetensors"
    seen = {}

    def keep(done, total, text):
        seen[done] = checkpoint.read(path).tensors

    train(space, bars(space), replace(SETTINGS, recipe=name, epochs=5), path=path, checkpoint_s=0, progress=keep)
    teacher = {}
    for step, moment in enumerate(schedule(RECIPES[name], 20, SETTINGS.warmup)):
        if moment.phase.teacher == "frozen" and not teacher:
            teacher = {key.removeprefix("average."): t for key, t in seen[step].items() if key.startswith("average.")}
        found = {key.removeprefix("teacher."): t for key, t in seen[step + 1].items() if key.startswith("teacher.")}
        assert list(found) == list(teacher)
        assert all(torch.equal(tensor, teacher[key]) for key, tensor in found.items())


def test_the_result_is_an_average_over_time_of_the_weights():
    space = space_of("tiny")
    state = train(space, bars(space), SETTINGS)
    assert not same(state.average, state.net)
    assert all(tensor.isfinite().all() for tensor in state.average.state_dict().values())
    # A decay of zero averages over nothing.
    state = train(space, bars(space), replace(SETTINGS, ema_decay=0.0))
    assert same(state.average, state.net)


def test_the_layout_that_is_found_is_a_known_one():
    space = space_of("tiny")
    assert train(space, bars(space), replace(SETTINGS, layout="auto", epochs=1)).layout in LAYOUTS


# Failures


def test_a_loss_that_is_no_number_stops_with_step_and_arch_and_keeps_the_last_checkpoint(tmp_path):
    space = space_of("tiny")
    # Weight decay alone multiplies the weights by -99 at each step.
    settings = replace(SETTINGS, learning_rate=100.0, weight_decay=1.0, warmup=0.0, epochs=25)
    path = tmp_path / "train.safetensors"
    with pytest.raises(TrainError) as caught:
        train(space, bars(space), settings, path=path, checkpoint_s=0)
    found = re.fullmatch(
        r"the loss is (nan|inf) at step (\d+) in sub-network ([0-9a-f]{12}); lower train\.learning_rate",
        str(caught.value),
    )
    assert found, str(caught.value)
    step = int(found[2])
    moment = schedule(RECIPES[settings.recipe], 25 * 4, settings.warmup)[step]
    archs = sub_networks(space, moment.phase, np.random.default_rng((settings.seed, 3, step)))
    assert found[3] in {arch.id for arch in archs}
    assert checkpoint.read(path, space).notes["step"] == step > 0


def test_a_weight_that_is_no_number_is_noticed_at_the_next_step(tmp_path, monkeypatch):
    space = space_of("tiny")
    path = tmp_path / "train.safetensors"
    monkeypatch.setattr(step_module, "_update_average", poison_at(2))
    with pytest.raises(TrainError, match="the loss is nan at step 3 in sub-network"):
        train(space, bars(space), SETTINGS, path=path, checkpoint_s=3600)
    assert not path.exists()


def test_a_weight_that_is_no_number_is_not_saved(tmp_path, monkeypatch):
    space = space_of("tiny")
    path = tmp_path / "train.safetensors"
    monkeypatch.setattr(step_module, "_update_average", poison_at(2))
    with pytest.raises(
        TrainError, match=r"head\.classifier\.bias is not finite after step 2; lower train\.learning_rate"
    ):
        train(space, bars(space), SETTINGS, path=path, checkpoint_s=0)
    assert checkpoint.read(path, space).notes["step"] == 2


def poison_at(wanted):
    def poison(state, decay):
        if state.step == wanted:
            with torch.no_grad():
                state.net.get_submodule("head.classifier").bias.fill_(float("nan"))

    return poison


def test_images_of_one_class_are_refused():
    space = space_of("tiny")
    given = bars(space)
    given.train.labels[:] = 2
    with pytest.raises(TrainError, match="all 64 training images are of class 'c'; give images of the others"):
        train(space, given, SETTINGS)


def test_one_training_image_is_too_few():
    space = space_of("tiny")
    given = bars(space)
    images = type(given.train)(given.train.pixels[:1], given.train.labels[:1])
    with pytest.raises(TrainError, match="wanted at least 2 training images, for batch norm, not 1"):
        train(space, Dataset.of(images, given.validation, given.test, given.classes), SETTINGS)


@pytest.mark.parametrize("family", FAMILIES)
def test_images_smaller_than_all_strides_together_train(family):
    # The last stages see one pixel; batch norm goes over the images of the batch alone.
    space = space_of(family, resolutions=[8])
    state = train(space, bars(space, count=8), replace(SETTINGS, epochs=1, batch=8))
    assert np.isfinite(state.loss)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"recipe": "sandwhich"},
            "unknown recipe 'sandwhich'; known are sandwich, progressive_shrinking, delayed_shrinking",
        ),
        ({"layout": "fp64"}, "unknown layout 'fp64'; known are auto, fp32, fp32_channels_last, bf16_channels_last"),
        ({"epochs": 0}, "train.epochs must be from 1 to 100000, not 0"),
        ({"batch": 1}, "train.batch must be from 2 to 65536, not 1"),
        ({"learning_rate": float("nan")}, "train.learning_rate must be from 1e-08 to 100.0, not nan"),
        ({"momentum": 1.0}, "train.momentum must be from 0.0 to 0.9999, not 1.0"),
        (
            {"recipe": "dot", "momentum": 0.95},
            "train.momentum must be from 0.075 to less than 0.925 for the recipe dot",
        ),
        ({"device": "gpu"}, "train.device must be one of auto, cpu, cuda, not 'gpu'"),
        ({"warmup": -0.1}, "train.warmup must be from 0.0 to 0.9, not -0.1"),
        ({"evaluations": 0}, "train.evaluations must be from 1 to 1000, not 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(SupernetError, match=re.escape(message)):
        replace(SETTINGS, **change)


# History and progress


def test_history_has_a_row_an_evaluation_with_all_its_fields():
    space = space_of("tiny")
    state = train(space, bars(space), replace(SETTINGS, epochs=5, evaluations=4))
    assert [row["step"] for row in state.history] == [5, 10, 15, 20]
    assert [row["epoch"] for row in state.history] == [1.25, 2.5, 3.75, 5.0]
    rates = [moment.learning_rate for moment in schedule(RECIPES[SETTINGS.recipe], 20, SETTINGS.warmup)]
    for row in state.history:
        assert list(row) == [
            "step",
            "epoch",
            "seconds",
            "loss",
            "learning_rate",
            "largest_val_accuracy",
            "smallest_val_accuracy",
        ]
        assert row["learning_rate"] == rates[int(row["step"]) - 1]
        assert 0 <= row["smallest_val_accuracy"] <= 1
        assert 0 <= row["largest_val_accuracy"] <= 1
        assert row["loss"] > 0
    assert state.seconds > 0


def test_more_evaluations_than_steps_evaluate_at_every_step():
    space = space_of("tiny")
    state = train(space, bars(space), replace(SETTINGS, epochs=1, evaluations=50))
    assert [row["step"] for row in state.history] == [1, 2, 3, 4]


def test_the_loss_of_a_row_is_smoothed_over_the_steps(monkeypatch):
    losses = iter([4.0, 2.0, 2.0, 7.0])
    monkeypatch.setattr(train_module, "train_step", lambda *_: next(losses))
    space = space_of("tiny")
    state = train(space, bars(space), replace(SETTINGS, epochs=1, evaluations=4))
    assert [row["loss"] for row in state.history] == pytest.approx([4.0, 3.8, 3.62, 3.958])


def test_progress_counts_the_steps_and_says_how_it_goes():
    space = space_of("tiny")
    seen = []
    train(space, bars(space), replace(SETTINGS, epochs=1, evaluations=1), progress=lambda *now: seen.append(now))
    assert [(done, total) for done, total, _ in seen] == [(i, 4) for i in range(1, 5)]
    assert re.fullmatch(r"loss \d+\.\d\d", seen[0][2])
    assert re.fullmatch(r"loss \d+\.\d\d, validation \d+\.\d% largest, \d+\.\d% smallest", seen[-1][2])


def test_classes_of_few_images_are_learnt_where_all_count_alike():
    space = space_of("tiny")
    whole = bars(space, 256)
    kept = (whole.train.labels != 3) | (np.cumsum(whole.train.labels == 3) <= 4)
    dataset = replace(whole, train=Images(whole.train.pixels[kept], whole.train.labels[kept]))
    recalls = []
    for weights in CLASS_WEIGHTS:
        state = train(space, dataset, replace(SETTINGS, epochs=2, class_weights=weights))
        stats = calibrate(state.average, space.largest(), calibration_batches(dataset, SETTINGS.augment, 0))
        batches = Batches.of(dataset.validation, dataset)
        recalls.append(evaluate(state.average, space.largest(), stats, batches).by_class[3])
    assert recalls[1] > recalls[0]
