"""Accuracy on few images: its error, what it says of the ranks, and what goes on to all images."""

import numpy as np
import pytest
import torch

from nas.searching.constraints import parse_constraint
from nas.searching.fidelity import PROMOTED, Fidelity, fidelity, promising, sampling_variance
from nas.searching.guided import Known
from nas.searching.problem import Problem
from nas.searching.quantities import Target
from search_spaces import costs
from supernets.tasks import TASKS
from tests.nas.fakes import FakePredictor, fake_accuracy, small_space
from tests.search_spaces.spaces import all_codes

SPACE = small_space()
EVERYTHING = all_codes(SPACE)


def problem_of(*limits: str) -> Problem:
    target = Target("a", SPACE, 1, {"latency_ms": FakePredictor(SPACE)})
    return Problem(SPACE, (target,), limits=tuple(map(parse_constraint, limits)))


@pytest.mark.parametrize(("total", "images", "hits"), [(1000, 100, 700), (500, 400, 100), (40, 10, 20)])
def test_the_variance_is_that_of_drawing_images_without_replacement(total, images, hits):
    rng = np.random.default_rng(0)
    drawn = rng.hypergeometric(hits, total - hits, images, size=20_000) / images
    found = sampling_variance(np.array([hits / total]), np.array([images]), total)
    np.testing.assert_allclose(found, drawn.var(), rtol=0.05)


@pytest.mark.parametrize(("classes", "share"), [(2, 0.02), (10, 0.3), (40, 0.05)])
def test_an_image_counts_for_as_many_draws_as_it_has_labels_in_a_mean_average_precision(classes, share):
    task, rng, total, images = TASKS["multi_label"], np.random.default_rng(0), 2000, 400
    labels = rng.random((total, classes)) < share
    logits = rng.normal(size=labels.shape) + 3.0 * labels
    kept = task.kept(torch.from_numpy(logits), torch.from_numpy(labels))
    drawn = [task.score(kept[torch.from_numpy(rng.choice(total, images, replace=False))]) for _ in range(100)]
    whole = np.array([task.score(kept)])
    found = sampling_variance(whole, np.array([images]), total, labels.sum() / total)
    assert 0.7 < np.sqrt(found[0]) / np.std(drawn) < 2.0


def test_on_all_images_there_is_no_error_and_on_few_there_always_is_some():
    accuracy = np.array([0.0, 0.5, 1.0])
    assert sampling_variance(accuracy, np.array([50, 50, 80]), 50).tolist() == [0, 0, 0]
    assert sampling_variance(accuracy, np.zeros(3, dtype=int), 0).tolist() == [0, 0, 0]
    assert (sampling_variance(accuracy, np.full(3, 10), 50) > 0).all()


def test_half_of_the_rows_go_on_and_those_that_add_most():
    accuracy = np.array([fake_accuracy(SPACE, arch) for arch in SPACE.decode(EVERYTHING)])
    nothing = Known(EVERYTHING[:0], accuracy[:0], accuracy[:0], np.zeros(0, dtype=bool))
    problem = problem_of()
    chosen = promising(problem, nothing, EVERYTHING, accuracy, np.zeros(len(EVERYTHING)))
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert len(chosen) == np.ceil(PROMOTED * len(EVERYTHING))
    assert set(problem.front(problem.targets[0], EVERYTHING, accuracy)) <= set(chosen)
    # Nothing that is known already goes on before what is new.
    known = Known(EVERYTHING[chosen], accuracy[chosen], np.zeros(len(chosen)), np.ones(len(chosen), dtype=bool))
    better = promising(problem, known, EVERYTHING[:3], np.array([0.1, 1.0, 0.1]), np.zeros(3))
    assert 1 in better


def test_what_misses_the_limits_does_not_go_on():
    macs = costs(SPACE, EVERYTHING, "macs")
    bound = np.quantile(macs, 0.25)
    nothing = Known(EVERYTHING[:0], np.zeros(0), np.zeros(0), np.zeros(0, dtype=bool))
    chosen = promising(
        problem_of(f"macs <= {bound}"), nothing, EVERYTHING, np.full(len(macs), 0.5), np.full(len(macs), 0.01)
    )
    assert set(chosen) == set(np.flatnonzero(macs <= bound))


def test_ranks_are_compared_where_both_are_known():
    pairs = [(0.1, 0.2), (0.2, 0.3), (0.3, 0.25), (0.4, 0.9)]
    found = fidelity(100, 1000, pairs, 8)
    assert found == Fidelity(100, 1000, 4, found.spearman, found.kendall, 0.5)
    assert found.spearman == pytest.approx(0.8)
    assert found.kendall == pytest.approx(4 / 6)


@pytest.mark.parametrize("pairs", [[], [(0.1, 0.2)], [(0.1, 0.2), (0.2, 0.3)], [(0.5, 0.2), (0.5, 0.3), (0.5, 0.4)]])
def test_ranks_that_say_nothing_are_none(pairs):
    found = fidelity(100, 1000, pairs, 10)
    assert (found.spearman, found.kendall, found.n) == (None, None, len(pairs))
    assert fidelity(100, 1000, [], 0).promoted == 0.0
