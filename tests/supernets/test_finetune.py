"""One architecture trained alone: what it starts and learns from, that it is never worse, and going on after a kill."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from latency_tables.graphs.graph import build_model
from latency_tables.graphs.ranges import observed_ranges
from search_spaces import FAMILIES, network
from supernets import checkpoint
from supernets import step as step_module
from supernets.augment import Normalisation
from supernets.batches import Batches, calibration_batches, training_batch
from supernets.calibrate import accuracy, calibrate, resize, resolution
from supernets.errors import TrainError
from supernets.extract import alone, extract, fold
from supernets.fake_quant import FakeQuantisation
from supernets.finetune import PHASE, RATE, WARMUP, finetune
from supernets.recipes import schedule
from supernets.supernet import Supernet
from tests.contracts.supernet_contract import archs_of, images, logits, random_stats, run_onnx, small_space, stirred
from tests.supernets.bars import SETTINGS, Outage, bars, interrupt, same, space_of
from tests.supernets.mosaics import DIGITS, mosaic_dataset

# A tenth of this rate teaches networks that know nothing in a few epochs of 64 images.
QUICK = replace(SETTINGS, learning_rate=1.0, ema_decay=0.5)


def tuned(net, arch, dataset, settings=QUICK, **options):
    calibration = calibration_batches(dataset, settings.augment, settings.seed, batches=1)
    return finetune(net, arch, dataset, calibration, settings, **{"epochs": 2} | options)


def quantisation(net, arch, dataset):
    """Of an architecture as it is, for the images that it is calibrated on."""
    x = calibration_batches(dataset, SETTINGS.augment, 0, batches=1)[0]
    layers, sized = network(net.space, arch), resize(x, resolution(arch)).contiguous()
    return FakeQuantisation(observed_ranges(layers, fold(net, arch, calibrate(net, arch, [x])), [sized.numpy()]))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_alone_computes_to_the_bit_what_it_computed_among_others(family):
    net = stirred(small_space(family))
    for arch in archs_of(net.space, 2, seed=6):
        for stats in (None, random_stats(net.space, arch, 1)):
            own = alone(net, arch, stats)
            x = images(net.space, arch)
            assert torch.equal(logits(own, x, own.space.largest()), logits(net, x, arch, stats))
            assert own.space.size == 1
            before, after = fold(net, arch, stats), fold(own, own.space.largest())
            assert list(before) == list(after)
            for name, pair in before.items():
                for a, b in zip(pair, after[name], strict=True):
                    assert (a is None and b is None) or (a == b).all()


@pytest.mark.parametrize(
    ("family", "integers"), [*((family, True) for family in FAMILIES), ("tiny", False), ("mobilenet_v3", False)]
)
def test_every_family_learns_and_the_best_epoch_comes_back(family, integers):
    space = space_of(family)
    dataset, net, arch = bars(space), Supernet(space, 1), space.smallest()
    before = copy.deepcopy(net.state_dict())
    wanted = quantisation(net, arch, dataset) if integers else None
    found = tuned(net, arch, dataset, epochs=3, quantisation=wanted)
    scores = [row["score"] for row in found.history]
    assert [row["epoch"] for row in found.history] == [0, 1, 2, 3]
    assert found.after > found.before or found.history[3]["loss"] < found.history[1]["loss"]
    assert (found.before, found.after) == (scores[0], max(scores))
    assert scores.index(found.after) == found.epoch
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_what_comes_back_is_what_was_scored_in_floats():
    space = space_of("tiny")
    dataset = bars(space)
    found = tuned(Supernet(space, 1), space.largest(), dataset, epochs=3)
    assert found.epoch > 0
    batches = Batches.of(dataset.validation, dataset)
    assert accuracy(found.net, found.net.space.largest(), None, batches) == found.after
    x = images(space, found.arch)
    assert torch.equal(logits(found.module(), x), logits(found.net, x, found.net.space.largest(), found.stats))
    # The layers are those of the architecture in its own space, so its graph takes these weights.
    model = build_model(network(space, found.arch), found.folded(), batch=None)
    torch.testing.assert_close(run_onnx(model, x), logits(found.module(), x), rtol=1e-4, atol=1e-4)


def test_a_start_is_where_it_goes_on():
    space = space_of("tiny")
    dataset, net, arch = bars(space), Supernet(space, 1), space.smallest()
    first = tuned(net, arch, dataset, epochs=3)
    again = tuned(net, arch, dataset, epochs=1, start=first)
    assert again.before == first.after
    with pytest.raises(TrainError, match=f"wanted a start of architecture {space.largest().id}, not of {arch.id}"):
        tuned(net, space.largest(), dataset, start=first)


def test_a_network_of_its_own_may_be_taught_by_another_supernet():
    space = space_of("tiny")
    dataset, net, arch = bars(space), stirred(space), space.smallest()
    own = alone(net, arch)
    found = tuned(own, own.space.largest(), dataset, epochs=1, teacher=net)
    assert same(found.net, tuned(net, arch, dataset, epochs=1).net)
    assert not same(found.net, tuned(own, own.space.largest(), dataset, epochs=1).net)


def test_a_fine_tuning_that_makes_it_worse_gives_back_what_came():
    space = space_of("tiny")
    dataset = bars(space)
    first = tuned(Supernet(space, 1), space.largest(), dataset, epochs=3)
    worse = replace(QUICK, learning_rate=100.0, optimiser="sgd", weight_decay=0.0)
    found = tuned(Supernet(space, 1), space.largest(), dataset, worse, epochs=1, start=first)
    assert found.history[1]["score"] < found.before == found.after
    assert found.epoch == 0
    assert same(found.net, first.net)


def test_a_step_learns_from_labels_and_from_the_largest_network_as_it_is_deployed(tmp_path):
    """Against a step by hand, of plain modules and torch's own optimiser."""
    space = space_of("tiny")
    dataset, net, arch = bars(space), stirred(space), space.smallest()
    settings = replace(QUICK, batch=64, optimiser="sgd", momentum=0.0, weight_decay=0.0, label_smoothing=0.1)
    calibration = calibration_batches(dataset, settings.augment, settings.seed, batches=1)
    teacher = extract(net, space.largest(), calibrate(net, space.largest(), calibration))
    student = extract(net, arch).train()
    pixels, labels = training_batch(dataset, settings.augment, 64, 0, settings.seed)
    x = Normalisation(dataset.mean, dataset.std)(pixels)
    target = logits(teacher, resize(x, resolution(space.largest()))).softmax(1)
    answer = student(resize(x, resolution(arch)))
    loss = F.cross_entropy(answer, labels, label_smoothing=0.1) + F.cross_entropy(answer, target)
    loss.backward()
    rate = RATE * settings.learning_rate * schedule((PHASE,), 1, WARMUP)[0].learning_rate
    path = tmp_path / "tuned.safetensors"
    tuned(net, arch, dataset, settings, epochs=1, path=path)
    after = checkpoint.read(path).part(checkpoint.WEIGHTS)
    moved = 0
    for name, parameter in student.named_parameters():
        torch.testing.assert_close(after[name], parameter - rate * parameter.grad, rtol=1e-4, atol=1e-5)
        moved += int(not torch.equal(after[name], parameter))
    assert moved > 10


@pytest.mark.parametrize("integers", [False, True], ids=["floats", "integers"])
def test_images_with_any_number_of_labels_are_learnt(integers):
    dataset = mosaic_dataset(120)
    space = small_space("tiny", num_classes=DIGITS)
    net, arch = Supernet(space, 1), space.smallest()
    wanted = quantisation(net, arch, dataset) if integers else None
    found = tuned(net, arch, dataset, replace(QUICK, learning_rate=4.0), quantisation=wanted)
    assert found.after > found.before + 0.02


@pytest.mark.parametrize(("integers", "optimiser"), [(False, "muon"), (True, "sgd")])
def test_a_fine_tuning_that_is_interrupted_ends_with_the_same_weights(tmp_path, integers, optimiser):
    space = space_of("tiny")
    dataset, net, arch = bars(space), stirred(space), space.largest()
    settings = replace(QUICK, optimiser=optimiser)
    fake = quantisation(net, arch, dataset) if integers else None
    whole = tuned(net, arch, dataset, settings, epochs=3, quantisation=fake)
    path, stops = tmp_path / "tuned.safetensors", [2, 5, 9]  # an epoch has 4 steps

    def stop(done, total, text):
        if stops and done == stops[0]:
            del stops[0]
            raise Outage

    while True:
        try:
            pieces = tuned(net, arch, dataset, settings, epochs=3, quantisation=fake, path=path, progress=stop)
            break
        except Outage:
            pass
    assert not stops
    assert same(pieces.net, whole.net)
    assert [{**row, "seconds": 0} for row in pieces.history] == [{**row, "seconds": 0} for row in whole.history]
    # What is finished is not trained further.
    assert same(
        tuned(net, arch, dataset, settings, epochs=3, quantisation=fake, path=path, progress=interrupt).net, whole.net
    )


def test_a_checkpoint_of_another_fine_tuning_is_refused(tmp_path):
    space = space_of("tiny")
    dataset, net, arch, path = bars(space), stirred(space), space.smallest(), tmp_path / "tuned.safetensors"
    fake = quantisation(net, arch, dataset)
    other = FakeQuantisation({name: (low, 2 * high) for name, (low, high) in fake.ranges.items()})
    floats = FakeQuantisation(fake.ranges, lambda layer: layer.op != "linear")
    tuned(net, arch, dataset, epochs=1, path=path, quantisation=fake)
    for options in ({}, {"quantisation": other}, {"quantisation": floats}, {"quantisation": fake, "epochs": 2}):
        with pytest.raises(TrainError, match=r"tuned\.safetensors: was trained with other settings or data"):
            tuned(net, arch, dataset, **{"epochs": 1, "path": path} | options)
    with pytest.raises(TrainError, match=r"tuned\.safetensors: was trained with other settings or data"):
        tuned(stirred(space, 2), arch, dataset, epochs=1, path=path, quantisation=fake)


def test_a_loss_that_is_no_number_stops_with_one_line_and_keeps_the_epochs_before(tmp_path, monkeypatch):
    space = space_of("tiny")
    dataset, net, arch, path = bars(space), stirred(space), space.smallest(), tmp_path / "tuned.safetensors"
    update = step_module._update_average

    def poison(state, decay):
        update(state, decay)
        if state.step == 5:
            with torch.no_grad():
                state.net.get_submodule("head.classifier").bias.fill_(float("nan"))

    monkeypatch.setattr(step_module, "_update_average", poison)
    with pytest.raises(
        TrainError, match=rf"fine-tuning of {arch.id}: the loss is nan at step 6 .*; lower train\.learning_rate"
    ):
        tuned(net, arch, dataset, epochs=3, path=path)
    assert checkpoint.read(path).notes["step"] == 4
    monkeypatch.undo()
    found = tuned(net, arch, dataset, epochs=3, path=path)
    assert same(found.net, tuned(net, arch, dataset, epochs=3).net)


def test_progress_says_how_it_goes():
    space = space_of("tiny")
    seen = []
    tuned(Supernet(space, 1), space.smallest(), bars(space), progress=lambda *said: seen.append(said))
    assert [said[:2] for said in seen] == [(done, 8) for done in range(1, 9)]
    assert "validation" in seen[-1][2]
