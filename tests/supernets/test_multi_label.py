"""Trainings on images with any number of labels: every way to learn from labels and teachers, by one worker or several."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from supernets.batches import Batches, calibration_batches
from supernets.calibrate import accuracy, calibrate
from supernets.conflicts import OVERALL, conflicts, training_batches
from supernets.dataset import Dataset, Images
from supernets.errors import SupernetError, TrainError
from supernets.layout import LAYOUTS
from supernets.proxies import PROXIES, proxy_scores
from supernets.state import fresh_state, identity_of, snapshot
from supernets.train import train
from tests.contracts.supernet_contract import small_space
from tests.supernets.bars import SETTINGS, same, timeless
from tests.supernets.crews import Doubles, continued
from tests.supernets.mosaics import DIGITS, mosaic_dataset

SPACE = small_space("tiny", num_classes=DIGITS)
QUICK = replace(SETTINGS, epochs=2, batch=15, label_smoothing=0.1)


@pytest.fixture(scope="module")
def dataset():
    return mosaic_dataset(60)


def difference(a, b):
    """The largest, of the weights of two checkpoints."""
    names = [name for name in a.tensors if name.startswith("net.")]
    return max(float((a.tensors[name].double() - b.tensors[name].double()).abs().max()) for name in names)


# Recipes that differ in what is learnt from: labels, a teacher in place or a frozen one, two divergences, and predicted losses.
@pytest.mark.parametrize(
    "changes",
    [
        {"recipe": "progressive_shrinking"},
        {"recipe": "alpha", "class_weights": "balanced"},
        {"recipe": "attentive_best"},
    ],
    ids=lambda changes: changes["recipe"],
)
def test_workers_train_as_one_would(monkeypatch, dataset, changes):
    """In 64 bits but for the losses, so that a training of a few steps is no matter of rounding."""
    monkeypatch.setitem(LAYOUTS, SETTINGS.layout, Doubles())
    monkeypatch.setattr("supernets.train.validation_scores", lambda *_: {})
    settings = replace(QUICK, **changes)
    state = fresh_state(SPACE, settings)
    start = snapshot(state, identity_of(settings, dataset))
    one, two = (continued(dataset, replace(settings, workers=workers), start) for workers in (1, 2))
    assert two.notes["loss"] == pytest.approx(one.notes["loss"], rel=1e-5)
    assert difference(start, one) > 0.005
    assert difference(one, two) < 1e-5


def test_a_training_goes_on_where_it_was_killed_and_not_with_other_labels(dataset, tmp_path):
    settings = replace(QUICK, recipe="alpha")

    def stop(done, total, text):
        if done == 5:
            raise KeyboardInterrupt

    whole = train(SPACE, dataset, settings)
    with pytest.raises(KeyboardInterrupt):
        train(SPACE, dataset, settings, path=tmp_path / "train", checkpoint_s=0, progress=stop)
    relabelled = Dataset.of(
        Images(dataset.train.pixels, ~dataset.train.labels), dataset.validation, dataset.test, dataset.classes
    )
    with pytest.raises(TrainError, match="was trained with other settings or data"):
        train(SPACE, relabelled, settings, path=tmp_path / "train")
    resumed = train(SPACE, dataset, settings, path=tmp_path / "train")
    assert same(resumed.average, whole.average)
    assert timeless(resumed) == timeless(whole)


def test_classes_that_few_images_have_are_found_more_often_where_both_answers_count_alike(dataset):
    """Unbalanced, nearly all images lack such a class, and so does what the network says."""
    rare = dataset.train.labels.copy()
    rare[:, :5] &= np.arange(len(rare))[:, None] % 4 == 0
    few = Dataset.of(Images(dataset.train.pixels, rare), dataset.validation, dataset.test, dataset.classes)
    said = []
    for weights in ("none", "balanced"):
        state = train(SPACE, few, replace(QUICK, recipe="alone", class_weights=weights))
        arch = SPACE.largest()
        stats = calibrate(state.average, arch, calibration_batches(few, QUICK.augment, 0))
        with torch.no_grad():
            x_BCHW, _ = next(iter(Batches.of(few.validation, few)))
            said.append(float(state.average(x_BCHW, arch, stats)[:, :5].sigmoid().mean()))
    assert said[1] > said[0] + 0.05


def test_images_that_are_all_labelled_alike_are_refused(dataset):
    alike = Images(dataset.train.pixels, np.repeat(dataset.train.labels[:1], len(dataset.train), axis=0))
    with pytest.raises(TrainError, match="all 60 training images are labelled alike; give images of the others"):
        train(SPACE, Dataset.of(alike, dataset.validation, dataset.test, dataset.classes), QUICK)


def test_proxies_and_conflicts_take_label_sets(dataset):
    x_BCHW, y_BK = next(iter(training_batches(dataset, QUICK, 1)))
    scores = proxy_scores(SPACE, [SPACE.smallest()], x_BCHW[:4], y_BK[:4], tuple(PROXIES))
    assert all(np.isfinite(found).all() for found in scores.values())
    with pytest.raises(SupernetError, match="proxies need a label from 0 to 9 for each of 4 images"):
        proxy_scores(SPACE, [SPACE.smallest()], x_BCHW[:4], y_BK[:4, :3], ["snip"])
    state = fresh_state(SPACE, QUICK)
    found = conflicts(state.net, [(x_BCHW, y_BK)], 1)
    assert all(-1 <= cosine <= 1 for each in found if each.layer == OVERALL for cosine in each.cosines)


def test_the_score_is_of_all_images_whatever_the_batches(dataset):
    net, arch = fresh_state(SPACE, QUICK).net, SPACE.smallest()
    (whole,) = Batches.of(dataset.test, dataset)
    parts = [(whole[0][i : i + 7], whole[1][i : i + 7]) for i in range(0, len(whole[1]), 7)]
    assert accuracy(net, arch, None, [whole]) == pytest.approx(accuracy(net, arch, None, parts), abs=0.01)
