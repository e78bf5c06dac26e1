"""Spaces that the tests share: small ones that can be enumerated, and random ones with nested conditions."""

from itertools import product

import numpy as np
from hypothesis import strategies as st

from search_spaces import Choice, Codes, Space, When, define_space

# Small enough to build every network: 2 resolutions, one stage of one or two blocks.
ENUMERABLE = {
    "one stage": {"resolutions": [8, 12], "channels": [32], "strides": [2], "depths": [1, 2], "expands": [0.5, 1.0]},
    "two stages": {
        "resolutions": [8],
        "channels": [16, 32],
        "strides": [1, 2],
        "widths": [1.0],
        "depths": [1, 2],
        "expands": [0.5, 1.0],
    },
    "fixed depth": {
        "resolutions": [8],
        "channels": [32],
        "strides": [1],
        "depths": [2],
        "expands": [1.0],
        "kernels": [1, 3, 5],
    },
}


def enumerable(name: str) -> Space:
    return define_space("tiny", **ENUMERABLE[name])


def families() -> dict[str, Space]:
    """Spaces of several families, the defaults and some that are far from them."""
    return {
        "tiny": define_space("tiny"),
        "tiny, grey and deep": define_space("tiny", in_channels=1, depths=[1, 2, 4], num_classes=3, strides=[1, 2, 2]),
        "mobilenet_v3": define_space("mobilenet_v3"),
        "mobilenet_v3, small stem": define_space(
            "mobilenet_v3", stem="small", resolutions=[24, 28, 32], width=0.5, depths=[1, 2], num_classes=10
        ),
        "proxyless, small stem": define_space(
            "proxyless", stem="small", resolutions=[24, 28, 32], width=0.5, depths=[1, 2], num_classes=10
        ),
        "resnet50, small stem": define_space(
            "resnet50", stem="small", resolutions=[25, 32], widths=[0.5, 1.0], base_depths=[1, 3, 1, 2]
        ),
        "hybrid, with blocks that do not attend": define_space(
            "hybrid", in_channels=1, stem=[1, 2], channels=[32, 48], widths=[0.5, 1.0], depths=[1, 3], heads=[0, 1, 3]
        ),
        "tiny, exits and a precision a block": define_space(
            "tiny", exits=["s1", "s2"], precisions=["int8", "fp32"], precision_per="block"
        ),
        "tiny, a precision a stage": define_space("tiny", precisions=["int8", "fp32"]),
        "tiny, one precision": define_space("tiny", precisions=["int8", "fp32"], precision_per="network"),
        "mobilenet_v3, a precision a block": define_space(
            "mobilenet_v3", width=0.5, depths=[1, 2], precisions=["int8", "fp32"], precision_per="block"
        ),
        "hybrid, a precision a block": define_space(
            "hybrid", in_channels=1, stem=[1, 2], depths=[1, 3], precisions=["int8", "fp32"], precision_per="block"
        ),
    }


def all_codes(space: Space) -> Codes:
    """Every canonical row, by brute force over the product of all values."""
    rows = np.array(list(product(*(range(len(choice.values)) for choice in space.choices))), dtype=np.int16)
    return np.unique(space.canonical(rows.reshape(-1, len(space.choices))), axis=0)


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    """Up to six choices of up to three values, each of which may wait for some values of an earlier one."""
    choices: list[Choice] = []
    for j in range(draw(st.integers(1, 6))):
        values = tuple(draw(st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True)))
        when = None
        if choices and draw(st.booleans()):
            parent = draw(st.sampled_from(choices))
            opens = draw(st.lists(st.sampled_from(parent.values), min_size=1, unique=True))
            when = When(parent.name, tuple(opens))
        choices.append(Choice(f"c{j}", values, when))
    return Space("none", {}, tuple(choices))


@st.composite
def spaces_and_codes(draw: st.DrawFn) -> tuple[Space, Codes]:
    """A space with up to eight rows of codes, canonical or not."""
    space = draw(spaces())
    row = st.tuples(*(st.integers(0, len(choice.values) - 1) for choice in space.choices))
    rows = draw(st.lists(row, max_size=8))
    return space, np.array(rows, dtype=np.int16).reshape(len(rows), len(space.choices))
