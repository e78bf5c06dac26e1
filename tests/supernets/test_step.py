"""One step: whose gradients count how much, what learns from which images, and batches that do not fit."""

from dataclasses import replace

import pytest
import torch

from search_spaces import FAMILIES
from supernets import step as step_module
from supernets.errors import SupernetError, TrainError
from supernets.group import Alone
from supernets.layout import LAYOUTS
from supernets.recipes import RECIPES, Moment, Phase
from supernets.state import fresh_state
from supernets.supernet import Supernet
from supernets.train import train
from tests.supernets.bars import SETTINGS, bars, judged, space_of

PLAIN = Phase("all", 1.0, ("largest", "random", "smallest"), label_weight=1.0)


def trained(monkeypatch, *recipe: Phase):
    """For three steps, all by momentum: rounding grows at each."""
    monkeypatch.setitem(RECIPES, "tried", recipe)
    space = space_of("tiny")
    return train(space, bars(space, 48), replace(SETTINGS, recipe="tried", epochs=1, optimiser="sgd"))


def weights_close(a: Supernet, b: Supernet, atol: float) -> None:
    for (name, one), other in zip(a.named_parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=atol, rtol=0, msg=name)


def gradients_of(phase: Phase, x_BCHW, y_B, *, parts: int = 1, weight: float = 1.0) -> dict[str, torch.Tensor]:
    """By parameter, of one step over a fresh net."""
    state = fresh_state(space_of("tiny"), SETTINGS)
    state.parts = parts
    space, moment = state.net.space, Moment(phase, True, 1.0, weight)
    archs = [space.largest() if pick == "largest" else space.smallest() for pick in phase.subnets]
    step_module._gradients(state, moment, archs, x_BCHW, y_B, SETTINGS, None)
    return {name: p.grad for name, p in state.net.named_parameters() if p.grad is not None}


def batch(count: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    space = space_of("tiny")
    size = space.settings["resolutions"][-1]
    x = torch.randn(count, space.settings["in_channels"], size, size, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(count) % 4


def test_sub_networks_of_no_weight_change_nothing(monkeypatch):
    alone = trained(monkeypatch, Phase("all", 1.0, ("largest",), teacher="none"))
    beside = trained(monkeypatch, replace(PLAIN, weight=(0.0, 0.0)))
    weights_close(alone.net, beside.net, 0.0)


def test_the_weight_multiplies_the_gradients_of_all_but_the_largest():
    x, y = batch()
    ends = Phase("ends", 1.0, ("largest", "smallest"), teacher="none")
    none, half, full = (gradients_of(ends, x, y, weight=weight) for weight in (0.0, 0.5, 1.0))
    for name, gradient in half.items():
        torch.testing.assert_close(gradient, (none[name] + full[name]) / 2, atol=1e-6, rtol=1e-4)
    assert any(not torch.equal(none[name], full[name]) for name in full)


def test_a_batch_in_parts_has_the_gradients_of_the_whole():
    # Both halves are the same images, and so are their statistics.
    x, y = batch()
    x, y = torch.cat([x, x]), torch.cat([y, y])
    whole, parts = (gradients_of(PLAIN, x, y, parts=parts) for parts in (1, 2))
    assert whole.keys() == parts.keys()
    for name, gradient in whole.items():
        scale = float(gradient.abs().max()) + 1e-3
        assert float((gradient - parts[name]).abs().max()) <= 1e-3 * scale, name


def test_a_share_of_the_images_is_each_sub_networks_own():
    own = [step_module._own_images(turn, 10, 0.3, Alone()) for turn in range(5)]
    assert own == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 0, 1], [2, 3, 4]]
    assert step_module._own_images(3, 10, 1.0, Alone()) == slice(None)
    assert len(step_module._own_images(0, 10, 0.01, Alone())) == 2


def test_sub_networks_learn_from_their_share_of_the_images(monkeypatch):
    ends = Phase("ends", 1.0, ("largest", "smallest"), label_weight=1.0, images=0.25)
    (x, y), seen, resize = batch(), [], step_module.resize
    monkeypatch.setattr(step_module, "resize", lambda x_BCHW, size: seen.append(x_BCHW) or resize(x_BCHW, size))
    gradients_of(ends, x, y)
    assert [len(each) for each in seen] == [8, 2]
    assert torch.equal(seen[1], x[2:4])


def test_momenta_kept_apart_without_a_gap_are_those_together(monkeypatch):
    # The second phase has no step, but makes the recipe keep momenta apart.
    apart = (replace(PLAIN, share=0.99), replace(PLAIN, name="gap", share=0.01, momentum_gap=0.05))
    one, two = trained(monkeypatch, PLAIN), trained(monkeypatch, *apart)
    assert one.distilling is None
    assert two.distilling is not None
    weights_close(one.net, two.net, 1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_is_moved_by_one_optimiser_and_by_muon_where_it_mixes_channels(family):
    state = fresh_state(space_of(family), SETTINGS)
    moved = [
        parameter for each in state.optimisers.values() for group in each.param_groups for parameter in group["params"]
    ]
    assert sorted(map(id, moved)) == sorted(map(id, state.net.parameters()))
    by_muon = {id(parameter) for group in state.muon.param_groups for parameter in group["params"]}
    for name, parameter in state.net.named_parameters():
        depthwise = parameter.dim() == 4 and parameter.shape[1] == 1
        assert (id(parameter) in by_muon) == (parameter.dim() == 4 and not depthwise), name
    assert fresh_state(space_of(family), replace(SETTINGS, optimiser="sgd")).muon is None


def test_recipes_that_keep_momenta_apart_are_trained_by_momentum_alone():
    assert fresh_state(space_of("tiny"), replace(SETTINGS, recipe="dot")).muon is None
    with pytest.raises(SupernetError, match=r"recipe dot keeps momenta apart.*set train\.optimiser to sgd or auto"):
        replace(SETTINGS, recipe="dot", optimiser="muon")
    with pytest.raises(SupernetError, match=r"train\.optimiser must be one of auto, muon, sgd, not 'adam'"):
        replace(SETTINGS, optimiser="adam")


def test_a_gap_gives_distillation_more_momentum_and_labels_less(monkeypatch):
    state = trained(monkeypatch, replace(PLAIN, momentum_gap=0.05))
    assert state.optimiser.param_groups[0]["momentum"] == pytest.approx(0.85)
    assert state.distilling.param_groups[0]["momentum"] == pytest.approx(0.95)
    assert all(group["weight_decay"] == 0 for group in state.distilling.param_groups)
    assert state.momenta()["distilled_momentum."].keys() == state.momenta()["momentum."].keys()


def out_of_memory_above(monkeypatch, most: int) -> None:
    forward = Supernet.forward

    def limited(self, x_BCHW, arch, stats=None):
        if self.training and len(x_BCHW) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, x_BCHW, arch, stats)

    monkeypatch.setattr(Supernet, "forward", limited)


@pytest.mark.parametrize("recipe", ["sandwich", "dot"])
def test_a_batch_that_does_not_fit_is_cut_in_parts(monkeypatch, recipe):
    out_of_memory_above(monkeypatch, 5)
    space, said = space_of("tiny"), []
    settings = replace(SETTINGS, recipe=recipe, epochs=2)
    state = train(space, bars(space), settings, progress=lambda done, total, text: said.append(text))
    assert (state.step, state.parts) == (8, 4)
    assert said[0].endswith("(batches in 4 parts, since the GPU's memory holds no whole one)")


def test_what_a_batch_had_added_before_it_did_not_fit_is_let_go_of(monkeypatch):
    def one_step(parts: int) -> Supernet:
        state = fresh_state(space_of("tiny"), SETTINGS)
        state.parts = parts
        step_module.train_step(state, Moment(PLAIN, True, 1.0, 1.0), *batch(), SETTINGS)
        assert state.parts == 2
        return state.net

    wanted, forward, calls = one_step(2), Supernet.forward, []

    def fails_once(self, x_BCHW, arch, stats=None):
        calls.append(len(x_BCHW))
        if len(calls) == 2:  # when the gradients of the largest are there
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, x_BCHW, arch, stats)

    monkeypatch.setattr(Supernet, "forward", fails_once)
    weights_close(one_step(1), wanted, 0.0)


def test_memory_that_holds_no_step_is_one_line(monkeypatch):
    out_of_memory_above(monkeypatch, 1)
    space = space_of("tiny")
    with pytest.raises(TrainError, match="the GPU's memory holds no step of 2 images; take a smaller space"):
        train(space, bars(space), SETTINGS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_trains_on_a_gpu_in_every_layout(tmp_path, recipe, layout):
    space = space_of("tiny")
    settings = replace(SETTINGS, recipe=recipe, layout=layout, device="cuda", epochs=12, batch=32, learning_rate=0.1)
    path = tmp_path / "train.safetensors"
    state = train(space, bars(space, 128), settings, path=path)
    assert state.average.device.type == "cpu"
    assert judged(state, bars(space, 128), space.largest()) > 0.7
    assert train(space, bars(space, 128), settings, path=path).step == state.step
