"""How well a profile repeats: the same networks measured by several fresh processes, and beside a busy one.

    python benchmarks/latency_repeat.py [--quick] [--family mobilenet_v3] [--networks 20] [--processes 8] [--busy]

Prints for each network the coefficient of variation (CV) of its median over the processes, raw and divided by the canary.
With --busy, some processes measure beside busy neighbours, and the share of their medians within 5% of the idle ones, or
not precise by their own account, is printed as well. Targets: CV at most 3%, share at least 95%.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latency_tables.device import Device
from latency_tables.graphs.graph import profiling_model
from latency_tables.measuring.protocol import PROTOCOL
from latency_tables.profile import profile
from latency_tables.table import LatencyTable, load
from search_spaces import Space, define_space

F64 = NDArray[np.float64]

SPACES = {
    "tiny": {"in_channels": 1, "resolutions": [8]},
    "mobilenet_v3": {"resolutions": [32, 48]},
}
CLOSE = 0.05
SPIN = "while True: pass"


def main() -> None:
    options = _arguments()
    if options.child:
        _profile(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        idle = [_measured(options, Path(folder) / f"idle{index}.json") for index in range(options.processes)]
        busy = []
        for index in range(options.processes if options.busy else 0):
            with _neighbours(os.cpu_count() or 1):
                busy.append(_measured(options, Path(folder) / f"busy{index}.json"))
    result = {
        "benchmark": "latency_repeat",
        "family": options.family,
        "device": idle[0].device.id,
        "protocol": PROTOCOL,
    }
    print(json.dumps({**result, **_repeated(idle), **_beside(idle, busy), "load": os.getloadavg()[0]}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--family", choices=SPACES, default="mobilenet_v3")
    parser.add_argument("--networks", type=int, default=20)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--busy", action="store_true", help="measure beside one busy process for each core as well")
    parser.add_argument("--quick", action="store_true", help="few networks and processes, to see that it runs")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.networks, options.processes = 4, 2
    return options


def _space(options: argparse.Namespace) -> Space:
    return define_space(options.family, **SPACES[options.family])


def _profile(options: argparse.Namespace) -> None:
    """What a fresh process does."""
    space = _space(options)
    device = Device("repeat", threads=options.threads, batch=options.batch, precision=options.precision)
    profile(
        space,
        device,
        path=options.child,
        build=lambda arch: profiling_model(space, arch, device.batch, device.precision),
        n_networks=options.networks,
    )


def _measured(options: argparse.Namespace, path: Path) -> LatencyTable:
    start = time.perf_counter()
    given = [f"--{name}={getattr(options, name)}" for name in ("family", "networks", "threads", "batch", "precision")]
    subprocess.run([sys.executable, __file__, "--child", str(path), *given], check=True)
    table = load(path)
    found = [entry.measurement for entry in table.entries]
    rejected = sum(each.rejected_rounds for each in found) / sum(len(each.rounds) for each in found)
    print(
        f"{path.stem}: {time.perf_counter() - start:.1f} s, canary {table.canary_us:.1f} us, rejected {rejected:.0%}, "
        f"precise {sum(each.converged for each in found)} of {len(found)}, noise floor {table.noise_floor:.2%}",
        flush=True,
    )
    return table


@contextmanager
def _neighbours(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _medians(tables: Sequence[LatencyTable]) -> F64:
    """(processes, networks); networks in one order."""
    return np.array([[table.measurements[key].median_us for key in sorted(table.measurements)] for table in tables])


def _corrected(tables: Sequence[LatencyTable]) -> F64:
    """As `_medians`, as if the canary had been as fast in all of them."""
    reference = tables[0].canary_us
    return np.array(
        [[table.measurements[key].corrected_us(reference) for key in sorted(table.measurements)] for table in tables]
    )


def _repeated(tables: Sequence[LatencyTable]) -> dict[str, float]:
    found = {}
    for name, medians_us in (("cv", _medians(tables)), ("cv_corrected", _corrected(tables))):
        cv = medians_us.std(axis=0, ddof=1) / medians_us.mean(axis=0)
        print(f"{name}: median {np.median(cv):.2%}, largest {cv.max():.2%} over {len(cv)} networks (target 3%)")
        found |= {f"{name}_median": float(np.median(cv)), f"{name}_largest": float(cv.max())}
    return found


def _beside(idle: Sequence[LatencyTable], busy: Sequence[LatencyTable]) -> dict[str, float]:
    if not busy:
        return {}
    off = np.abs(_medians(busy) / np.median(_medians(idle), axis=0) - 1)
    marked = np.array([[not table.measurements[key].converged for key in sorted(table.measurements)] for table in busy])
    close = off <= CLOSE
    shares = {
        "busy_close_or_marked": float((close | marked).mean()),
        "busy_close": float(close.mean()),
        "busy_marked": float(marked.mean()),
        "busy_error_median": float(np.median(off)),
    }
    print(
        f"beside busy neighbours: {shares['busy_close_or_marked']:.1%} within 5% of idle or not precise (target 95%); "
        f"{shares['busy_close']:.1%} within 5%, {shares['busy_marked']:.1%} not precise"
    )
    return shares


if __name__ == "__main__":
    main()
