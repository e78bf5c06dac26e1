"""Small jobs for hours: does a process of the service grow, and is a file, a process or shared memory left behind?

    python benchmarks/service_soak.py --hours 2

One server, one worker, one agent; a new job whenever fewer than two wait, every tenth is cancelled. Resident memory and open
files of each process are read every few seconds; the slope is that of a straight line through what was read after the first
quarter. Prints JSON last.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from service_kills import spec_of, uninterrupted
from service_rig import Rig

SHARED = (Path("/dev/shm"), Path(tempfile.gettempdir()))
LOOK_S = 5.0
WARM_UP = 0.25
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--ray", action="store_true", help="Searches of two evaluators, on Ray.")
    asked = parser.parse_args()
    before = shared()
    with tempfile.TemporaryDirectory() as scratch:
        found = run(Path(scratch), asked)
    time.sleep(3.0)
    print(json.dumps({**found, "left_behind": sorted(shared() - before - {Path(scratch)}, key=str)}, default=str))


def run(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    rig = Rig(folder, workers=1, environment={"NAS_EVALUATORS": "2"} if asked.ray else {})
    rig.start()
    rig.start_agent()
    try:
        with rig.client() as client:
            base, _ = uninterrupted(client)
            seen: dict[str, list[tuple[float, float, int]]] = {}
            jobs, started, looked = 0, time.monotonic(), 0.0
            while time.monotonic() - started < 3600 * asked.hours:
                if rig.rows("SELECT count(*) FROM jobs WHERE finished_s IS NULL")[0][0] < 2:
                    job = client.submit(spec_of(base, jobs))
                    jobs += 1
                    if jobs % 10 == 0:
                        client.cancel(job["id"])
                if time.monotonic() - looked >= LOOK_S:
                    looked = time.monotonic()
                    look(rig, looked - started, seen)
                    tell(seen, jobs)
                time.sleep(0.2)
            while rig.rows("SELECT count(*) FROM jobs WHERE finished_s IS NULL")[0][0]:
                time.sleep(0.5)
            states = dict(tuple(row) for row in rig.rows("SELECT state, count(*) FROM jobs GROUP BY state"))
            work = [str(path.name) for path in (rig.data / "work").glob("j*")]
            incoming = [str(path) for path in (rig.data / "blobs").rglob("incoming/*")]
    finally:
        rig.stop()
    return {
        "hours": asked.hours,
        "jobs": jobs,
        "states": states,
        "processes": {kind: trend(rows) for kind, rows in seen.items()},
        "work_folders": work,
        "half_written": incoming,
    }


def look(rig: Rig, at_s: float, seen: dict[str, list[tuple[float, float, int]]]) -> None:
    """Memory in MiB and open files of the processes that last."""
    for kind in ("server", "worker", "keeper", "agent"):
        pids = rig.processes().get(kind, [])
        try:
            memory = sum(resident_mib(pid) for pid in pids)
            files = sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)
        except OSError:
            continue
        if pids:
            seen.setdefault(kind, []).append((at_s, memory, files))


def tell(seen: dict[str, list[tuple[float, float, int]]], jobs: int) -> None:
    """Every five minutes or so, to standard error."""
    if len(seen.get("server", [])) % 60 == 1:
        told = ", ".join(f"{kind} {rows[-1][1]:.1f} MiB" for kind, rows in seen.items())
        print(f"{seen['server'][-1][0] / 60:.0f} min, {jobs} jobs: {told}", file=sys.stderr, flush=True)


def resident_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


def trend(rows: Sequence[tuple[float, float, int]]) -> dict[str, float]:
    """Of what was read after the warm-up."""
    late = np.array(rows[int(WARM_UP * len(rows)) :])
    hours = late[:, 0] / 3600
    return {
        "first_mib": round(rows[0][1], 1),
        "last_mib": round(float(late[-1, 1]), 1),
        "mib_per_hour": round(float(np.polyfit(hours, late[:, 1], 1)[0]), 2),
        "files_first": rows[0][2],
        "files_last": int(late[-1, 2]),
    }


def shared() -> set[Path]:
    """What lies where processes leave things."""
    return {path for folder in SHARED for path in folder.glob("*") if not path.name.startswith("pymp-")}


if __name__ == "__main__":
    main()
