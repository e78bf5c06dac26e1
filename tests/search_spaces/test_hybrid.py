"""The family of convolutions and attention: which blocks attend, with which heads, and what that costs."""

import numpy as np
import pytest

from search_spaces import Layer, SpaceError, define_space, network
from search_spaces.layers import Stack
from tests.search_spaces.spaces import all_codes

# The widths, the stem and the heads of EfficientFormerV2-S0 (Li et al., ICCV 2023).
AT_224_PX = {
    "num_classes": 1000,
    "resolutions": [224],
    "stem": [2, 2],
    "channels": [32, 48, 96, 176],
    "widths": [1.0],
    "depths": [2, 3],
    "expands": [2, 3, 4],
    "heads": [0, 4, 8],
    "head_channels": 32,
}


def attentions(layers: tuple[Layer, ...]) -> list[Layer]:
    return [layer for layer in layers if layer.op == "attention"]


def test_attention_counts_both_products_and_the_shares_that_it_holds():
    stack = Stack("s", (32, 4, 6))
    name = stack.attention("mix", *(stack.conv(part, 32, source="") for part in "qkv"), heads=4)
    layer = stack.layers[-1]
    assert layer == Layer(name, "attention", ("s.q", "s.k", "s.v"), (32, 4, 6), (32, 4, 6), groups=4)
    # 24 pixels, each with each other: a product over 8 channels in each of 4 heads, for scores and for mixing.
    assert layer.macs == 2 * 4 * 8 * 24 * 24
    assert layer.scratch_bytes == 4 * 4 * 24 * 24
    assert (layer.params, layer.weight_shape, layer.activation_bytes) == (0, (), 4 * 32 * 24)


def test_heads_that_do_not_divide_the_channels_are_refused():
    stack = Stack("s", (32, 4, 4))
    with pytest.raises(SpaceError, match=r"s\.mix: 32 channels do not split into 3 heads"):
        stack.attention("mix", "", "", "", heads=3)


@pytest.mark.parametrize("stages", [0, 1, 2, 3])
def test_the_last_stages_attend_and_no_others(stages):
    space = define_space("hybrid", attention_stages=stages)
    found = {layer.name.partition(".")[0] for layer in attentions(network(space, space.largest()))}
    assert found == {f"s{stage}" for stage in range(4 - stages, 4)}


def test_heads_are_of_one_size_whatever_their_number_and_the_width():
    space = define_space("hybrid", head_channels=24)
    for arch in space.decode(space.sample(np.random.default_rng(0), 20)):
        for layer in attentions(network(space, arch)):
            heads = arch.values[layer.name.replace("attention.mix", "heads")]
            assert (layer.groups, layer.in_shape[0]) == (heads, 24 * heads)


def test_a_block_of_no_heads_is_the_convolutions_alone():
    space = define_space("hybrid", heads=[0, 2])
    with_heads, without = (
        network(space, space.arch({**space.largest().values, "s3.b1.heads": heads})) for heads in (2, 0)
    )
    kept = [layer for layer in with_heads if not layer.name.startswith("s3.b1.attention.")]
    assert [layer.name for layer in without] == [layer.name for layer in kept]
    assert len(attentions(with_heads)) == len(attentions(without)) + 1


def test_every_arch_of_a_small_space_builds_its_own_network():
    space = define_space(
        "hybrid", resolutions=[8, 16], channels=[16], attention_stages=1, widths=[0.5, 1.0], expands=[1], heads=[0, 1]
    )
    archs = space.decode(all_codes(space))
    assert len({network(space, arch) for arch in archs}) == len(set(archs)) == space.size


@pytest.mark.parametrize("size", [23, 24, 33, 64])
def test_each_stage_after_the_first_halves_the_image(size):
    space = define_space("hybrid", resolutions=[size], stem=[1, 2])
    blocks = [layer for layer in network(space, space.largest()) if layer.name.endswith(".b0.expand")]
    assert [layer.in_shape[1] for layer in blocks] == [-(-size // stride) for stride in (2, 4, 8)]


def test_a_network_for_224_px_attends_over_14_and_7_px():
    space = define_space("hybrid", **AT_224_PX)
    assert {layer.in_shape[1] for layer in attentions(network(space, space.largest()))} == {14, 7}


def test_a_block_costs_what_its_products_add_up_to():
    space = define_space("hybrid", **AT_224_PX)
    layers = network(space, space.largest())
    channels, inside, expanded, pixels = 176, 8 * 32, 4 * 176, 7 * 7
    attention = 4 * channels * inside * pixels + 9 * inside * pixels + 2 * inside * pixels**2
    feed_forward = 2 * channels * expanded * pixels + 9 * expanded * pixels
    assert sum(layer.macs for layer in layers if layer.name.startswith("s4.b1.")) == attention + feed_forward


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head": [2]}, "family hybrid has no setting 'head'; did you mean 'heads'?"),
        ({"stem": []}, r"stem must be a list of strides, one a convolution, from 1 to 2, not \[\]"),
        ({"stem": [3]}, r"stem must be a list of strides, one a convolution, from 1 to 2, not \[3\]"),
        ({"stem": 2}, "stem must be a list of strides, one a convolution, from 1 to 2, not 2"),
        ({"channels": [4]}, r"channels must be a list of channels, one a stage, from 8 to 2048, not \[4\]"),
        ({"attention_stages": 4}, "attention_stages must be a whole number from 0 to 3, not 4"),
        ({"heads": [2, 2]}, "heads must be an ascending list of whole numbers from 0 to 64"),
        ({"heads": [1.5]}, "heads must be an ascending list of whole numbers from 0 to 64"),
        ({"head_channels": 4}, "head_channels must be a whole number from 8 to 128, not 4"),
        ({"widths": [0.5, 0.52]}, "widths 0.5 and 0.52 both give 16 channels in stage 1; drop one of them"),
        ({"expands": [1, 1.1]}, "expands 1 and 1.1 both give 16 channels in stage 1 at width 0.5"),
        ({"resolutions": [8, 32]}, "resolution 8 leaves attention a single pixel in stage 3; raise it, or let stem"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(SpaceError, match=message):
        define_space("hybrid", **settings)


def test_a_single_pixel_does_where_nothing_attends():
    space = define_space("hybrid", resolutions=[8], attention_stages=0)
    assert not attentions(network(space, space.largest()))
