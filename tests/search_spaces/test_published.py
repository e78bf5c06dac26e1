"""The names of published supernets, and the spaces that they stand for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import SpaceError, arch_cost, define_space, is_family
from search_spaces.published import ALIASES, RESOLUTIONS, published

MOBILE = {"resolutions": list(RESOLUTIONS), "depths": [2, 3, 4], "expands": [3, 4, 6], "kernels": [3, 5, 7]}


@pytest.mark.parametrize(
    ("name", "family", "settings"),
    [
        ("ofa_mbv3_d234_e346_k357_w1.0", "mobilenet_v3", {**MOBILE, "width": 1.0}),
        ("ofa_mbv3_d234_e346_k357_w1.2", "mobilenet_v3", {**MOBILE, "width": 1.2}),
        ("ofa_proxyless_d234_e346_k357_w1.3", "proxyless", {**MOBILE, "width": 1.3}),
        ("ofa_mbv3_d4_e6_k7_w1.0", "mobilenet_v3", {**MOBILE, "depths": [4], "expands": [6], "kernels": [7]}),
        ("ofa_resnet50", "resnet50", {"resolutions": list(RESOLUTIONS)}),
        ("ofa_resnet50_d0+1_e0.2+0.35_w1.0", "resnet50", {"depths": [0, 1], "expands": [0.2, 0.35], "widths": [1.0]}),
    ],
)
def test_a_published_name_stands_for_a_family_with_its_settings(name, family, settings):
    wanted = define_space(family, **{"resolutions": list(RESOLUTIONS), **settings})
    assert is_family(name)
    assert define_space(name) == wanted
    other = define_space(name, num_classes=7, resolutions=[96])
    assert other == define_space(family, **{**settings, "num_classes": 7, "resolutions": [96]})


def test_every_spelling_of_the_published_resnet_is_one_space():
    lists = ("d=0+1+2_e=0.2+0.25+0.35_w=0.65+0.8+1.0", "d0+1+2_e0.2+0.25+0.35_w0.65+0.8+1.0")
    lists = (*lists, "d0-1-2_e0.2-0.25-0.35_w0.65-0.8-1.0")
    assert {define_space(f"ofa_resnet50_{each}") for each in lists} == {define_space("ofa_resnet50")}
    assert all(define_space(alias) == define_space(name) for alias, name in ALIASES.items())


values = st.lists(st.integers(1, 9), min_size=1, max_size=4, unique=True).map(sorted)


@given(st.sampled_from(["mbv3", "proxyless"]), values, values, values, st.integers(1, 99))
def test_a_name_says_what_its_settings_are(kind, depths, expands, kernels, tenths):
    d, e, k = ("".join(map(str, each)) for each in (depths, expands, kernels))
    family, settings = published(f"ofa_{kind}_d{d}_e{e}_k{k}_w{tenths / 10}")
    assert family == {"mbv3": "mobilenet_v3", "proxyless": "proxyless"}[kind]
    wanted = {"depths": depths, "expands": expands, "kernels": kernels, "width": tenths / 10}
    assert settings == {"resolutions": list(RESOLUTIONS), **wanted}


@pytest.mark.parametrize(
    "name",
    ["ofa_mbv3", "ofa_mbv2_d2_e3_k3_w1.0", "ofa_mbv3_d234_e346_k357_w", "ofa_mbv3_d_e3_k3_w1", "ofa_resnet50_d0"],
)
def test_other_names_are_refused(name):
    assert not is_family(name)
    with pytest.raises(SpaceError, match=r"unknown family .*, or a published name such as ofa_mbv3"):
        define_space(name)


def test_what_a_name_asks_for_is_checked_as_settings_are():
    with pytest.raises(SpaceError, match=r"kernels must be odd, not \[2\]"):
        define_space("ofa_mbv3_d2_e3_k2_w1.0")


@pytest.mark.parametrize("name", [7, None, ["tiny"], {}])
def test_what_is_no_text_names_no_family(name):
    assert not is_family(name)


@pytest.mark.parametrize(
    ("name", "macs", "params"),
    [
        ("ofa_mbv3_d234_e346_k357_w1.0", (121_278_672, 566_170_656), (3_410_792, 7_664_760)),
        ("ofa_mbv3_d234_e346_k357_w1.2", (193_078_200, 843_101_040), (4_602_456, 10_701_632)),
        ("ofa_proxyless_d234_e346_k357_w1.3", (265_526_256, 1_004_908_032), (3_718_832, 7_942_056)),
        ("ofa_resnet50", (962_192_128, 7_491_643_904), (6_539_280, 48_105_992)),
    ],
)
def test_the_ends_of_the_published_spaces_cost_what_the_published_code_counts(name, macs, params):
    """At 224 px, to the seven digits of its single-precision counter."""
    space = define_space(name, resolutions=[224])
    for arch, at_macs, at_params in zip((space.smallest(), space.largest()), macs, params, strict=True):
        cost = arch_cost(space, arch)
        assert (cost.macs, cost.params) == (at_macs, at_params)
