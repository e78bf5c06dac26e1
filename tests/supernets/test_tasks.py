"""What a task decides: losses of images with any number of labels, their scores, and what two networks agree on."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torch.nn import functional as F

from supernets.average_precision import average_precision
from supernets.datasource import TASK_OF_AXES
from supernets.evaluation import BINS, judged
from supernets.losses import DISTILLATIONS, balanced_pairs, label_loss, label_set_loss
from supernets.recipes import RECIPES
from supernets.scores import CLASS_SCORES, SCORES
from supernets.tasks import TASKS, agreeing, task_of

relaxed = settings(deadline=None, max_examples=40)
MANY = TASKS["multi_label"]


def drawn(seed, images=6, classes=4, spread=2.0):
    """Logits in double precision, and labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, classes, generator=generator, dtype=torch.float64) * spread
    return logits, torch.rand(images, classes, generator=generator) < 0.4


def of_two(logits_BK):
    """The same as a classifier of two classes for each pair of an image and a class."""
    return torch.stack([torch.zeros_like(logits_BK), logits_BK], 2).flatten(0, 1)


def test_every_task_has_names_and_all_that_recipes_ask_for():
    assert set(TASKS) == set(SCORES) == set(CLASS_SCORES) == set(TASK_OF_AXES.values())
    asked = {phase.distillation for recipe in RECIPES.values() for phase in recipe}
    for task in TASKS.values():
        assert set(task.distillations) == set(DISTILLATIONS) >= asked
    assert task_of(torch.zeros(3, dtype=torch.long)) is TASKS["single_label"]
    assert task_of(torch.zeros(3, 2, dtype=torch.bool)) is MANY


# Losses: each class of an image is a choice between two, and counts as such


@relaxed
@given(st.integers(0, 10_000), st.integers(1, 6), st.sampled_from([0.0, 0.1, 0.5]))
def test_the_label_loss_is_that_of_choices_between_two(seed, classes, smoothing):
    logits, labels = drawn(seed, classes=classes)
    wanted = label_loss(of_two(logits), labels.flatten().long(), smoothing, None)
    torch.testing.assert_close(label_set_loss(logits, labels, smoothing, None), math.sqrt(classes) * wanted)


@pytest.mark.parametrize("name", DISTILLATIONS)
@relaxed
@given(seed=st.integers(0, 10_000), spread=st.floats(0.1, 20.0))
def test_distillation_is_that_of_choices_between_two(name, seed, spread):
    """Values and gradients alike."""
    logits, _ = drawn(seed, spread=spread)
    teacher = torch.sigmoid(drawn(seed + 1)[0])
    found, wanted = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    pairs = torch.stack([1 - teacher, teacher], 2).flatten(0, 1)
    ours, theirs = MANY.distillations[name](found, teacher), 2.0 * DISTILLATIONS[name](of_two(wanted), pairs)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, found), torch.autograd.grad(theirs, wanted))


@pytest.mark.parametrize("name", DISTILLATIONS)
def test_distillation_is_finite_however_sure_teacher_and_network_are(name):
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss = MANY.distillations[name](logits, MANY.probabilities(torch.tensor([[-200.0, 200.0]])))
    assert loss.isfinite()
    assert torch.autograd.grad(loss, logits)[0].isfinite().all()


@relaxed
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.1]))
def test_balanced_the_images_that_have_a_class_count_as_much_as_those_that_lack_it(seed, smoothing):
    logits, labels = drawn(seed, images=12)
    weights = balanced_pairs(labels.numpy(), labels.shape[1])
    means = []
    for z, y in zip(logits.T, labels.T, strict=True):
        sides = [
            label_set_loss(z[y == kind][:, None], y[y == kind][:, None], smoothing, None) for kind in (False, True)
        ]
        means.append(torch.stack([side for side in sides if not side.isnan()]).mean())
    wanted = math.sqrt(len(means)) * torch.stack(means).mean()
    torch.testing.assert_close(label_set_loss(logits, labels, smoothing, weights), wanted, rtol=1e-5, atol=1e-6)
    counted = torch.where(labels, weights[1], weights[0])
    torch.testing.assert_close(counted.mean(0), torch.ones(labels.shape[1]))


# Scores


@relaxed
@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=30).filter(
        lambda rows: any(has for _, has in rows)
    )
)
def test_average_precision_is_that_of_scikit_learn_ties_and_all(rows):
    scores, has = (np.array(each) for each in zip(*rows, strict=True))
    both = torch.from_numpy(np.stack([scores, -scores], 1)).float()
    found = average_precision(both, torch.from_numpy(np.stack([has, has], 1)))
    wanted = [average_precision_score(has, scores), average_precision_score(has, -scores)]
    assert found.tolist() == pytest.approx(wanted, abs=1e-12)


@relaxed
@given(st.integers(0, 10_000), st.integers(1, 25))
def test_the_score_is_the_mean_over_the_classes_that_some_image_has(seed, images):
    logits, labels = drawn(seed, images)
    kept = MANY.kept(logits, labels)
    having = labels.any(0)
    found, support = MANY.by_class(kept, labels.shape[1])
    assert found.isnan().tolist() == (~having).tolist()
    assert support.tolist() == labels.sum(0).tolist()
    wanted = average_precision_score(labels[:, having], logits[:, having]) if having.any() else 0.0
    assert MANY.score(kept) == pytest.approx(wanted, abs=1e-12)
    assert 0.0 <= MANY.score(kept) <= 1.0


def test_a_network_that_knows_nothing_scores_how_common_a_class_is():
    _, labels = drawn(0, images=2000)
    assert MANY.score(MANY.kept(torch.zeros(2000, 4), labels)) == pytest.approx(float(labels.double().mean()))


@pytest.mark.parametrize("name", TASKS)
def test_networks_agree_on_images_of_which_they_say_all_the_same(name):
    task = TASKS[name]
    logits, _ = drawn(3, images=9)
    assert agreeing(task, logits, logits) == agreeing(task, logits, 3 * logits) == 9
    other = logits.clone()
    other[2] = -logits[2]
    assert agreeing(task, logits, other) == 8


def test_a_label_set_holds_what_has_a_probability_of_one_half():
    logits = torch.tensor([[0.0, -1e-6], [5.0, 1e-6]])
    assert MANY.decided(logits).tolist() == [[True, False], [True, True]]
    assert agreeing(MANY, logits, logits + torch.tensor([[0.0, 1.0], [1.0, 1.0]])) == 1


# Evaluation


@relaxed
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 2**16))
def test_an_evaluation_agrees_with_the_definitions(sizes, seed):
    logits, labels = drawn(seed, sum(sizes))
    found = judged(zip(logits.split(sizes), labels.split(sizes), strict=True))
    kept = MANY.kept(logits, labels)
    assert found.images == sum(sizes)
    assert found.accuracy == MANY.score(kept)
    assert found.support == tuple(labels.sum(0).tolist())
    assert [each is None for each in found.by_class] == [n == 0 for n in found.support]
    assert found.nll == pytest.approx(float(F.binary_cross_entropy_with_logits(logits, labels.double())))
    p, y, total = logits.sigmoid().flatten(), labels.flatten().double(), 0.0
    for m in range(BINS):
        inside = (p > m / BINS) & (p <= (m + 1) / BINS)
        total += float((y[inside] - p[inside]).sum().abs()) / len(p)
    assert found.calibration_error == pytest.approx(total, abs=1e-9)


def test_probabilities_that_come_true_as_often_as_they_say_have_no_calibration_error():
    labels = torch.zeros(100, 2, dtype=torch.bool)
    labels[:30, 0], labels[:80, 1] = True, True
    logits = torch.logit(torch.tensor([0.3, 0.8], dtype=torch.float64)).expand(100, 2)
    assert judged([(logits, labels)]).calibration_error == pytest.approx(0.0, abs=1e-9)
    assert judged([(-logits, labels)]).calibration_error == pytest.approx((0.4 + 0.6) / 2)
