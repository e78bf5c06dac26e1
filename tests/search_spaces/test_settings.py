"""What a family says about settings that it cannot use."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import SpaceError, define_space, network
from search_spaces.settings import make_divisible


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("tyni", {}, "unknown family 'tyni'; known are tiny, mobilenet_v3, proxyless, resnet50"),
        ("tiny", {"kernel": [3]}, "family tiny has no setting 'kernel'; did you mean 'kernels'?"),
        ("tiny", {"zzz": 1}, "family tiny has no setting 'zzz'; it has num_classes, in_channels"),
        ("tiny", {"num_classes": 1}, "num_classes must be a whole number from 2 to 1000000, not 1"),
        ("tiny", {"num_classes": True}, "num_classes must be a whole number from 2 to 1000000, not True"),
        ("tiny", {"num_classes": 10.0}, "num_classes must be a whole number"),
        ("tiny", {"stem": "wide"}, "stem must be a whole number from 8 to 512, not 'wide'"),
        ("tiny", {"resolutions": []}, "resolutions must be an ascending list of whole numbers from 4 to 256"),
        ("tiny", {"resolutions": 32}, "resolutions must be an ascending list of whole numbers from 4 to 256, not 32"),
        ("tiny", {"resolutions": [32, 24]}, "resolutions must be an ascending list"),
        ("tiny", {"resolutions": [24, 24]}, "resolutions must be an ascending list"),
        ("tiny", {"widths": [0.5, float("nan")]}, "widths must be an ascending list of numbers from 0.1 to 1.0"),
        ("tiny", {"widths": [1.0, "2"]}, "widths must be an ascending list of numbers"),
        ("tiny", {"kernels": [1, 2]}, r"kernels must be odd, not \[1, 2\]"),
        ("tiny", {"channels": []}, r"channels must be a list of whole numbers from 8 to 2048, one a stage, not \[\]"),
        ("tiny", {"channels": [64, 4]}, "channels must be a list of whole numbers from 8 to 2048"),
        ("tiny", {"channels": "64"}, "channels must be a list"),
        ("tiny", {"strides": [2, 2]}, r"strides must give 1 or 2 for each of the 3 stages, not \[2, 2\]"),
        ("tiny", {"strides": [2, 2, 3]}, "strides must give 1 or 2"),
        ("tiny", {"strides": [2.0, 2.0, 2.0]}, "strides must give 1 or 2"),
        ("tiny", {"strides": [True, 2, 2]}, "strides must give 1 or 2"),
        ("tiny", {"widths": [0.5, 0.52]}, "widths 0.5 and 0.52 both give 32 channels in stage 1; drop one of them"),
        (
            "tiny",
            {"channels": [32], "strides": [1], "expands": [0.3, 0.5, 1.0]},
            "expands 0.3 and 0.5 both give 8 channels in stage 1 at width 0.5",
        ),
        ("mobilenet_v3", {"widht": 0.5}, "family mobilenet_v3 has no setting 'widht'; did you mean 'width'?"),
        ("mobilenet_v3", {"kernels": [3, 4]}, r"kernels must be odd, not \[3, 4\]"),
        ("mobilenet_v3", {"stem": "tiny"}, "stem must be one of standard, small, not 'tiny'"),
        ("mobilenet_v3", {"stem": ["small"]}, r"stem must be one of standard, small, not \['small'\]"),
        ("mobilenet_v3", {"width": 0}, "width must be a number from 0.1 to 4.0, not 0"),
        ("mobilenet_v3", {"expands": [3, 3.1]}, "expands 3 and 3.1 both give 48 channels"),
        ("proxyless", {"kernels": [2]}, r"kernels must be odd, not \[2\]"),
        ("proxyless", {"stem": "wide"}, "stem must be one of standard, small, not 'wide'"),
        ("proxyless", {"expands": [3, 3.1]}, "expands 3 and 3.1 both give 48 channels in stage 1"),
        ("resnet50", {"depth": [0]}, "family resnet50 has no setting 'depth'; did you mean"),
        ("resnet50", {"depths": [2, 1]}, "depths must be an ascending list of whole numbers from 0 to 8"),
        ("resnet50", {"base_depths": [2, 2, 4]}, r"base_depths must give 1 to 64 blocks for each of the 4 stages"),
        ("resnet50", {"base_depths": [2, 2, 4, 0]}, "base_depths must give 1 to 64 blocks"),
        ("resnet50", {"base_depths": "2242"}, "base_depths must give 1 to 64 blocks"),
        ("resnet50", {"stem": {}}, "stem must be one of standard, small, not {}"),
        ("resnet50", {"widths": [0.65, 0.66]}, "widths 0.65 and 0.66 both give 168 channels in stage 1; drop one"),
        ("resnet50", {"expands": [0.2, 0.21]}, "expands 0.2 and 0.21 both give 32 channels in stage 1 at width 0.65"),
    ],
)
def test_settings_that_do_not_fit_are_refused(family, settings, message):
    with pytest.raises(SpaceError, match=message):
        define_space(family, **settings)


@given(st.lists(st.sampled_from([3 + k / 40 for k in range(41)]), min_size=2, max_size=2, unique=True).map(sorted))
def test_mobilenet_expands_that_are_accepted_build_different_networks(expands):
    try:
        space = define_space("mobilenet_v3", expands=expands, depths=[2], kernels=[3])
    except SpaceError:
        return
    base = dict(space.smallest().items)
    for choice in space.choices:
        if choice.kind == "expand":
            other = space.arch({**base, choice.name: expands[1]})
            assert network(space, other) != network(space, space.smallest()), choice.name


@given(st.floats(1, 1e5))
def test_channel_counts_are_multiples_of_eight_that_lose_a_tenth_at_most(value):
    found = make_divisible(value)
    assert found % 8 == 0
    assert found >= 0.9 * value
    assert found <= value + 8
