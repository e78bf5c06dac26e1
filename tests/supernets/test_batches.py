"""Batches to train, to calibrate and to evaluate on."""

from dataclasses import replace

import numpy as np
import torch

from supernets.batches import Batches, batch_of, calibration_batches
from supernets.dataset import Images
from supernets.settings import Augmentation
from supernets.train import train
from tests.supernets.bars import SETTINGS, bars, space_of


def test_every_epoch_takes_every_image_once_in_an_order_of_its_own():
    images = Images(
        np.arange(24, dtype=np.uint8).reshape(24, 1, 1, 1).repeat(4, 2).repeat(4, 3), np.arange(24, dtype=np.int64)
    )
    epochs = []
    for epoch in range(3):
        batches = [batch_of(images, 6, step, seed=5) for step in range(4 * epoch, 4 * epoch + 4)]
        for pixels, labels in batches:
            assert pixels.dtype == torch.uint8
            assert pixels[:, 0, 0, 0].tolist() == labels.tolist()
        epochs.append([sorted(labels.tolist()) for _, labels in batches])
        assert sorted(label for labels in epochs[-1] for label in labels) == list(range(24))
    assert epochs[0] != epochs[1] != epochs[2]
    assert batch_of(images, 6, 0, seed=5)[1].tolist() != batch_of(images, 6, 0, seed=6)[1].tolist()


def test_fewer_images_than_a_batch_are_trained_all_at_once():
    space = space_of("tiny")
    assert train(space, bars(space, count=8), replace(SETTINGS, epochs=2)).step == 2


def test_calibration_batches_are_augmented_training_images_and_always_the_same():
    dataset = bars(space_of("tiny"))
    first, again = (calibration_batches(dataset, SETTINGS.augment, seed=3) for _ in range(2))
    assert len(first) == 4
    assert all(map(torch.equal, first, again))
    other = calibration_batches(dataset, SETTINGS.augment, seed=4)
    assert not torch.equal(first[0], other[0])
    clean = calibration_batches(dataset, Augmentation(0, False), seed=3)
    assert not torch.equal(first[0], clean[0])
    # Over the images of an epoch, normalised pixels have mean 0 and deviation 1.
    assert abs(float(clean[0].mean())) < 1e-3
    assert abs(float(clean[0].std()) - 1) < 1e-3


def test_evaluation_batches_are_all_images_in_order():
    dataset = bars(space_of("tiny"), count=600)
    batches = Batches.of(dataset.train, dataset)
    assert [len(labels) for _, labels in batches] == [256, 256, 88]
    assert torch.cat([labels for _, labels in batches]).tolist() == dataset.train.labels.tolist()
    scaled = torch.from_numpy(dataset.train.pixels).double() / 255
    wanted = (scaled - dataset.mean[0]) / dataset.std[0]
    torch.testing.assert_close(torch.cat([x for x, _ in batches]).double(), wanted, atol=1e-5, rtol=1e-5)
    # They can be gone through again and again.
    assert len(batches) == len(list(batches)) == 3
    assert [len(labels) for _, labels in Batches.of(dataset.train, dataset, limit=300)] == [256, 44]
