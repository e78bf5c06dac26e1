"""Random kill -9 of everything that a service runs, while it does small jobs; then nothing may be lost, double or different.

    python benchmarks/service_kills.py --jobs 200 --kills 1000
    python benchmarks/service_kills.py --jobs 12 --kills 30 --postgres --s3

Server, workers, keepers, steps, an agent and Ray die while a job runs, at random moments; `nas serve`, `nas worker` and
`nas agent` are started again as systemd would. Every kind of search has first been run without kills, and its evaluations are
then deleted, so that they are made again. A job that has been tried three times in a row without progress is let alone until it
has some, as a fourth fault would end it. With `--s3`, the workers have folders of their own, as on other machines. Prints JSON
last.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from service_rig import LITTLE, VARIANTS, Rig, fronts_of, kill, leftovers, wait_all

from nas.client import Client

AHEAD = 4
"""So many jobs wait or run at any time, until there were as many jobs and kills as were asked for."""
PATIENT = 2
"""Faults in a row after which a job is let alone."""
WEIGHTS = {"step": 3, "keeper": 2}
"""How often a kind is drawn, against once for the others: what is closest to the work."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--every", type=float, default=0.5, help="Mean seconds from one look to the next.")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--ray", action="store_true", help="Searches of two evaluators, on Ray.")
    parser.add_argument("--postgres", action="store_true", help="On a PostgreSQL of its own in place of SQLite.")
    parser.add_argument("--s3", action="store_true", help="With its files in S3; needs --postgres.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=7200.0, help="Seconds that all of it may take.")
    parser.add_argument("--out", type=Path, help="Folder of the service, which is kept.")
    asked = parser.parse_args()
    if asked.s3 and not asked.postgres:
        parser.error("--s3 has workers that share no folder, and so no SQLite: give --postgres too")
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        environment = {"NAS_EVALUATORS": "2"} if asked.ray else {}
        database = ""
        if asked.postgres:
            from service_stores import bucket, postgres, url_of

            database = url_of(stack.enter_context(postgres()))
            environment |= stack.enter_context(bucket()) if asked.s3 else {}
        rig = Rig(
            asked.out or scratch, workers=asked.workers, apart=asked.s3, database=database, environment=environment
        )
        found = run(rig, asked)
    print(json.dumps(found))
    raise SystemExit(0 if found["ok"] else 1)


def run(rig: Rig, asked: argparse.Namespace) -> dict[str, Any]:
    rig.start()
    rig.start_agent()
    try:
        with rig.client() as client:
            base, wanted = uninterrupted(client)
            rig.halt()
            rig.forget_evaluations()
            rig.resume()
            print(f"{len(wanted)} kinds of search have run without kills", flush=True)
            started = time.monotonic()
            killer = Killer(rig, asked.kills, asked.every, random.Random(asked.seed))
            killer.start()
            ids = list[str]()
            end = time.monotonic() + asked.limit
            while (len(ids) < asked.jobs or killer.is_alive()) and time.monotonic() < end:
                if rig.rows("SELECT count(*) FROM jobs WHERE finished_s IS NULL")[0][0] < AHEAD:
                    ids.append(client.submit(spec_of(base, len(ids)), key=f"job-{len(ids)}")["id"])
                time.sleep(0.1)
            killer.stop()
            ended = wait_all(client, ids, asked.limit)
            seconds = time.monotonic() - started
            print(f"{len(ended)} of {len(ids)} jobs have ended", flush=True)
            rig.wait_ready()
            checked = check(rig, client, ids, ended, wanted)
        pids = [pid for kind in rig.processes().values() for pid in kind]
    finally:
        rig.stop()
    time.sleep(2.0)
    back = backs(rig, killer.struck)
    found = {
        "jobs": len(ids),
        "kills": sum(killer.kills.values()),
        "by_kind": killer.kills,
        "seconds": round(seconds),
        "starts": rig.starts,
        **checked,
        "orphans": len(list(leftovers(pids))),
        "back_at_work_s": {"n": len(back), "median": statistics.median(back), "max": max(back)} if back else None,
    }
    bad = ("lost", "failed", "different", "double", "damaged", "orphans")
    return {**found, "ok": all(found[name] == 0 for name in bad)}


def uninterrupted(client: Client) -> tuple[str, list[str]]:
    """A trained and profiled job, and what each variant of a search of it finds."""
    base = client.submit({"kind": "run", "job": LITTLE}, key="base")["id"]
    client.wait(base)
    ids = [client.submit(spec_of(base, i), key=f"reference-{i}")["id"] for i in range(len(VARIANTS))]
    return base, [fronts_of(client.wait(job_id)) for job_id in ids]


def spec_of(base: str, i: int) -> dict[str, Any]:
    return {"kind": "search", "from": base, "set": dict(VARIANTS[i % len(VARIANTS)])}


class Killer(threading.Thread):
    """Kills one process at a time, of a kind drawn first; `struck`: (seconds since the epoch, kind, jobs that ran)."""

    def __init__(self, rig: Rig, kills: int, every_s: float, rng: random.Random) -> None:
        super().__init__(daemon=True)
        self.rig, self.left, self.every_s, self.rng = rig, kills, every_s, rng
        self.kills: dict[str, int] = {}
        self.struck: list[tuple[float, str, list[str]]] = []
        self._enough = threading.Event()

    def stop(self) -> None:
        self._enough.set()
        self.join()

    def run(self) -> None:
        while self.left > 0 and not self._enough.wait(self.rng.expovariate(1 / self.every_s)):
            there = self.rig.processes()
            jobs = self.rig.rows("SELECT id, state, faults FROM jobs WHERE finished_s IS NULL")
            running = [job_id for job_id, state, _ in jobs if state == "RUNNING"]
            if "keeper" not in there or not running or any(faults >= PATIENT for _, _, faults in jobs):
                continue
            kind = self.rng.choice([kind for kind in sorted(there) for _ in range(WEIGHTS.get(kind, 1))])
            if kill(self.rng.choice(there[kind])):
                self.kills[kind] = self.kills.get(kind, 0) + 1
                self.struck.append((time.time(), kind, running))
                self.left -= 1


def check(rig: Rig, client: Client, ids: list[str], ended: dict[str, Any], wanted: list[str]) -> dict[str, int]:
    """How many jobs were lost, failed, found something else, or happened twice, and how many files are damaged."""
    count = {"lost": len(ids) - len(ended), "failed": 0, "different": 0, "double": 0, "damaged": 0}
    there = rig.rows("SELECT count(*) FROM jobs")[0][0]
    count["double"] += there - len(ids) - len(VARIANTS) - 1
    for i, job_id in enumerate(ids):
        job = ended.get(job_id)
        if job is None:
            continue
        if job["state"] != "SUCCEEDED":
            print(job_id, job["state"], job["error"], flush=True)
            count["failed"] += 1
        elif fronts_of(job) != wanted[i % len(wanted)]:
            print(job_id, VARIANTS[i % len(VARIANTS)], "differs", flush=True)
            count["different"] += 1
        count["lost"] += client.job(job_id)["result"] != job["result"]
        count["double"] += doubled(rig, job_id)
        with tempfile.TemporaryDirectory() as out:
            try:
                client.fetch(job_id, Path(out))
            except Exception as error:  # whatever it is: a file cannot be had
                print(job_id, error, flush=True)
                count["damaged"] += 1
    return count


def doubled(rig: Rig, job_id: str) -> int:
    """Events that say the same twice, or are missing."""
    rows = rig.rows(f"SELECT seq, kind, data FROM events WHERE job_id = '{job_id}' ORDER BY seq")
    data = [(kind, json.loads(text)) for _, kind, text in rows]
    points = [(each["device"], each["arch_id"]) for kind, each in data if kind == "point"]
    ends = [each for kind, each in data if kind == "state" and each["state"] in ("SUCCEEDED", "FAILED", "CANCELLED")]
    dense = [row[0] for row in rows] == list(range(1, len(rows) + 1))
    return (len(points) - len(set(points))) + (len(ends) - 1) + (not dense)


def backs(rig: Rig, struck: list[tuple[float, str, list[str]]]) -> list[float]:
    """Seconds from a kill of the server, with which all that it had started dies, until a job that ran is at work again.

    Only where nothing else was killed meanwhile.
    """
    found = []
    nexts = [killed_s for killed_s, _, _ in struck[1:]] + [time.time()]
    for (killed_s, kind, running), next_s in zip(struck, nexts, strict=True):
        for job_id in running if kind == "server" else ():
            again = rig.rows(
                f"SELECT min(at_s) FROM events WHERE job_id = '{job_id}' AND kind = 'state' AND at_s > {killed_s} "
                "AND data LIKE '%RUNNING%'"
            )[0][0]
            if again is not None and again < next_s:
                found.append(round(again - killed_s, 2))
    return found


if __name__ == "__main__":
    main()
