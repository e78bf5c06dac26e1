"""The names under which the once-for-all supernets were released, and the spaces that they stand for.

Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR 2020. In
`ofa_mbv3_d234_e346_k357_w1.2` every digit after d, e and k is one depth, expand ratio and kernel, and w is the width.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from search_spaces.space import Json

EXAMPLE = "ofa_mbv3_d234_e346_k357_w1.2"
# What they were trained at. Sizes between these were drawn as well, in steps of 4 px.
RESOLUTIONS = (128, 160, 192, 224)

Named = tuple[str, dict[str, Json]]
"""A family, and the settings in which it is not at its defaults."""


def published(name: str) -> Named | None:
    """The family and settings of a published name; None for any other."""
    plain = ALIASES.get(name, name)
    for pattern, read in PATTERNS:
        if match := pattern.fullmatch(plain):
            family, settings = read(*match.groups())
            return family, {"resolutions": list(RESOLUTIONS), **settings}
    return None


def _mobile(kind: str, depths: str, expands: str, kernels: str, width: str) -> Named:
    lists = {"depths": depths, "expands": expands, "kernels": kernels}
    settings = {key: sorted(map(int, set(digits))) for key, digits in lists.items()}
    return {"mbv3": "mobilenet_v3", "proxyless": "proxyless"}[kind], {**settings, "width": float(width)}


def _resnet(depths: str | None, expands: str | None, widths: str | None) -> Named:
    """All three are given or none, which are then the family's own."""
    if depths is None or expands is None or widths is None:
        return "resnet50", {}
    floats = {"expands": expands, "widths": widths}
    settings: dict[str, Json] = {key: sorted(map(float, re.split("[+-]", text))) for key, text in floats.items()}
    return "resnet50", {"depths": sorted(map(int, re.split("[+-]", depths))), **settings}


_WHOLES, _FRACTIONS = r"\d(?:[+-]\d)*", r"\d(?:\.\d+)?(?:[+-]\d(?:\.\d+)?)*"
PATTERNS: tuple[tuple[re.Pattern[str], Callable[..., Named]], ...] = (
    (re.compile(r"ofa_(mbv3|proxyless)_d(\d+)_e(\d+)_k(\d+)_w(\d(?:\.\d+)?)", re.ASCII), _mobile),
    (re.compile(rf"ofa_resnet50(?:_d=?({_WHOLES})_e=?({_FRACTIONS})_w=?({_FRACTIONS}))?", re.ASCII), _resnet),
)

# As the released files and the entries of PyTorch Hub are called.
ALIASES = {
    "ofa_supernet_mbv3_w10": "ofa_mbv3_d234_e346_k357_w1.0",
    "ofa_supernet_mbv3_w12": "ofa_mbv3_d234_e346_k357_w1.2",
    "ofa_supernet_proxyless": "ofa_proxyless_d234_e346_k357_w1.3",
    "ofa_supernet_resnet50": "ofa_resnet50",
}
