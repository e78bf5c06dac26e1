"""PostgreSQL is restarted at random moments, as hard as it can be, while a service does small jobs: none may be lost.

    python benchmarks/service_postgres.py --jobs 500

Needs PostgreSQL's programs in /usr/lib/postgresql. `pg_ctl restart -m immediate` every 5 to 40 s. Prints JSON last.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from service_kills import check, spec_of, uninterrupted
from service_rig import Rig, wait_all
from service_stores import postgres, url_of

from tests.nas.searching.postgres import PROGRAMS, unprivileged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--between", type=float, nargs=2, default=(5.0, 40.0), help="Seconds between two restarts.")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=7200.0, help="Seconds that all of it may take.")
    asked = parser.parse_args()
    with postgres() as server, tempfile.TemporaryDirectory() as scratch:
        try:
            found = run(Path(scratch), server, asked)
        finally:
            control(server, "stop")
    print(json.dumps(found))
    raise SystemExit(0 if found["ok"] else 1)


def run(folder: Path, server: Path, asked: argparse.Namespace) -> dict[str, Any]:
    rig = Rig(folder, workers=asked.workers, database=url_of(server))
    rig.start()
    rig.start_agent()
    enough, restarts = threading.Event(), list[float]()
    try:
        with rig.client() as client:
            base, wanted = uninterrupted(client)
            rig.forget_evaluations()
            restarting = threading.Thread(target=restart, args=(server, asked, enough, restarts), daemon=True)
            started = time.monotonic()
            restarting.start()
            ids = [client.submit(spec_of(base, i), key=f"job-{i}")["id"] for i in range(asked.jobs)]
            ended = wait_all(client, ids, asked.limit)
            enough.set()
            restarting.join()
            seconds = time.monotonic() - started
            checked = check(rig, client, ids, ended, wanted)
    finally:
        rig.stop()
    found = {
        "jobs": len(ids),
        "restarts": len(restarts),
        "longest_restart_s": round(max(restarts, default=0.0), 2),
        "seconds": round(seconds),
        "starts": rig.starts,
        **checked,
    }
    return {**found, "ok": not any(checked.values())}


def restart(server: Path, asked: argparse.Namespace, enough: threading.Event, took_s: list[float]) -> None:
    rng = random.Random(asked.seed)
    while not enough.wait(rng.uniform(*asked.between)):
        began = time.monotonic()
        control(server, "restart")
        took_s.append(time.monotonic() - began)


def control(server: Path, word: str) -> None:
    """Kills it first."""
    said = [PROGRAMS[-1] / "pg_ctl", word, "-D", server / "data", "-w", "-m", "immediate", "-l", server / "restarted"]
    subprocess.run(said, check=True, cwd=server, stdout=subprocess.DEVNULL, user=unprivileged())


if __name__ == "__main__":
    main()
