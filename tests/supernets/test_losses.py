"""Losses on labels and of distillation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from supernets.losses import ALPHAS, CLIP, DISTILLATIONS, alpha_divergence, balanced, label_loss

relaxed = settings(deadline=None, max_examples=60)


def drawn(seed: int, spread: float, images: int = 6, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits in double precision, and a teacher's probabilities."""
    generator = torch.Generator().manual_seed(seed)
    logits, other = torch.randn(2, images, classes, generator=generator, dtype=torch.float64) * spread
    return logits.requires_grad_(), other.softmax(1)


def gradient(loss, logits, teacher):
    (found,) = torch.autograd.grad(loss(logits, teacher), [logits])
    return found


def exact(logits, teacher):
    """The larger of both divergences by their definitions, without clipping."""
    p, q = teacher, logits.softmax(1)
    forward = (p * (p / q).log()).sum(1)
    backward = (q * ((p / q) ** -1 - 1)).sum(1) / (-1 * (-1 - 1))
    return torch.maximum(forward, backward).mean()


@relaxed
@given(st.integers(0, 10_000), st.floats(0.05, 0.35))
def test_where_nothing_is_clipped_value_and_gradient_are_those_of_the_definition(seed, spread):
    logits, teacher = drawn(seed, spread)
    ratio = teacher / logits.detach().softmax(1)
    if float(torch.maximum(ratio, 1 / ratio).max()) < CLIP:
        torch.testing.assert_close(alpha_divergence(logits, teacher), exact(logits, teacher))
        torch.testing.assert_close(gradient(alpha_divergence, logits, teacher), gradient(exact, logits, teacher))


@relaxed
@given(st.integers(0, 10_000), st.floats(0.1, 100.0))
def test_it_is_finite_and_its_gradient_bounded_however_far_apart_both_are(seed, spread):
    logits, teacher = drawn(seed, spread)
    logits, teacher = logits.detach().float().requires_grad_(), teacher.float()
    assert alpha_divergence(logits, teacher).isfinite()
    # Weights of at most q * CLIP a class add up to CLIP, and a softmax's gradient to twice that.
    assert float(gradient(alpha_divergence, logits, teacher).abs().sum(1).max()) * len(logits) <= 2 * CLIP + 1e-4


@pytest.mark.parametrize("name", DISTILLATIONS)
def test_a_sub_network_that_agrees_with_its_teacher_stays(name):
    logits, _ = drawn(1, 2.0)
    found = gradient(DISTILLATIONS[name], logits, logits.detach().softmax(1))
    torch.testing.assert_close(found, torch.zeros_like(found), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", DISTILLATIONS)
def test_a_step_against_the_gradient_comes_nearer_to_the_teacher(name):
    logits, teacher = drawn(2, 1.0)
    moved = logits.detach() - 0.1 * gradient(DISTILLATIONS[name], logits, teacher)
    after, before = (F.kl_div(each.log_softmax(1), teacher, reduction="sum") for each in (moved, logits))
    assert after < before


def test_the_divergence_of_equals_is_zero_and_each_side_is_punished():
    sure, even = torch.tensor([[6.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    assert float(alpha_divergence(sure, sure.softmax(1))) == pytest.approx(0.0, abs=1e-6)
    for logits, teacher in ((sure, even.softmax(1)), (even, sure.softmax(1))):
        kl = float(F.kl_div(logits.log_softmax(1), teacher, reduction="batchmean"))
        assert float(alpha_divergence(logits, teacher)) >= min(kl, CLIP / 2 - 0.5)
    assert ALPHAS == (-1.0, 1.0)


@relaxed
@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(0, 999), st.sampled_from([0.0, 0.1]))
def test_balanced_the_loss_of_all_images_is_the_mean_of_those_of_the_classes(labels, seed, smoothing):
    labels_B = torch.tensor(labels)
    logits_BK, _ = drawn(seed, 3.0, images=len(labels))
    of_classes = [
        label_loss(logits_BK[labels_B == k], labels_B[labels_B == k], smoothing, None) for k in sorted(set(labels))
    ]
    found = label_loss(logits_BK, labels_B, smoothing, balanced(np.array(labels), 5))
    torch.testing.assert_close(found.double(), torch.stack(of_classes).mean(), rtol=1e-5, atol=1e-6)


def test_equally_many_images_of_each_class_count_one():
    assert balanced(np.array([0, 1, 2, 0, 1, 2]), 3).tolist() == [1.0, 1.0, 1.0]
