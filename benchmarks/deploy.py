"""What is handed over, against what other tools hand over of the same networks, one part after the other.

    python benchmarks/deploy.py [--parts graph,seconds,integers] [--families tiny,mobilenet_v3] [--archs 10] [--quick]
        [--cpu-time] [--run RUN] [--seeds 10]

Weights are drawn, but for parts that take the run of `--run`: `integers` tells accuracies with it, `exports` and `search` are
of it alone. Each part says what its figures are and what is wanted of them.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path

import export_seconds
import graph_speed
import integers
import precision_search
import torch
import whole_export
from ratio import arguments, print_result
from torch_export import EXPORTS

from search_spaces import Space, define_space

Part = Callable[[Mapping[str, Space], Namespace], dict[str, object]]
"""(families, options) -> figures of each family."""
PARTS: dict[str, Part] = {
    "graph": graph_speed.part,
    "seconds": export_seconds.part,
    "integers": integers.part,
    "exports": whole_export.part,
    "search": precision_search.part,
}
OF_RUNS = ("exports", "search")
FAMILIES = {
    "tiny": define_space("tiny", resolutions=[32]),
    "mobilenet_v3": define_space("mobilenet_v3", resolutions=[64]),
    "mobilenet_v3_224": define_space("mobilenet_v3", resolutions=[224]),
    "proxyless": define_space("proxyless", resolutions=[64]),
    "resnet50": define_space("resnet50", resolutions=[64]),
    "hybrid": define_space("hybrid", resolutions=[64]),
}


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--parts", default="graph,seconds,integers", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--families", default="tiny,mobilenet_v3", help=f"of {', '.join(FAMILIES)}")
    parser.add_argument("--archs", type=int, default=10, help="architectures of each family")
    parser.add_argument("--exporter", choices=EXPORTS, default="legacy", help="of torch")
    parser.add_argument(
        "--run", type=Path, help="a run: trained for integers, profiled for search, searched for exports"
    )
    parser.add_argument("--seeds", type=int, default=10, help="of the part search")
    options = parser.parse_args()
    parts = options.parts.split(",")
    if options.run is None and set(parts) & set(OF_RUNS):
        parser.error(f"--run is wanted for {', '.join(OF_RUNS)}")
    if options.quick:
        options.archs, options.repetitions = 1, 3
    torch.set_num_threads(options.threads)
    families = {name: FAMILIES[name] for name in options.families.split(",")}
    found = {name: PARTS[name](families, options) for name in parts}
    settings = {name: getattr(options, name) for name in ("archs", "repetitions", "exporter", "threads")}
    print_result("deploy", {**settings, "parts": found})


if __name__ == "__main__":
    main()
