"""kill -9 a search again and again: does it end with the same result to the byte?

    python benchmarks/search_kills.py [--kills 200] [--on-ray 20]

A small run is trained and profiled. For each way to search, a copy of it is searched and nobody kills it. Other copies are
searched by `nas search`, killed at random moments and begun again until they end; their `search.json` must then be the same
but for seconds. Killed are the driver and, with two jobs, also an evaluator on Ray, Ray's scheduler (raylet) or its control
service (gcs_server). The commands run in processes forked from one that has loaded torch and optuna, to lose no time on that.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import yaml
from ratio import print_result

JOB = {
    "name": "kills",
    "data": {"kind": "digits", "channels": 1, "validation_fraction": 0.25},
    "space": {
        "family": "tiny",
        "resolutions": [4, 8],
        "stem": 8,
        "channels": [32, 32],
        "strides": [1, 2],
        "widths": [0.5, 1.0],
        "depths": [1, 2],
        "expands": [0.5, 1.0],
        "kernels": [1, 3],
    },
    "train": {"epochs": 1, "batch": 128, "layout": "fp32", "evaluations": 2, "augment": {"mirror": False}},
    "devices": [{"name": "one"}, {"name": "four", "batch": 4}],
    "profile": {"networks": 14, "budget_s": 0.5, "precision": 0.2},
    "search": {"evaluations": 40, "population": 5, "validation_images": 200, "calibration_batches": 1},
}
WAYS = {
    "guided": ("search.sampler=guided",),
    "few images first": ("search.sampler=guided", "search.first_images=50"),
    "nsga2": ("search.sampler=nsga2",),
    "nsga3": ("search.sampler=nsga3",),
    "tpe": ("search.sampler=tpe",),
    "two seeds": ("search.sampler=nsga2", "search.seeds=2", "search.evaluations=20"),
}
# What is killed with two jobs, in turn, by the beginning of its name. An evaluator is replaced, and the driver goes on.
VICTIMS = ("raylet", "driver", "gcs_server", "ray::_Actor")
# A search is killed so often at most, each time within this share of the processor time that a whole one takes.
KILLS_EACH, SHARE = 8, 0.7
# Ray's agents look every few seconds whether the rest is there, and end a minute or two after it.
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
POLL_S = 0.005
GONE_S = 30.0
HUNG_S = 300.0


@dataclass
class Tally:
    """What happened so far."""

    kills: Counter[str] = field(default_factory=Counter)
    identical: Counter[str] = field(default_factory=Counter)
    different: Counter[str] = field(default_factory=Counter)
    odd: list[str] = field(default_factory=list)
    """Drivers that ended in another way than they should: what was killed, the exit code and the last line.

    Some are known: where Ray is killed while it starts, it may end the driver itself, with code 1 and in its own words.
    """
    left_behind: list[str] = field(default_factory=list)
    """Names of processes that went on without their driver."""


class Commands:
    """`nas` in processes of its own, of which one after the other writes to the file `said`."""

    def __init__(self, said: Path) -> None:
        self.said = said
        self._server = get_context("forkserver")
        self._server.set_forkserver_preload(["nas.pipeline", "nas.cli", "sklearn.datasets", "scipy.optimize"])

    def start(self, *words: str) -> BaseProcess:
        process = self._server.Process(target=nas, args=(words, self.said))
        process.start()
        return process

    def run(self, *words: str) -> float:
        """To its end, which must be a good one; the processor seconds that it took."""
        process, spent_s = self.start(*words), 0.0
        while process.is_alive():
            spent_s = processor_s(process)
            time.sleep(POLL_S)
        if process.exitcode != 0:
            raise SystemExit(f"nas {' '.join(words)} ended with {process.exitcode}:\n{self.said.read_text()}")
        return spent_s


def nas(words: Sequence[str], said: Path) -> None:
    """The command line; whatever it or Ray says goes to a file."""
    with said.open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    from nas.cli import app

    app(list(words))


def words_of(root: Path, way: str, jobs: int) -> list[str]:
    return ["search", str(root), "--jobs", str(jobs), *(word for each in WAYS[way] for word in ("--set", each))]


def processor_s(process: BaseProcess) -> float:
    """What a process has used so far: how far it has come, whatever else the machine does."""
    try:
        times = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    except OSError:  # it has ended
        return 0.0
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


def result(root: Path) -> bytes:
    """What the search found, without seconds and versions."""
    document = json.loads((root / "search.json").read_text())
    return json.dumps(timeless(document), sort_keys=True).encode()


def timeless(document: object) -> object:
    if isinstance(document, dict):
        return {key: timeless(value) for key, value in document.items() if key not in ("seconds", "versions")}
    return [timeless(value) for value in document] if isinstance(document, list) else document


def below(root: int) -> dict[int, str]:
    """The processes that a process has started, and they in turn, with their names."""
    children: dict[int, list[int]] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = file.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it has ended
            continue
        if state != "Z":
            children.setdefault(int(parent), []).append(int(file.parent.name))
    found, waiting = {}, [root]
    while waiting:
        for pid in children.get(waiting.pop(), []):
            found[pid] = name_of(pid)
            waiting.append(pid)
    return found


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode().rpartition("/")[2]
    except OSError:
        return ""


def kill(process: BaseProcess, victim: str) -> bool:
    """Whether it was there to be killed; it is waited for, but not beyond the end of the driver."""
    while process.is_alive():
        there = {process.pid: "driver"} | below(process.pid)
        for pid in [pid for pid, name in there.items() if name.startswith(victim)][:1]:
            with suppress(ProcessLookupError):  # it has ended by itself
                os.kill(pid, signal.SIGKILL)
                return True
        time.sleep(POLL_S)
    return False


def still_there(pids: set[int]) -> list[str]:
    """The names of those that run on after `GONE_S`."""
    deadline = time.monotonic() + GONE_S
    while left := [name for pid in pids if (name := name_of(pid)) and not name.startswith(AGENTS)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    return left


@dataclass(frozen=True)
class Search:
    """A way to search on so many jobs, what is found that way, and the driver's processor seconds if nobody kills it."""

    way: str
    jobs: int
    wanted: bytes
    seconds: float

    @property
    def name(self) -> str:
        return self.way if self.jobs == 1 else f"{self.way}, on Ray"


def killed_once(commands: Commands, search: Search, root: Path, victim: str, moment_s: float, tally: Tally) -> None:
    """Search until something is killed, after `moment_s` processor seconds of the driver, and until that has ended."""
    process = commands.start(*words_of(root, search.way, search.jobs))
    while process.is_alive() and processor_s(process) < moment_s:
        time.sleep(POLL_S)
    started = {*below(process.pid)}
    killed = kill(process, victim)
    started |= {*below(process.pid)}
    process.join(HUNG_S)
    last = (commands.said.read_text().splitlines() or [""])[-1]
    if killed:
        tally.kills[victim if search.jobs == 1 else f"{victim} on Ray"] += 1
    if process.is_alive():
        process.kill()
        process.join()
        tally.odd.append(f"{victim} killed after {moment_s:.2f} s: hung for {HUNG_S:g} s")
    elif not as_it_should(process.exitcode, last, victim if killed else None):
        tally.odd.append(f"{victim} killed after {moment_s:.2f} s: exit code {process.exitcode}, {last!r}")
    tally.left_behind += still_there(started)


def as_it_should(code: int | None, last: str, killed: str | None) -> bool:
    """Whether a driver ended well, killed, or, where Ray was killed, with its line on that."""
    if killed == "driver":
        return code in (0, -signal.SIGKILL)  # 0: it ended just then
    told = last.startswith(("nas: Ray ended", "nas: Ray did not start"))
    return code == 0 or (killed in ("raylet", "gcs_server") and code == 2 and told)


def killed_until_it_ends(
    commands: Commands, base: Path, search: Search, rng: np.random.Generator, tally: Tally
) -> None:
    """One search, in a copy of the run; what became of it is added to `tally`."""
    with tempfile.TemporaryDirectory(dir=base.parent) as scratch:
        root = Path(shutil.copytree(base, Path(scratch) / "run"))
        victims = cycle(VICTIMS if search.jobs > 1 else ("driver",))
        for victim in islice(victims, KILLS_EACH):
            killed_once(commands, search, root, victim, rng.uniform(0, SHARE * search.seconds), tally)
            if (root / "search.json").exists():
                break
        else:
            commands.run(*words_of(root, search.way, search.jobs))
        same = result(root) == search.wanted
    (tally.identical if same else tally.different)[search.name] += 1
    wrong = f"; not as it should: {tally.odd + tally.left_behind}" if tally.odd or tally.left_behind else ""
    print(f"{tally.kills.total()} kills; {search.name}: {'the same' if same else 'NOT THE SAME'}{wrong}", flush=True)


def searches(commands: Commands, base: Path) -> tuple[list[Search], Search]:
    """Every way in the driver itself, and the first of them on Ray, as nobody kills them."""
    found = []
    for way, jobs in [*((way, 1) for way in WAYS), (next(iter(WAYS)), 2)]:
        root = Path(shutil.copytree(base, base.parent / f"whole{len(found)}"))
        seconds = commands.run(*words_of(root, way, jobs))
        found.append(Search(way, jobs, result(root), seconds))
        print(f"not killed; {found[-1].name}: {seconds:.1f} s of processor time", flush=True)
    return found[:-1], found[-1]


def kill_searches(folder: Path, options: argparse.Namespace) -> Tally:
    commands, base = Commands(folder / "said.txt"), folder / "base"
    rng, tally = np.random.default_rng(options.seed), Tally()
    (folder / "job.yaml").write_text(yaml.safe_dump(JOB))
    commands.run("train", str(folder / "job.yaml"), "--out", str(base))
    commands.run("profile", str(base))
    alone, on_ray = searches(commands, base)
    ways = cycle(alone)
    while tally.kills.total() < options.on_ray:
        killed_until_it_ends(commands, base, replace(on_ray, wanted=alone[0].wanted), rng, tally)
    while tally.kills.total() < options.kills:
        killed_until_it_ends(commands, base, next(ways), rng, tally)
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="in all; what is begun is still ended")
    parser.add_argument("--on-ray", type=int, default=20, help="so many of them where Ray evaluates")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        tally = kill_searches(Path(folder), options)
    print_result("search_kills", {**vars(tally), "seconds": round(time.perf_counter() - start)})
    return 1 if tally.different or tally.left_behind else 0


if __name__ == "__main__":
    sys.exit(main())
