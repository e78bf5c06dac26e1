"""How long it takes to hand networks over, checks included. A part of `deploy.py`, for `--run RUN`, a run that is searched.

`nas export RUN --pick knee` from its start to its end, processes and all: seconds of wall and of processor time of a whole that
exports one network for each of the run's devices. At most 5 s a network are wanted of `tiny`, 20 s of `mobilenet_v3`.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from search_spaces import Space

PICK = "knee"
COMMANDS = 3
"""At most."""


def part(families: Mapping[str, Space], options: Namespace) -> dict[str, object]:
    runs = [_command(options.run) for _ in range(min(options.repetitions, COMMANDS))]
    wall_s, processor_s, networks = (float(np.median(each)) for each in zip(*runs, strict=True))
    print(f"nas export --pick {PICK}, {networks:.0f} networks: {wall_s:.1f} s, {processor_s:.1f} s of processors")
    return {
        "networks": networks,
        "wall_s": wall_s,
        "processor_s": processor_s,
        "wall_s_by_run": [run[0] for run in runs],
    }


def _command(run: Path) -> tuple[float, float, int]:
    """Wall and processor seconds of one export into a folder of its own, and how many networks it exported."""
    with tempfile.TemporaryDirectory() as out:
        line = [sys.executable, "-c", "from nas.cli import main; main()", "export", str(run), "--pick", PICK]
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        said = subprocess.run([*line, "--out", out, "--force", "--json"], check=True, capture_output=True)
        wall_s, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall_s, processor_s, sum(len(device["exports"]) for device in json.loads(said.stdout)["devices"])
