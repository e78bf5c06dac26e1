"""Several workers that train one supernet: the same as one, but for rounding."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from supernets.elastic import ElasticBatchNorm2d
from supernets.errors import TrainError
from supernets.group import Alone
from supernets.layout import LAYOUTS
from supernets.recipes import RECIPES, Phase
from supernets.shared_norm import by_all_images
from supernets.state import fresh_state, identity_of, snapshot
from supernets.step import share_of
from supernets.train import checked_length, steps
from tests.supernets.bars import SETTINGS, bars, space_of
from tests.supernets.crews import Doubles, continued, together, worker

# Recipes that differ in what workers have to agree on: the teacher, the order of channels, picks that go by losses, momenta.
RECIPES_HERE = ["sandwich", "progressive_shrinking", "attentive_best", "dot"]


def begun(space, settings):
    """A training before its first step, as it is handed to workers."""
    state = fresh_state(space, settings)
    return snapshot(state, identity_of(settings, bars(space)))


def settings_of(recipe, **changes):
    # Steps enough for every phase, of 15 images: not the same number for each of two workers.
    epochs = 5 if recipe == "progressive_shrinking" else 2
    return replace(SETTINGS, recipe=recipe, epochs=epochs, batch=15, **changes)


def difference(a, b, part="net."):
    """The largest, of the weights of two checkpoints."""
    names = [name for name in a.tensors if name.startswith(part)]
    assert names
    return max(float((a.tensors[name].double() - b.tensors[name].double()).abs().max()) for name in names)


def normed(norm, x_BCHW, dy_BCHW, group):
    """Output and gradients of one worker's share, and the running statistics after it."""
    norm.running_mean.zero_()
    norm.running_var.fill_(1.0)
    x = share_of(x_BCHW, group).clone().requires_grad_()
    y = by_all_images(group, keep=True)("norm", norm, x)
    gradients = torch.autograd.grad(y, (x, norm.weight, norm.bias), share_of(dy_BCHW, group))
    return y.detach(), *gradients, norm.running_mean.clone(), norm.running_var.clone()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_batch_norm_by_all_images_is_that_of_one_worker_with_all_of_them(workers):
    rng = torch.Generator().manual_seed(0)
    x, dy = (torch.randn(8, 5, 4, 3, generator=rng, dtype=torch.float64) + 100 for _ in range(2))

    def norm():
        made = ElasticBatchNorm2d(7).double()  # two channels more than there are
        with torch.no_grad():
            made.weight.copy_(torch.linspace(0.5, 2.0, 7))
            made.bias.copy_(torch.linspace(-1.0, 1.0, 7))
        return made

    plain, whole = norm(), x.clone().requires_grad_()
    wanted_y = plain(whole, *plain.running(5), batch=True, momentum=0.1)
    wanted = torch.autograd.grad(wanted_y, (whole, plain.weight, plain.bias), dy)
    found = together(workers, lambda group: normed(norm(), x, dy, group))
    for rank, (y, dx, *_, mean, var) in enumerate(found):
        torch.testing.assert_close(y, wanted_y.detach()[rank::workers])
        torch.testing.assert_close(dx, wanted[0][rank::workers], atol=1e-9, rtol=0)
        torch.testing.assert_close(mean, plain.running_mean)
        torch.testing.assert_close(var, plain.running_var)
    for i in (1, 2):  # each worker has what its images add to the gradients of the weights
        torch.testing.assert_close(sum(each[i + 1] for each in found), wanted[i])


def test_batch_norm_by_all_images_takes_activations_of_half_precision():
    x = torch.randn(8, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    half, norm = x.bfloat16().requires_grad_(), ElasticBatchNorm2d(5)
    y = by_all_images(Alone(), keep=False)("norm", norm, half)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), F.batch_norm(x, None, None, training=True), atol=0.03, rtol=0.03)
    y.float().square().sum().backward()
    assert half.grad.dtype == torch.bfloat16
    assert norm.running_mean.eq(0).all(), "the statistics of a teacher stay as they are"


@pytest.mark.parametrize("recipe", RECIPES_HERE)
def test_workers_train_as_one_would_and_pass_a_training_on(monkeypatch, recipe):
    """In 64 bits, since each step multiplies differences of rounding: after 20, in 32 bits, one was 0.06."""
    monkeypatch.setitem(LAYOUTS, SETTINGS.layout, Doubles())
    monkeypatch.setattr("supernets.train.validation_scores", lambda *_: {})
    space, settings = space_of("tiny"), settings_of(recipe)
    dataset, start = bars(space), begun(space, settings)
    one = continued(dataset, settings, start)
    passed_on = start
    for workers, until in ((2, 5), (3, one.notes["step"])):
        passed_on = continued(dataset, replace(settings, workers=workers), passed_on, (until,))
    assert difference(start, one) > 0.01
    assert passed_on.notes["step"] == one.notes["step"]
    assert passed_on.notes["loss"] == pytest.approx(one.notes["loss"], rel=1e-5)
    assert difference(one, passed_on) < 1e-6
    assert difference(one, passed_on, "average.") < 1e-6
    assert len(passed_on.notes["history"]) == 1


def test_as_many_workers_end_with_the_same_weights_after_an_interruption():
    space, settings = space_of("tiny"), settings_of("dot", workers=2)
    dataset = bars(space)
    start = begun(space, settings)
    whole, pieces = continued(dataset, settings, start), start
    for until in (1, 5, 8):
        pieces = continued(dataset, settings, pieces, (until,))
    assert whole.tensors.keys() == pieces.tensors.keys()
    for name, tensor in whole.tensors.items():
        assert torch.equal(tensor, pieces.tensors[name]), name


def test_a_share_of_the_images_is_seen_whoever_has_them(monkeypatch):
    monkeypatch.setitem(LAYOUTS, SETTINGS.layout, Doubles())
    ends = Phase("ends", 1.0, ("largest", "random", "smallest"), label_weight=1.0, images=0.4)
    monkeypatch.setitem(RECIPES, "shares", (ends,))
    space, settings = space_of("tiny"), settings_of("shares")
    dataset, start = bars(space), begun(space, settings)
    one, three = (continued(dataset, replace(settings, workers=n), start, (4,)) for n in (1, 3))
    assert difference(one, three) < 1e-8


def test_a_loss_that_is_no_number_at_one_worker_stops_all(monkeypatch):
    space, settings = space_of("tiny"), settings_of("sandwich", workers=2)
    dataset, start = bars(space), begun(space, settings)
    started = []

    def poisoned(logits, labels, **options):
        loss = cross_entropy(logits, labels, **options)
        started.append(loss)
        return loss * float("nan") if len(started) == 7 else loss

    cross_entropy = F.cross_entropy
    monkeypatch.setattr(F, "cross_entropy", poisoned)

    def error_of(group):
        state = worker(start, settings, group)
        with pytest.raises(TrainError, match=r"^the loss is nan at step \d in sub-network"):
            list(steps(state, dataset, settings))
        return state.step

    first, second = together(2, error_of)
    assert first == second


def test_more_workers_than_images_are_refused():
    space = space_of("tiny")
    with pytest.raises(
        TrainError, match=r"wanted an image for each of 17 train\.workers, but .* see 16 a step; take fewer"
    ):
        checked_length(bars(space), replace(SETTINGS, workers=17))
    assert checked_length(bars(space), replace(SETTINGS, workers=16)) == 12


def test_memory_that_does_not_hold_a_workers_images_is_one_line(monkeypatch):
    space, settings = space_of("tiny"), settings_of("sandwich", workers=2)
    start = begun(space, settings)

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("supernets.step._logits", full)
    with pytest.raises(
        TrainError, match=r"memory does not hold a worker's [78] images of a step; take more train\.workers"
    ):
        continued(bars(space), settings, start)


def test_the_number_of_workers_is_not_what_a_checkpoint_is_of():
    space = space_of("tiny")
    one, four = (identity_of(replace(SETTINGS, workers=workers), bars(space)) for workers in (1, 4))
    assert one == four
