"""What every Runner keeps: one suite for all of them, on a real evaluator that takes milliseconds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nas.errors import JobError
from nas.searching.evaluator import Evaluator
from nas.searching.runners import Runner
from search_spaces import Arch, SpaceError, define_space
from supernets.augment import Normalisation
from supernets.batches import Batches
from supernets.supernet import Supernet

SPACE = define_space(
    "tiny", in_channels=1, num_classes=3, resolutions=[8], stem=8, channels=[32], strides=[2], expands=[0.5, 1.0]
)
STRANGER = define_space("mobilenet_v3").smallest()


def small_evaluator() -> Evaluator:
    """An untrained supernet with random images."""
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (48, 1, 8, 8), dtype=np.uint8), rng.integers(0, 3, 48)
    validation = Batches(pixels, labels, Normalisation((0.5,), (0.29,)))
    calibration = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return Evaluator(Supernet(SPACE).eval(), SPACE, [calibration], validation)


def some_archs(n: int = 12) -> list[Arch]:
    return SPACE.decode(np.unique(SPACE.sample(np.random.default_rng(0), 100), axis=0))[:n]


def check_runner(runner: Runner) -> None:
    """Every law that the search relies on, for a runner of `small_evaluator()` whose context is entered."""
    check_scores(runner)
    check_batches(runner)
    check_images(runner)
    check_errors(runner)
    check_abandoned(runner)
    # An error before it does not matter.
    check_scores(runner)


def check_scores(runner: Runner) -> None:
    """Every architecture once, with the score that the evaluator gives here, to the last bit."""
    archs, evaluator = some_archs(), small_evaluator()
    found = list(runner.scores(archs))
    assert sorted(arch.id for arch, _ in found) == sorted(arch.id for arch in archs)
    wanted = {arch: evaluator.score(arch).val_accuracy for arch in archs}
    assert {arch: score.val_accuracy for arch, score in found} == wanted
    assert len(set(wanted.values())) > 2, "the scores tell architectures apart"
    assert all(0 < score.seconds < 60 and score.images == 48 for _, score in found)


def check_batches(runner: Runner) -> None:
    """Nothing in, nothing out; the same again, the same again."""
    assert list(runner.scores([])) == []
    one = some_archs(1)
    scores = [next(iter(runner.scores(one)))[1].val_accuracy for _ in range(2)]
    assert scores[0] == scores[1]


def check_images(runner: Runner) -> None:
    """On the first so many images, as if there were no more; on all where more are asked for than there are."""
    archs, whole = some_archs(), small_evaluator()
    for images, read in ((1, 1), (17, 17), (48, 48), (1000, 48)):
        fewer = replace(whole.validation, pixels=whole.validation.pixels[:read], labels=whole.validation.labels[:read])
        wanted = {arch: replace(whole, validation=fewer).score(arch).val_accuracy for arch in archs}
        found = dict(runner.scores(archs, images))
        assert {arch: score.val_accuracy for arch, score in found.items()} == wanted
        assert {score.images for score in found.values()} == {read}
    with pytest.raises(JobError, match="scored on one validation image or more, not on 0"):
        list(runner.scores(archs[:1], 0))


def check_abandoned(runner: Runner) -> None:
    """Scores that nobody waits for do not turn up among those that are asked for next."""
    for found, _ in zip(runner.scores(some_archs(), 17), range(2), strict=False):
        assert found[1].images == 17
    check_scores(runner)


def check_errors(runner: Runner) -> None:
    """An error of the evaluator comes out as it is: of its own kind, saying what it said and no more."""
    with pytest.raises(SpaceError) as caught:
        list(runner.scores([*some_archs(3), STRANGER]))
    assert type(caught.value) is SpaceError
    assert str(caught.value) == f"architecture {STRANGER.id} belongs to space {STRANGER.space_id}, not to {SPACE.id}"
