"""The vocabulary of layers, against figures worked out by hand."""

import pytest

from search_spaces import NETWORK_INPUT, Layer, SpaceError
from search_spaces.layers import SLOT_INPUT, Stack


def test_a_convolution_counts_its_weights_macs_and_bytes():
    layer = Layer("c", "conv", (NETWORK_INPUT,), (3, 32, 32), (16, 16, 16), kernel=3, stride=2, norm=True)
    assert layer.weight_shape == (16, 3, 3, 3)
    assert layer.weights == 432
    assert layer.macs == 432 * 256
    assert layer.params == 432 + 32
    assert layer.activation_bytes == 4 * 16 * 256
    assert layer.traffic_bytes == 4 * (3 * 1024 + 432 + 16 * 256)


def test_a_depthwise_convolution_has_one_filter_a_channel():
    layer = Layer("d", "conv", ("c",), (16, 8, 8), (16, 8, 8), kernel=5, groups=16)
    assert layer.weight_shape == (16, 1, 5, 5)
    assert layer.macs == 16 * 25 * 64
    assert layer.params == 16 * 25


def test_a_classifier_counts_its_bias():
    layer = Layer("l", "linear", ("p",), (64, 1, 1), (10, 1, 1), bias=True)
    assert layer.weight_shape == (10, 64)
    assert layer.macs == 640
    assert layer.params == 650


@pytest.mark.parametrize(
    "op", ["global_pool", "max_pool", "avg_pool", "add", "mul", "relu", "relu6", "hswish", "hsigmoid"]
)
def test_an_operation_without_weights_costs_no_macs(op):
    layer = Layer("x", op, ("a",), (8, 4, 4), (8, 4, 4))
    assert (layer.weight_shape, layer.weights, layer.macs, layer.params) == ((), 0, 0, 0)


def test_an_unknown_operation_is_refused():
    with pytest.raises(SpaceError, match="layer 'x' has operation 'gelu'; known are conv, linear"):
        Layer("x", "gelu", (), (1, 1, 1), (1, 1, 1))


@pytest.mark.parametrize(
    ("kernel", "stride", "size"), [(1, 1, 7), (3, 1, 7), (7, 1, 7), (3, 2, 4), (5, 2, 4), (1, 2, 4)]
)
def test_convolutions_pad_by_half_a_kernel(kernel, stride, size):
    stack = Stack("s", (8, 7, 7))
    stack.conv("c", 16, kernel=kernel, stride=stride)
    assert stack.shape == (16, size, size)


@pytest.mark.parametrize(("op", "kernel"), [("max_pool", 3), ("avg_pool", 2)])
@pytest.mark.parametrize(("size", "pooled"), [(7, 4), (8, 4), (1, 1)])
def test_windows_that_do_not_fit_are_cut_off(op, kernel, size, pooled):
    stack = Stack("s", (8, size, size))
    stack.window_pool("p", op, kernel, stride=2)
    assert stack.shape == (8, pooled, pooled)


def test_a_stack_gives_its_epsilon_to_what_is_normalised():
    stack = Stack("s", (8, 4, 4), norm_eps=1e-3)
    stack.conv("a", 8)
    stack.conv("b", 8, norm=False)
    stack.unary("c", "relu")
    assert [layer.norm_eps for layer in stack.layers] == [1e-3, 1e-5, 1e-5]


def test_a_stack_reads_the_layer_before_or_the_one_named():
    stack = Stack("s", (8, 4, 4))
    first = stack.conv("a", 16)
    second = stack.unary("b", "relu")
    third = stack.conv("c", 16, source=SLOT_INPUT)
    stack.binary("d", "add", second, third)
    assert [layer.inputs for layer in stack.layers] == [(SLOT_INPUT,), (first,), (SLOT_INPUT,), (second, third)]
    assert [layer.name for layer in stack.layers] == ["s.a", "s.b", "s.c", "s.d"]


def test_channels_that_do_not_split_into_groups_are_refused():
    with pytest.raises(SpaceError, match=r"s\.c: 8 -> 12 channels do not split into 8 groups"):
        Stack("s", (8, 4, 4)).conv("c", 12, groups=8)
