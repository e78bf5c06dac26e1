"""Networks in integers: what torch computes in floats is what ONNX Runtime computes in integers, and it can be trained."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from sklearn.datasets import load_digits

from latency_tables.graphs.graph import build_model
from latency_tables.graphs.ranges import observed_ranges
from search_spaces import FAMILIES, network
from supernets.calibrate import calibrate, resize, resolution
from supernets.errors import SupernetError
from supernets.extract import alone, extract, fold
from supernets.fake_quant import LEVELS, FakeQuantisation
from tests.contracts.supernet_contract import archs_of, images, logits, run_onnx, small_space, stirred

IMAGES = 128


def digits(space, size: int) -> torch.Tensor:
    """Handwritten digits (IMAGES, C, size, size), normalised."""
    pixels = torch.from_numpy(load_digits().images[:IMAGES]).float()[:, None]
    sized = resize((pixels - pixels.mean()) / pixels.std(), size)
    return sized.expand(-1, space.settings["in_channels"], -1, -1).contiguous()


def in_integers(net, arch, x_BCHW):
    """The architecture alone, and its quantisation for these images."""
    own = alone(net, arch, calibrate(net, arch, [x_BCHW]))
    same = own.space.largest()
    layers = network(own.space, same)
    ranges = observed_ranges(layers, fold(own, same), [x_BCHW.numpy()])
    return own, same, FakeQuantisation(ranges)


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_floats_that_are_rounded_compute_what_integers_compute(family, every):
    """Sums in floats round otherwise than sums of integers, and what lies between two integers may go to either: logits differ
    by a few of their steps, as they do between ONNX Runtime with and without its fused operations; floats are 5-110 steps off.
    All stages are in integers, or of two the second.
    """
    net = stirred(small_space(family))
    arch = archs_of(net.space, 1, seed=3)[-1]
    x = digits(net.space, resolution(arch))
    own, same, fake = in_integers(net, arch, x)
    layers = network(own.space, same)
    stages = list(dict.fromkeys(layer.name.partition(".")[0] for layer in layers))
    names = {layer.name for layer in layers if layer.name.partition(".")[0] in stages[::-1][::every]}
    found = logits(replace(fake, quantised=lambda layer: layer.name in names), own, x, same)
    mixed = [replace(layer, precision="int8" if layer.name in names else "fp32") for layer in layers]
    wanted = run_onnx(build_model(mixed, fold(own, same), batch=None, ranges=fake.ranges), x)
    low, high = fake.ranges[layers[-1].name]
    off = (found - wanted).abs() * LEVELS / (max(high, 0.0) - min(low, 0.0))
    assert off.mean() < 0.5
    assert off.max() < 20
    agree = found.argmax(1) == wanted.argmax(1)
    assert agree.float().mean() > 0.95
    best, second = wanted.topk(2, 1).values.T
    assert agree[(best - second) * LEVELS > 10 * (high - low)].all()


def test_a_network_that_stays_in_floats_computes_what_it_computed():
    net = stirred(small_space("hybrid"))
    arch = net.space.largest()
    x = images(net.space, arch)
    own = alone(net, arch)
    found = logits(FakeQuantisation({}, lambda layer: False), own, x, own.space.largest())
    torch.testing.assert_close(found, logits(net, x, arch), rtol=1e-4, atol=1e-4)


def test_layers_that_are_not_quantised_read_and_write_floats():
    """A network whose classifier alone is of integers, against a plain module and arithmetic by hand."""
    net = stirred(small_space("tiny"))
    arch = net.space.largest()
    x = images(net.space, arch, batch=8)
    own, same, whole = in_integers(net, arch, x)
    pool, head = network(own.space, same)[-2:]
    read = []
    exact = extract(own, same)
    exact.get_submodule(head.name).register_forward_hook(lambda module, inputs, output: read.append(inputs[0]))
    logits(exact, x)
    read_BI, step = rounded(read[0], *whole.ranges[pool.name])
    weight, bias = (tensor.detach() for tensor in own.weights(head))
    scale = weight.abs().amax(1) / 127
    whole_weight = torch.round(weight / scale[:, None]) * scale[:, None]
    whole_bias = torch.round(bias / (scale * step)) * scale * step
    wanted, step = rounded(read_BI @ whole_weight.T + whole_bias, *whole.ranges[head.name])
    found = logits(FakeQuantisation(whole.ranges, lambda layer: layer.op == "linear"), own, x, same)
    # What lies between two integers may go to either.
    assert (found - wanted).abs().max() < 1.01 * step
    assert (found - wanted).abs().mean() < 0.05 * step


def test_a_layer_in_floats_reads_floats_also_where_another_reads_them_rounded():
    """The shortcut of a block whose first convolution alone is of integers."""
    net = stirred(small_space("tiny"))
    arch = net.space.largest()
    x = images(net.space, arch, batch=8)
    own, same, whole = in_integers(net, arch, x)
    first = next(layer for layer in network(own.space, same) if layer.name == "s1.b1.conv1")
    # Of so coarse a range nothing is left, nor of a bias in its steps: the convolution puts out zeros.
    coarse = FakeQuantisation({**whole.ranges, first.inputs[0]: (0.0, 1e9)}, lambda layer: layer == first)
    with torch.no_grad():
        found = coarse(own, x, same)
        own.norm(first).weight.zero_()
        own.norm(first).bias.zero_()
    torch.testing.assert_close(found, logits(own, x, same), rtol=1e-3, atol=1e-3)


def rounded(x: torch.Tensor, low: float, high: float) -> tuple[torch.Tensor, float]:
    """To 256 levels from low to high, zero being one of them; and the step between two."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / LEVELS
    zero = round(-low / step)
    return (torch.clamp(torch.round(x / step) + zero, 0, LEVELS) - zero) * step, step


def test_a_convolution_is_rounded_once_with_the_clip_that_alone_reads_it():
    """Where a clip stays in floats, or another layer reads as well, the convolution is rounded by itself."""
    net = stirred(small_space("tiny"))
    arch = net.space.largest()
    x = images(net.space, arch, batch=8)
    own, same, fake = in_integers(net, arch, x)
    layers = network(own.space, same)
    clipped = {before.name for before, layer in pairwise(layers) if layer.op == "relu" and before.op == "conv"}
    assert clipped
    # Nobody asks for the range of what is never rounded.
    without = {name: ends for name, ends in fake.ranges.items() if name not in clipped}
    assert torch.equal(logits(FakeQuantisation(without), own, x, same), logits(fake, own, x, same))
    with pytest.raises(SupernetError, match=r"no range is given for the activations of layer 'stem\.conv'"):
        logits(FakeQuantisation(without, lambda layer: layer.op != "relu"), own, x, same)


@pytest.mark.parametrize("bounds", [(1.0, -1.0), (0.0, float("nan")), (float("-inf"), 0.0)])
def test_a_range_that_is_none_is_refused(bounds):
    with pytest.raises(
        SupernetError, match="the range of layer 'only' must be two numbers, the smaller one first, not"
    ):
        FakeQuantisation({"only": bounds})


def test_gradients_pass_what_is_rounded_but_not_what_is_cut_off():
    """Of weights and norms they are those of the same network in floats, on images that no range cuts off."""
    net = stirred(small_space("tiny"))
    arch = net.space.smallest()
    x = images(net.space, arch, batch=8)
    own, same, fake = in_integers(net, arch, x)
    wide = FakeQuantisation({name: (2 * low - 1.0, 2 * high + 1.0) for name, (low, high) in fake.ranges.items()})
    inside, floats = gradients(wide, own, x, same), gradients(FakeQuantisation({}, lambda layer: False), own, x, same)
    assert inside.keys() == floats.keys()
    assert {name.rpartition(".")[2] for name in inside} == {"weight", "bias"}
    for name, gradient in inside.items():
        # Not the same: each layer reads what those before it rounded.
        assert torch.cosine_similarity(gradient.flatten(), floats[name].flatten(), 0) > 0.95, name
    # All logits lie above their range.
    none = FakeQuantisation({**wide.ranges, "head.classifier": (-1e6, -1e5)}), own, x, same
    assert not any(gradient.any() for gradient in gradients(*none).values())


def gradients(fake, own, x_BCHW, arch) -> dict[str, torch.Tensor]:
    """Of the sum of squared logits, by parameter."""
    own.zero_grad()
    fake(own, x_BCHW, arch).square().sum().backward()
    return {name: parameter.grad.clone() for name, parameter in own.named_parameters() if parameter.grad is not None}
