"""Evaluation of one sub-network: recall, calibration and likelihood agree with each other and with accuracy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from search_spaces import FAMILIES
from supernets.calibrate import accuracy
from supernets.errors import SupernetError
from supernets.evaluation import BINS, evaluate, judged
from tests.contracts.supernet_contract import images, random_stats, small_space, stirred


def logits_of(confidence: float, classes: int, chosen: torch.Tensor) -> torch.Tensor:
    """Logits (B, K) that give the chosen classes this probability, and the others equal shares of the rest."""
    rest = math.log((1 - confidence) / (classes - 1))
    return torch.full((len(chosen), classes), rest).scatter(1, chosen[:, None], math.log(confidence))


def answered(confidence: float, right: int, of: int, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """So many images of class 1, of which the first are found and the others taken for class 2, always as sure."""
    chosen = torch.where(torch.arange(of) < right, 1, 2)
    return logits_of(confidence, classes, chosen), torch.ones(of, dtype=torch.long)


def test_a_network_as_right_as_it_is_sure_has_no_calibration_error():
    levels = [(0.5, 50, 100), (0.75, 75, 100), (0.9, 180, 200), (0.99, 99, 100)]
    found = judged(answered(*level) for level in levels)
    assert found.calibration_error == pytest.approx(0.0, abs=1e-6)
    assert found.accuracy == (50 + 75 + 180 + 99) / 500


@pytest.mark.parametrize(("confidence", "right"), [(0.95, 0), (0.95, 40), (0.3, 100), (0.8, 80)])
def test_a_network_of_one_confidence_is_off_by_its_distance_from_the_accuracy(confidence, right):
    found = judged([answered(confidence, right, 100)])
    assert found.calibration_error == pytest.approx(abs(right / 100 - confidence), abs=1e-6)


def test_errors_in_two_bins_do_not_make_up_for_each_other():
    found = judged([answered(0.55, 100, 100), answered(0.95, 50, 100)])
    assert found.calibration_error == pytest.approx((0.45 + 0.45) / 2, abs=1e-6)
    one_bin = judged([answered(0.95, 100, 100), answered(0.96, 91, 100)])
    assert one_bin.calibration_error == pytest.approx(0.0, abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 7), st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 2**16))
def test_the_numbers_agree_with_each_other_and_with_the_definitions(classes, sizes, seed):
    rng = np.random.default_rng(seed)
    logits = [torch.from_numpy(3 * rng.normal(size=(n, classes))).float() for n in sizes]
    labels = [torch.from_numpy(rng.integers(0, classes, n)) for n in sizes]
    found = judged(zip(logits, labels, strict=True))
    whole, y = torch.cat(logits), torch.cat(labels)
    hits = (whole.argmax(1) == y).double()
    weighted = sum(r * n for r, n in zip(found.by_class, found.support, strict=True) if r is not None)
    assert weighted / found.images == pytest.approx(found.accuracy)
    assert found.accuracy == float(hits.mean())
    assert [n == 0 for n in found.support] == [recall is None for recall in found.by_class]
    assert found.nll == pytest.approx(float(F.cross_entropy(whole.double(), y)))
    confidence = whole.double().softmax(1).max(1).values
    total = 0.0
    for m in range(BINS):
        inside = (confidence > m / BINS) & (confidence <= (m + 1) / BINS)
        if inside.any():
            total += float(inside.double().mean() * (hits[inside].mean() - confidence[inside].mean()).abs())
    assert found.calibration_error == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_accuracy_is_that_of_accuracy(family):
    net = stirred(small_space(family))
    arch = net.space.smallest()
    stats = random_stats(net.space, arch, 3)
    batches = [(images(net.space, arch, n, seed=n), torch.arange(n) % 4) for n in (7, 4, 1)]
    found = evaluate(net.train(), arch, stats, batches)
    assert net.training
    assert found.accuracy == accuracy(net, arch, stats, batches)
    assert found.images == 12
    assert len(found.by_class) == len(found.support) == net.space.settings["num_classes"]


def test_no_images_are_refused():
    with pytest.raises(SupernetError, match="wanted images to evaluate on, got none"):
        judged([])
