"""What elasticity costs: forward and backward of sub-networks in the supernet against the same ones extracted.

    python benchmarks/elastic_forward.py [--quick] [--threads 2] [--cpu-time] [--layout fp32_channels_last] [--batch 256]

Both sides train the same architecture on the same batch. Target: at most 1.05x.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import torch
from ratio import Clock, Ratio, arguments, in_turn, over_archs, print_result
from torch import nn
from torch.nn import functional as F

from search_spaces import Arch, Space, define_space
from supernets.calibrate import resolution
from supernets.extract import extract
from supernets.layout import LAYOUTS, Layout
from supernets.supernet import Supernet

SPACES = {
    "tiny": define_space("tiny"),
    "mobilenet_v3": define_space("mobilenet_v3", resolutions=[24, 28, 32], num_classes=10, stem="small"),
    "proxyless": define_space("proxyless", resolutions=[24, 28, 32], num_classes=10, stem="small"),
    "resnet50": define_space("resnet50", resolutions=[24, 28, 32], num_classes=10, stem="small"),
    "hybrid": define_space("hybrid"),
}


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--layout", choices=LAYOUTS, default="fp32_channels_last")
    parser.add_argument("--batch", type=int, default=256, help="as training does by default")
    parser.add_argument("--archs", type=int, default=5)
    parser.add_argument("--families", nargs="+", choices=SPACES, default=list(SPACES))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    repetitions, archs = (3, 2) if options.quick else (options.repetitions, options.archs)
    result: dict[str, object] = {"layout": options.layout, "batch": options.batch, "threads": options.threads}
    for family in options.families:
        space = SPACES[family]
        net = LAYOUTS[options.layout].hold(Supernet(space)).train()
        ratios = []
        for arch in space.decode(space.sample(np.random.default_rng(0), archs)):
            times = measured(net, arch, LAYOUTS[options.layout], options.batch, repetitions, options.clock)
            ratios.append(Ratio.of(times["elastic"], times["extracted"]))
            medians = {name: float(np.median(found)) for name, found in times.items()}
            print(
                f"{family} {arch.id}: elastic {medians['elastic']:.1f} ms, extracted {medians['extracted']:.1f} ms, "
                f"ratio {ratios[-1]}"
            )
        print(f"{family}: elastic takes {over_archs(ratios)} of the extracted time (target 1.05)")
        result[family] = {"ratio": asdict(over_archs(ratios)), "archs": [asdict(ratio) for ratio in ratios]}
    print_result("elastic_forward", result)


def measured(
    net: Supernet, arch: Arch, layout: Layout, batch: int, repetitions: int, clock: Clock
) -> dict[str, list[float]]:
    extracted = extract(net, arch).train()
    x_BCHW = layout.place(images(net.space, arch, batch))
    y_B = torch.arange(batch) % net.space.settings["num_classes"]

    def trained(module: nn.Module, *inputs: object) -> None:
        module.zero_grad()
        with layout.autocast():
            logits_BK = module(*inputs)
        F.cross_entropy(logits_BK.float(), y_B).backward()  # type: ignore[no-untyped-call]

    return in_turn(
        {"elastic": lambda: trained(net, x_BCHW, arch), "extracted": lambda: trained(extracted, x_BCHW)},
        repetitions,
        clock,
    )


def images(space: Space, arch: Arch, batch: int) -> torch.Tensor:
    size = resolution(arch)
    return torch.randn(batch, space.settings["in_channels"], size, size, generator=torch.Generator().manual_seed(0))


if __name__ == "__main__":
    main()
