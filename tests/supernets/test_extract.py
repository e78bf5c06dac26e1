"""Architectures taken out of a supernet: plain modules, and folded weights for the deployed graph."""

import copy

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from latency_tables.graphs.graph import build_model, profiling_model
from search_spaces import FAMILIES, arch_cost, network
from supernets.extract import extract, fold
from tests.contracts.supernet_contract import (
    archs_of,
    check_cost,
    check_deployment,
    check_extraction,
    images,
    logits,
    operators,
    random_stats,
    run_onnx,
    small_space,
    stirred,
)

# Far from the small ones: deep, with other strides, kernels and colours.
OTHERS = {
    "tiny": {"in_channels": 3, "depths": [1, 3], "strides": [2, 1], "num_classes": 4, "kernels": [3, 7]},
    "mobilenet_v3": {"in_channels": 1, "stem": "standard", "resolutions": [32], "depths": [3], "kernels": [5]},
    "proxyless": {"in_channels": 1, "stem": "standard", "resolutions": [32], "depths": [3], "kernels": [5]},
    "resnet50": {"in_channels": 1, "stem": "standard", "resolutions": [42, 52], "base_depths": [1, 2, 1, 2]},
    "hybrid": {"in_channels": 1, "stem": [1, 2], "channels": [16, 24, 32], "attention_stages": 3, "heads": [0, 3]},
}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("family", FAMILIES)
def test_extracting_an_arch_keeps_its_function_to_the_bit(family, memory_format):
    net = stirred(small_space(family), seed=7).to(memory_format=memory_format)
    for arch in archs_of(net.space, 8, seed=11):
        check_extraction(net, arch)


@pytest.mark.parametrize("family", FAMILIES)
def test_spaces_far_from_the_small_ones_are_extracted_and_deployed_alike(family):
    net = stirred(small_space(family, **OTHERS[family]), seed=8)
    for arch in archs_of(net.space, 2, seed=12):
        check_extraction(net, arch)
        check_cost(net, arch)
        check_deployment(net, arch)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_extracted_module_is_in_evaluation_mode_whatever_the_net_is_in(family):
    net = stirred(small_space(family))
    arch = net.space.largest()
    x = images(net.space, arch)
    wanted = logits(net, x, arch)
    assert torch.equal(logits(extract(net.train(), arch), x), wanted)
    assert net.training


@pytest.mark.parametrize("family", FAMILIES)
def test_an_extracted_module_goes_its_own_way(family):
    net = stirred(small_space(family))
    arch = archs_of(net.space, 1, seed=1)[-1]
    stats = random_stats(net.space, arch, 4)
    x = images(net.space, arch)
    extracted, folded = extract(net, arch, stats), fold(net, arch, stats)
    wanted, kept = logits(extracted, x), copy.deepcopy(folded)
    with torch.no_grad():
        for tensor in [*net.state_dict().values(), *(tensor for pair in stats.values() for tensor in pair)]:
            tensor.add_(1.0)
    assert torch.equal(logits(extracted, x), wanted)
    for name, (weight, bias) in folded.items():
        np.testing.assert_array_equal(weight, kept[name][0])
        if bias is not None:
            np.testing.assert_array_equal(bias, kept[name][1])


@pytest.mark.parametrize("family", FAMILIES)
def test_training_an_extracted_module_leaves_the_net_alone(family):
    net = stirred(small_space(family))
    before = copy.deepcopy(net.state_dict())
    arch = net.space.smallest()
    extracted = extract(net, arch).train()
    optimiser = torch.optim.SGD(extracted.parameters(), lr=0.1)
    extracted(images(net.space, arch, batch=8)).square().sum().backward()
    optimiser.step()
    assert all(parameter.grad is not None for parameter in extracted.parameters())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_modules_are_named_as_the_layers_are(family):
    net = stirred(small_space(family))
    arch = net.space.largest()
    modules = dict(extract(net, arch).named_modules())
    for layer in network(net.space, arch):
        if layer.weight_shape:
            assert tuple(modules[layer.name].weight.shape) == layer.weight_shape
            assert isinstance(modules.get(f"{layer.name}_norm"), nn.BatchNorm2d) == layer.norm


@pytest.mark.parametrize("family", FAMILIES)
def test_all_costs_grow_with_the_module(family):
    net = stirred(small_space(family))
    small, large = net.space.smallest(), net.space.largest()
    assert arch_cost(net.space, small).params < arch_cost(net.space, large).params
    for arch in archs_of(net.space, 10, seed=5):
        check_cost(net, arch)


@pytest.mark.parametrize("family", FAMILIES)
def test_folded_weights_are_the_convolution_and_its_norm_in_one(family):
    net = stirred(small_space(family))
    arch = net.space.largest()
    stats = random_stats(net.space, arch, 9)
    modules = dict(extract(net, arch, stats).named_modules())
    folded = fold(net, arch, stats)
    assert list(folded) == [layer.name for layer in network(net.space, arch) if layer.weight_shape]
    for layer in network(net.space, arch):
        if not layer.norm:
            continue
        weight, bias = folded[layer.name]
        assert weight.dtype == bias.dtype == np.float32
        assert weight.flags.c_contiguous
        x = torch.randn(2, *layer.in_shape, generator=torch.Generator().manual_seed(0))
        wanted = logits(modules[f"{layer.name}_norm"], logits(modules[layer.name], x))
        found = torch.nn.functional.conv2d(
            x, torch.from_numpy(weight), torch.from_numpy(bias), layer.stride, layer.kernel // 2, 1, layer.groups
        )
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
def test_folding_without_statistics_takes_the_running_ones(family):
    net = stirred(small_space(family))
    arch = net.space.smallest()
    running = {
        layer.name: net.norm(layer).running(layer.out_shape[0]) for layer in network(net.space, arch) if layer.norm
    }
    for name, (weight, bias) in fold(net, arch).items():
        wanted_weight, wanted_bias = fold(net, arch, running)[name]
        np.testing.assert_array_equal(weight, wanted_weight)
        np.testing.assert_array_equal(bias, wanted_bias)


@pytest.mark.parametrize("batch", [1, 3, None])
@pytest.mark.parametrize("family", FAMILIES)
def test_onnx_runtime_computes_what_the_extracted_module_computes(family, batch):
    net = stirred(small_space(family))
    for arch in archs_of(net.space, 4, seed=21):
        x = images(net.space, arch, batch=batch or 2)
        stats = random_stats(net.space, arch, 10)
        wanted = logits(extract(net, arch, stats), x)
        model = build_model(network(net.space, arch), fold(net, arch, stats), batch=batch)
        onnx.checker.check_model(model)
        torch.testing.assert_close(run_onnx(model, x), wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_deployed_is_what_was_profiled(family):
    net = stirred(small_space(family))
    for arch in archs_of(net.space, 10, seed=31):
        layers = network(net.space, arch)
        deployed = build_model(layers, fold(net, arch), batch=4)
        profiled = onnx.load_from_string(profiling_model(net.space, arch, 4))
        assert operators(deployed) == operators(profiled)
        for model in (deployed, profiled):
            # But for the numbers, the two are one graph.
            for tensor in model.graph.initializer:
                tensor.raw_data = b""
        assert deployed == profiled


def test_mobilenet_v3_is_deployed_with_native_activations():
    net = stirred(small_space("mobilenet_v3"))
    arch = net.space.largest()
    found = operators(build_model(network(net.space, arch), fold(net, arch), batch=1))
    assert set(found) == {
        "Conv",
        "Relu",
        "HardSwish",
        "HardSigmoid",
        "GlobalAveragePool",
        "Mul",
        "Add",
        "Flatten",
        "Gemm",
    }
    assert found["HardSwish"] > 0
    assert found["HardSigmoid"] == found["Mul"] > 0


def test_tiny_is_deployed_without_a_trace_of_batch_norm():
    net = stirred(small_space("tiny"))
    found = operators(build_model(network(net.space, net.space.largest()), fold(net, net.space.largest()), batch=1))
    assert set(found) == {"Conv", "Relu", "Add", "GlobalAveragePool", "Flatten", "Gemm"}
