"""Memory formats and number types of training."""

import copy
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from search_spaces import FAMILIES
from supernets import layout as layout_module
from supernets import settings
from supernets.errors import TrainError
from supernets.layout import LAYOUTS, device_of, fastest_layout, layout_named, layouts_on
from tests.contracts.supernet_contract import images, logits, small_space, stirred

HERE = layouts_on(torch.device("cpu"))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_choosing_a_layout_leaves_the_net_as_it_was(family, training):
    net = stirred(small_space(family)).train(training)
    before = copy.deepcopy(net.state_dict())
    strides = [parameter.stride() for parameter in net.parameters()]
    assert fastest_layout(net, batch=4, repeats=1) in HERE
    assert net.training == training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert [parameter.stride() for parameter in net.parameters()] == strides
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("winner", HERE)
def test_the_layout_that_takes_the_least_time_is_chosen(monkeypatch, winner):
    now, passes = 0.0, Counter()

    def pass_at_its_price(net, layout, x_BCHW):
        # The winner's set-up is dearest, which must not count against it.
        nonlocal now
        first = passes[layout] == 0
        now += (9.0 if first else 1.0) if layout == LAYOUTS[winner] else 2.0
        passes[layout] += 1

    monkeypatch.setattr(layout_module, "_one_pass", pass_at_its_price)
    monkeypatch.setattr(layout_module, "time", SimpleNamespace(perf_counter=lambda: now))
    assert fastest_layout(stirred(small_space("tiny")), batch=4) == winner
    assert set(passes) == set(HERE.values())


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_layout_computes_the_same_function(family, name):
    net = stirred(small_space(family))
    arch = net.space.largest()
    x = images(net.space, arch)
    wanted = logits(net, x, arch)
    layout = LAYOUTS[name]
    held = layout.hold(copy.deepcopy(net))
    with layout.autocast():
        found = logits(held, layout.place(x), arch)
    assert found.dtype == (layout.dtype)
    # bf16 keeps 8 bits of a number.
    tolerance = 0.1 if layout.reduced else 1e-5
    assert float((found.float() - wanted).abs().max()) <= tolerance * float(wanted.abs().max())
    assert all(parameter.dtype == torch.float32 for parameter in held.parameters())


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_places_images_and_weights(name):
    layout = LAYOUTS[name]
    wanted = torch.channels_last if layout.channels_last else torch.contiguous_format
    assert layout.memory_format == wanted
    x = torch.rand(2, 3, 4, 5)
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        assert layout.place(given).is_contiguous(memory_format=wanted)
        assert torch.equal(layout.place(given), x)
    held = layout.hold(stirred(small_space("tiny")))
    assert all(p.is_contiguous(memory_format=wanted) for p in held.parameters() if p.dim() == 4)


def test_layouts_are_all_different():
    assert len(set(LAYOUTS.values())) == len(LAYOUTS)


def test_the_settings_know_the_layouts_by_name():
    assert tuple(LAYOUTS) == settings.LAYOUTS


def test_fp16_is_for_gpus():
    net = stirred(small_space("tiny"))
    assert "fp16_channels_last" not in HERE
    assert set(layouts_on(torch.device("cuda"))) == set(LAYOUTS)
    with pytest.raises(TrainError, match="fp16_channels_last needs a GPU; on this cpu set auto or fp32, fp32_channels"):
        layout_named("fp16_channels_last", net, 4)
    assert layout_named("fp32", net, 4) == "fp32"


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("auto") == device_of("cpu") == torch.device("cpu")
    with pytest.raises(TrainError, match="torch finds no GPU here; set auto or cpu"):
        device_of("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of("auto") == device_of("cuda") == torch.device("cuda")
    assert device_of("cpu") == torch.device("cpu")
