"""What every family's supernet keeps, whatever it builds: one suite for all of them, and small nets to try it on."""

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from latency_tables.graphs.exits import outputs_model
from latency_tables.graphs.graph import build_model, profiling_model
from search_spaces import Arch, Layer, Space, arch_cost, define_space, exits, network, with_exits
from supernets.calibrate import calibrate, resize, resolution
from supernets.extract import extract, fold
from supernets.supernet import Stats, Supernet

# The nets are too small to share out; on a loaded machine a second thread only waits.
torch.set_num_threads(1)

SMALL = {
    "tiny": {
        "resolutions": [8, 12],
        "in_channels": 1,
        "stem": 8,
        "channels": [32, 40],
        "strides": [1, 2],
        "widths": [0.5, 1.0],
        "depths": [1, 2],
        "expands": [0.5, 1.0],
        "kernels": [1, 3, 5],
    },
    "mobilenet_v3": {
        "resolutions": [12, 16],
        "num_classes": 5,
        "stem": "small",
        "width": 0.25,
        "expands": [3, 6],
        "depths": [1, 2],
    },
    "proxyless": {
        "resolutions": [12, 16],
        "num_classes": 5,
        "stem": "small",
        "width": 0.25,
        "kernels": [3, 5],
        "expands": [3, 6],
        "depths": [1, 2],
    },
    "resnet50": {
        "resolutions": [12, 16],
        "num_classes": 5,
        "stem": "small",
        "base_depths": [1, 1, 1, 1],
        "depths": [0, 1],
        "widths": [0.1, 0.15],
        "expands": [0.25, 0.5],
    },
    "hybrid": {
        "resolutions": [12, 16],
        "num_classes": 5,
        "channels": [16, 32],
        "attention_stages": 1,
        "widths": [0.5, 1.0],
        "depths": [1, 2],
        "expands": [1, 2],
        "heads": [1, 2],
        "head_channels": 8,
    },
}
PLAIN = {
    nn.Conv2d,
    nn.BatchNorm2d,
    nn.Linear,
    nn.ReLU,
    nn.ReLU6,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.Hardswish,
    nn.Hardsigmoid,
}


def small_space(family: str, **changes) -> Space:
    """A space of the family that takes milliseconds to build and run."""
    return define_space(family, **SMALL[family] | changes)


def stirred(space: Space, seed: int = 1) -> Supernet:
    """A net as a training might leave it: statistics, norms, biases and kernel transforms far from their start."""
    net = Supernet(space, seed)
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator)

    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name.endswith("running_var") or "_norm.weight" in name:
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            elif ".transforms." in name:
                tensor.add_(0.3 * noise(tensor))
            elif name.endswith(("running_mean", "bias")):
                tensor.copy_(0.3 * noise(tensor))
    return net.eval()


def archs_of(space: Space, samples: int, seed: int = 0) -> list[Arch]:
    """The smallest, the largest and some random ones between them."""
    drawn = space.decode(space.sample(np.random.default_rng(seed), samples))
    return [space.smallest(), space.largest(), *drawn]


def images(space: Space, arch: Arch, batch: int = 3, seed: int = 0) -> Tensor:
    """Normalised images of the size that the architecture takes."""
    size = resolution(arch)
    return torch.randn(batch, space.settings["in_channels"], size, size, generator=torch.Generator().manual_seed(seed))


def random_stats(space: Space, arch: Arch, seed: int) -> Stats:
    """Statistics that no data gave."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(layer: Layer) -> tuple[Tensor, Tensor]:
        channels = layer.out_shape[0]
        mean = 0.3 * torch.randn(channels, generator=generator)
        return mean, 0.5 + torch.rand(channels, generator=generator)

    return {layer.name: drawn(layer) for layer in with_exits(space, arch) if layer.norm}


def logits(net: Callable[..., Any], *inputs: object) -> Any:
    with torch.no_grad():
        return net(*inputs)


def run_onnx(model: onnx.ModelProto | bytes, x_BCHW: Tensor) -> Tensor:
    """What ONNX Runtime makes of it, on one thread."""
    return run_all_onnx(model, x_BCHW)[0]


def run_all_onnx(model: onnx.ModelProto | bytes, x_BCHW: Tensor) -> list[Tensor]:
    """The same of all its outputs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    content = model if isinstance(model, bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(found) for found in session.run(None, {"input": x_BCHW.numpy()})]


def check_supernet(net: Supernet, samples: int = 3) -> None:
    """Every law that extraction, search and deployment rely on, for one net in evaluation mode."""
    archs = archs_of(net.space, samples)
    before = copy.deepcopy(net.state_dict())
    check_independence(net, archs)
    for arch in archs:
        check_slices(net, arch)
        check_extraction(net, arch)
        check_cost(net, arch)
        check_deployment(net, arch)
        check_calibration(net, arch)
        check_exits(net, arch)
    assert not net.training
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]), f"{name} was changed by looking at it"


def check_independence(net: Supernet, archs: list[Arch]) -> None:
    """Nothing is remembered from one architecture to the next."""
    inputs = [images(net.space, arch) for arch in archs]
    alone = [logits(copy.deepcopy(net), x, arch) for x, arch in zip(inputs, archs, strict=True)]
    for i in [*range(len(archs)), *reversed(range(len(archs)))]:
        assert torch.equal(logits(net, inputs[i], archs[i]), alone[i]), archs[i]


def check_slices(net: Supernet, arch: Arch) -> None:
    """Every layer finds its weights, in its shape."""
    for layer in network(net.space, arch):
        if layer.weight_shape:
            weight, bias = net.weights(layer)
            assert tuple(weight.shape) == layer.weight_shape, layer
            assert (None if bias is None else tuple(bias.shape)) == (layer.weight_shape[:1] if layer.bias else None), (
                layer
            )


def check_extraction(net: Supernet, arch: Arch) -> None:
    """The extracted module is made of torch's own parts and computes the very same numbers."""
    x_BCHW = images(net.space, arch)
    assert logits(net, x_BCHW, arch).shape == (len(x_BCHW), net.space.settings["num_classes"])
    for stats in (None, random_stats(net.space, arch, 2)):
        extracted = extract(net, arch, stats)
        for x in (x_BCHW, x_BCHW.contiguous(memory_format=torch.channels_last)):
            assert torch.equal(logits(extracted, x), logits(net, x, arch, stats)), arch
    assert {type(module) for module in extracted.modules() if not list(module.children())} <= PLAIN
    assert not any(module.training for module in extracted.modules())
    shared = {tensor.untyped_storage().data_ptr() for tensor in net.state_dict().values()}
    assert not shared & {tensor.untyped_storage().data_ptr() for tensor in extracted.state_dict().values()}


def check_cost(net: Supernet, arch: Arch) -> None:
    """What the space says that an architecture costs is what its module costs."""
    extracted, cost = extract(net, arch), arch_cost(net.space, arch)
    assert sum(parameter.numel() for parameter in extracted.parameters()) == cost.params
    # Torch counts no operations in its fused attention.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        logits(extracted, images(net.space, arch, batch=1))
    assert counter.get_total_flops() == 2 * cost.macs


def check_deployment(net: Supernet, arch: Arch) -> None:
    """The deployed graph computes what the net computes, with the very nodes that were profiled."""
    stats = random_stats(net.space, arch, 3)
    x_BCHW = images(net.space, arch)
    wanted = logits(net, x_BCHW, arch, stats)
    deployed = build_model(network(net.space, arch), fold(net, arch, stats), batch=None)
    torch.testing.assert_close(run_onnx(deployed, x_BCHW), wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    profiled = onnx.load_from_string(profiling_model(net.space, arch, 1))
    assert operators(deployed) == operators(profiled)
    assert list(deployed.graph.node) == list(profiled.graph.node)
    assert [(t.name, t.dims) for t in deployed.graph.initializer] == [
        (t.name, t.dims) for t in profiled.graph.initializer
    ]
    layers = Counter(layer.op for layer in network(net.space, arch))
    assert operators(deployed)["HardSwish"] == layers["hswish"]
    assert operators(deployed)["HardSigmoid"] == layers["hsigmoid"]
    assert operators(deployed)["BatchNormalization"] == 0


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def check_calibration(net: Supernet, arch: Arch) -> None:
    """Calibrated statistics are those that torch's batch norms gather on the extracted module."""
    batches = [images(net.space, net.space.largest(), batch, seed) for seed, batch in enumerate((8, 8, 6))]
    stats = calibrate(net, arch, batches)
    extracted = extract(net, arch, all_logits=True)
    norms = {name: module for name, module in extracted.named_modules() if isinstance(module, nn.BatchNorm2d)}
    for module in norms.values():
        module.reset_running_stats()
        module.momentum = None  # torch's way to say: the plain average over all batches
    extracted.train()
    for x_BCHW in batches:
        logits(extracted, resize(x_BCHW, resolution(arch)))
    assert {f"{name}_norm" for name in stats} == set(norms)
    for name, (mean, var) in stats.items():
        torch.testing.assert_close(mean, norms[f"{name}_norm"].running_mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(var, norms[f"{name}_norm"].running_var, rtol=1e-4, atol=1e-5)


def check_exits(net: Supernet, arch: Arch) -> None:
    """What exits say in one pass, extracted and deployed, beside what the network says without them."""
    found, x_BCHW = exits(net.space, arch), images(net.space, arch)
    for layer in with_exits(net.space, arch):
        if layer.weight_shape:
            assert tuple(net.weights(layer)[0].shape) == layer.weight_shape, layer
    for stats in (None, random_stats(net.space, arch, 4)):
        *said, whole = all_logits = logits(net.all_logits, x_BCHW, arch, stats)
        assert len(said) == len(found)
        assert torch.equal(whole, logits(net, x_BCHW, arch, stats))
        extracted = logits(extract(net, arch, stats, all_logits=True), x_BCHW)
        assert all(torch.equal(a, b) for a, b in zip(extracted, all_logits, strict=True))
    model = outputs_model(with_exits(net.space, arch), found, fold(net, arch, stats), batch=None)
    onnx.checker.check_model(model, full_check=True)
    assert [each.name for each in model.graph.output] == ["logits", *(each.output for each in found)]
    deployed = run_all_onnx(model, x_BCHW)
    for mine, wanted in zip((*deployed[1:], deployed[0]), all_logits, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
