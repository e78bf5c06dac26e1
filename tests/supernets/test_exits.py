"""Early exits in training: what each strategy trains, and what it leaves alone."""

from dataclasses import replace

import pytest
import torch

from search_spaces.exits import PREFIX
from supernets.augment import Augmentation
from supernets.batches import Batches, calibration_batches
from supernets.calibrate import calibrate, resize, resolution
from supernets.channels import channel_orders, reorder
from supernets.checkpoint import save_supernet
from supernets.errors import SupernetError
from supernets.finetune import finetune
from supernets.layout import LAYOUTS
from supernets.recipes import EXIT_TRAININGS, EXITS_SHARE, RECIPES
from supernets.state import fresh_state, identity_of, snapshot
from supernets.train import train
from tests.contracts.supernet_contract import images, logits, stirred
from tests.supernets.bars import SETTINGS, bars, space_of
from tests.supernets.crews import Doubles, continued

SPACE = space_of("tiny", exits=["s1"], resolutions=[8], depths=[1])
PLAIN = space_of("tiny", resolutions=[8], depths=[1])


def settings_of(exits, recipe="sandwich", **changes):
    return replace(SETTINGS, recipe=recipe, exits=exits, **changes)


def of_heads(tensors):
    return {name: tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}


def of_network(tensors):
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIX)}


def accuracies(net, dataset, arch):
    """Of each exit and of the whole, on the test images."""
    stats = calibrate(net, arch, calibration_batches(dataset, Augmentation(1, mirror=True), 0))
    hits = []
    for x_BCHW, y_B in Batches.of(dataset.test, dataset):
        found = logits(net.eval().all_logits, resize(x_BCHW, resolution(arch)), arch, stats)
        hits.append(torch.stack([(each.argmax(1) == y_B).float() for each in found]))
    return torch.cat(hits, 1).mean(1).tolist()


@pytest.mark.parametrize("exits", ["joint", "disjoint"])
def test_exits_learn_what_is_to_be_seen(exits):
    dataset = bars(SPACE)
    state = train(SPACE, dataset, settings_of(exits, epochs=12))
    for arch in (SPACE.largest(), SPACE.smallest()):
        # Of four classes; an exit that is trained for the last fifth of a second has not seen much.
        assert min(accuracies(state.average, dataset, arch)) > (0.8 if exits == "joint" else 0.4)


def test_exits_that_are_trained_alone_leave_the_network_as_it_was_on_average():
    dataset, settings = bars(SPACE), settings_of("disjoint", epochs=5)
    start = int(20 * (1 - EXITS_SHARE))
    begun = snapshot(fresh_state(SPACE, settings), identity_of(settings, dataset))
    before = continued(dataset, settings, begun, (start,))
    after = continued(dataset, settings, before)
    for part in ("net.", "average."):
        found = of_network(after.part(part))
        assert all(torch.equal(found[name], tensor) for name, tensor in of_network(before.part("average.")).items())
    moved = of_heads(after.part("average."))
    assert all(not torch.equal(moved[name], tensor) for name, tensor in of_heads(before.part("average.")).items()), (
        "every part of an exit is trained, its running statistics too"
    )


def test_strategies_are_other_phases_of_the_same_recipe():
    for name, recipe in RECIPES.items():
        settings = {exits: settings_of(exits, name).recipe_for(SPACE) for exits in EXIT_TRAININGS}
        assert settings_of(None, name).recipe_for(PLAIN) == recipe
        assert settings_of(None, name).recipe_for(SPACE) == settings["joint"]
        for phases in settings.values():
            assert sum(phase.share for phase in phases) == pytest.approx(1.0)
        assert {phase.exits for phase in settings["joint"]} == {"all"}
        for exits, last in (("disjoint", "heads"), ("mixed", "all")):
            *before, final = settings[exits]
            assert {phase.exits for phase in before} == {"none"}
            assert (final.exits, final.share, final.restart) == (last, EXITS_SHARE, True)
            assert [replace(phase, share=1.0) for phase in before] == [replace(phase, share=1.0) for phase in recipe]
    with pytest.raises(SupernetError, match=r"train\.exits must be one of joint, disjoint, mixed, not 'both'"):
        settings_of("both")


@pytest.mark.parametrize("exits", ["joint", "disjoint"])
def test_workers_train_exits_as_one_would(monkeypatch, exits):
    monkeypatch.setitem(LAYOUTS, SETTINGS.layout, Doubles())
    monkeypatch.setattr("supernets.train.validation_scores", lambda *_: {})
    settings = settings_of(exits, batch=15, epochs=2)
    dataset = bars(SPACE)
    begun = snapshot(fresh_state(SPACE, settings), identity_of(settings, dataset))
    one, two = (continued(dataset, replace(settings, workers=n), begun) for n in (1, 2))
    for part in ("net.", "average."):
        found = two.part(part)
        for name, tensor in one.part(part).items():
            torch.testing.assert_close(found[name].double(), tensor.double(), rtol=0, atol=1e-6)


def test_distillations_gradients_are_kept_apart_for_exits_too():
    dataset = bars(SPACE)
    state = train(SPACE, dataset, settings_of("joint", "dot", epochs=2))
    assert all(of_heads(momenta) for momenta in state.momenta().values())


def test_sorting_channels_keeps_what_exits_of_the_largest_network_say():
    net = stirred(SPACE)
    arch = SPACE.largest()
    before = logits(net.all_logits, images(SPACE, arch), arch)
    orders = channel_orders(net)
    assert any(order is not None and not torch.equal(order, order.sort().values) for order, _ in orders.values())
    reorder(net.state_dict(), orders)
    for mine, wanted in zip(logits(net.all_logits, images(SPACE, arch), arch), before, strict=True):
        torch.testing.assert_close(mine, wanted)


def test_a_training_may_start_from_a_network_without_exits(tmp_path):
    path = tmp_path / "start.safetensors"
    weights = stirred(PLAIN)
    save_supernet(path, weights, {})
    state = fresh_state(SPACE, replace(settings_of(None), start=str(path)))
    found = of_network(state.net.state_dict())
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.state_dict().items())


def test_a_network_that_is_trained_alone_keeps_its_exits():
    dataset, settings = bars(SPACE), settings_of("joint", epochs=4)
    net = train(SPACE, dataset, settings).average.eval()
    calibration = calibration_batches(dataset, settings.augment, 0)
    arch = SPACE.smallest()
    tuned = finetune(net, arch, dataset, calibration, settings, epochs=1)
    x_BCHW = images(SPACE, arch)
    said = logits(tuned.module(all_logits=True), x_BCHW)
    assert len(said) == 2
    assert torch.equal(said[-1], logits(tuned.module(), x_BCHW))
    assert "exit.s1.logits" in tuned.folded()
    assert tuned.stats.keys() > {"exit.s1.conv"}
