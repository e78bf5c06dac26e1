"""Whether the once-for-all families compute what the published code computes: both, side by side, on the same weights.

    git clone https://github.com/mit-han-lab/once-for-all
    python benchmarks/ofa_parity.py --ofa once-for-all [--archs 50] [--names ofa_resnet50] [--golden DIR]

For every name a state dict is drawn in the published layout, with batch-norm statistics, gains and kernel matrices far from
their start, saved as torch saves it, and imported. Then random architectures run at random resolutions of the space: in our
supernet and extracted from it, in the published supernet and extracted from that, in single and in double precision. What is
printed is the largest difference between logits, and the same relative to their standard deviation. Target: 1e-5.

`--golden DIR` writes small files of the same kind in place of that: what the published code computes for tiny supernets.
`tests/supernets/test_published.py` reads them. JSON, format `ofa_golden/1`: `family` and `settings` (of the space), `seed`
(of `tests/supernets/drawn_state.py`), `shapes` (published name -> shape), `cases` (`choices`, `logits` of one drawn image).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from search_spaces import Arch, Space, define_space
from supernets.calibrate import resolution
from supernets.extract import extract
from supernets.published import import_supernet
from tests.supernets.drawn_state import drawn_images, drawn_state

NAMES = (
    "ofa_mbv3_d234_e346_k357_w1.0",
    "ofa_mbv3_d234_e346_k357_w1.2",
    "ofa_proxyless_d234_e346_k357_w1.3",
    "ofa_resnet50",
)
MOBILE = {"num_classes": 7, "resolutions": [32, 48], "width": 0.35, "depths": [1, 2], "expands": [3, 6]}
SMALL = {
    "mobilenet_v3": MOBILE,
    "proxyless": MOBILE,
    "resnet50": {
        "num_classes": 7,
        "resolutions": [36, 52],
        "depths": [0, 1],
        "widths": [0.15, 0.3],
        "expands": [0.25, 0.5],
    },
}
GOLDEN_FORMAT, GOLDEN_CASES = "ofa_golden/1", 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ofa", type=Path, required=True, help="a checkout of mit-han-lab/once-for-all")
    parser.add_argument("--archs", type=int, default=50, help="random architectures of each name")
    parser.add_argument("--names", nargs="+", default=NAMES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--golden", type=Path, help="write golden files into this folder in place of comparing")
    asked = parser.parse_args()
    networks = published_networks(asked.ofa)
    if asked.golden:
        for family, settings in SMALL.items():
            path = asked.golden / f"ofa_{family}.json"
            path.write_text(json.dumps(golden(networks, define_space(family, **settings), asked.seed)) + "\n")
            print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")
        return
    result = {}
    for name in asked.names:
        result[name] = compared(networks, name, asked.archs, asked.seed)
        print(name, *(f"{key} {value:.2e}" for key, value in result[name].items()), flush=True)
    print(json.dumps({"ofa_parity": {"archs": asked.archs, "seed": asked.seed, "names": result}}))


class Absent(ModuleType):
    """A package that the networks do not need: any name of it is an empty class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def published_networks(root: Path) -> Any:
    """The module of the published supernets."""
    sys.path.insert(0, str(root))
    if find_spec("torchvision") is None:
        for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
            sys.modules[name] = Absent(name)
            parent, _, leaf = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], leaf, sys.modules[name])
    from ofa.imagenet_classification.elastic_nn import networks

    return networks


def published_net(networks: Any, space: Space) -> nn.Module:
    """The published supernet of the same space, in evaluation mode."""
    s = space.settings
    shared = {"n_classes": s["num_classes"], "dropout_rate": 0, "depth_list": list(s["depths"])}
    mobile = {"ks_list": list(s.get("kernels", [])), "expand_ratio_list": list(s["expands"])}
    made: dict[str, Callable[[], nn.Module]] = {
        "mobilenet_v3": lambda: networks.OFAMobileNetV3(**shared, **mobile, width_mult=s["width"]),
        "proxyless": lambda: networks.OFAProxylessNASNets(**shared, **mobile, width_mult=s["width"]),
        "resnet50": lambda: networks.OFAResNets(
            **shared, expand_ratio_list=list(s["expands"]), width_mult_list=list(s["widths"])
        ),
    }
    return made[space.family]().eval()


def activate(net: Any, space: Space, arch: Arch) -> None:
    """Make the architecture the active one of a published supernet."""
    blocks = [choice.name.removesuffix(".expand") for choice in space.choices if choice.name.endswith(".expand")]
    values = {choice.name: arch.values.get(choice.name, choice.values[-1]) for choice in space.choices}
    expands = [values[f"{block}.expand"] for block in blocks]
    if space.family == "resnet50":
        widths = list(space.settings["widths"])
        chosen = ["stem.inner.width", "stem.width", *(f"s{stage}.width" for stage in range(1, 5))]
        bases = space.settings["base_depths"]
        depths = [max(space.settings["depths"]) if values["stem.depth"] else min(space.settings["depths"])]
        depths += [values[f"s{stage}.depth"] - base for stage, base in enumerate(bases, start=1)]
        net.set_active_subnet(d=depths, e=expands, w=[widths.index(values[name]) for name in chosen])
        return
    depths = [value for name, value in values.items() if name.endswith(".depth")]
    kernels = [values[f"{block}.kernel"] for block in blocks]
    net.set_active_subnet(ks=kernels, e=expands, d=depths + [1] * (space.family == "proxyless"))


def filled(networks: Any, space: Space, seed: int) -> nn.Module:
    """The published supernet with drawn weights."""
    net = published_net(networks, space)
    nn.Module.load_state_dict(net, drawn_state(shapes_of(net), seed))
    return net


def shapes_of(net: nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in net.state_dict().items()}


def compared(networks: Any, name: str, archs: int, seed: int) -> dict[str, float]:
    """Largest differences between logits over `archs` random architectures, in both precisions."""
    space = define_space(name)
    theirs = filled(networks, space, seed)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        torch.save({"state_dict": theirs.state_dict()}, file)
        ours, _ = import_supernet(file, space, name)
    drawn = space.decode(space.sample(np.random.default_rng(seed), archs))
    worst: dict[str, float] = {}
    for kind, dtype in (("single", torch.float32), ("double", torch.float64)):
        torch.set_default_dtype(dtype)  # of the modules that extracting makes
        theirs, ours = theirs.to(dtype), ours.to(dtype)
        for arch in [space.smallest(), space.largest(), *drawn]:
            for key, value in differences(theirs, ours, arch, dtype, seed).items():
                worst[f"{kind}_{key}"] = max(worst.get(f"{kind}_{key}", 0.0), value)
    torch.set_default_dtype(torch.float32)
    return worst


def differences(theirs: Any, ours: Any, arch: Arch, dtype: torch.dtype, seed: int) -> Mapping[str, float]:
    """Between their supernet and ours, and between the two extracted networks."""
    size = resolution(arch)
    x_BCHW = drawn_images((2, 3, size, size), seed).to(dtype)
    activate(theirs, ours.space, arch)
    wanted, found = run(theirs, x_BCHW), run(ours, x_BCHW, arch)
    wanted_extracted, found_extracted = run(theirs.get_active_subnet().eval(), x_BCHW), run(extract(ours, arch), x_BCHW)
    spread = float(wanted.std())
    return {
        "supernet": float((wanted - found).abs().max()),
        "extracted": float((wanted_extracted - found_extracted).abs().max()),
        "relative": float(max((wanted - found).abs().max(), (wanted_extracted - found_extracted).abs().max())) / spread,
        "logits": spread,
    }


def run(module: nn.Module, *inputs: object) -> Tensor:
    with torch.no_grad():
        logits: Tensor = module(*inputs)
    return logits


def golden(networks: Any, space: Space, seed: int) -> dict[str, Any]:
    """What the published code computes for a few architectures of a small space."""
    net = filled(networks, space, seed)
    archs = [
        space.smallest(),
        space.largest(),
        *space.decode(space.sample(np.random.default_rng(seed), GOLDEN_CASES - 2)),
    ]
    cases = []
    for arch in archs:
        size = resolution(arch)
        activate(net, space, arch)
        logits = run(net, drawn_images((1, 3, size, size), seed))
        cases.append({"choices": arch.values, "logits": [float(f"{value:.7g}") for value in logits[0].tolist()]})
    head = {"format": GOLDEN_FORMAT, "family": space.family, "settings": dict(space.settings), "seed": seed}
    return {**head, "shapes": shapes_of(net), "cases": cases}


if __name__ == "__main__":
    main()
