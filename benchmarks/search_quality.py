"""How good the fronts are that searchers find with equally many evaluations, on a recorded landscape.

    python benchmarks/search_quality.py [FOLDER] [--seeds 10] [--evaluations 500] [--peers linas random] [--devices cpu_t1]

Each searcher runs once a seed for each device. What it found with its first 50, 100, 250 and 500 evaluations is shown as the
hypervolume relative to that of the best known front: the one of everything recorded and of 200,000 more architectures
from a long evolution (`landscape.py`). Wins go over seeds: how often one searcher is ahead of another one that has had
more evaluations. `optuna_gp` runs when it is named: 250 evaluations take it minutes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from landscape import FOLDER, GENERATIONS, POPULATION, Landscape, LandscapeError, best_known
from numpy.typing import NDArray
from ours import guided
from peers import PEERS, Peer
from ratio import print_result

from latency_tables.predicting.predictor import LatencyPredictor
from nas.searching.fronts import hypervolume
from search_spaces import Codes, Space

F64 = NDArray[np.float64]
Index = NDArray[np.int64]

CHECKPOINTS = (50, 100, 250, 500)
SLOW = ("optuna_gp",)
SEARCHERS: dict[str, Peer] = {"ours": guided, **PEERS}
# (searcher, evaluations, another one, its evaluations): in how many seeds the first is ahead.
DUELS = (
    ("ours", 100, "optuna_nsga2", 500),
    ("ours", 100, "linas", 250),
    ("linas", 100, "optuna_nsga2", 500),
    ("linas", 100, "dynas_nsga2", 500),
)


class OptionError(ValueError):
    """An option is not usable; the message names it."""


@dataclass(frozen=True, slots=True)
class Task:
    device: str
    searcher: str
    seed: int


@dataclass(frozen=True, slots=True)
class Run:
    """One search."""

    task: Task
    hypervolume: dict[int, float]
    """By evaluations so far."""
    evaluated: float
    """Accuracies that it asked for, in evaluations on all images; `random` needs none."""
    repeats: int
    """Evaluations of a network that it had evaluated before."""
    proposing_s: float
    """Processor time of everything but accuracies."""


class Clocked:
    """A landscape as searchers see it, which keeps the time that accuracies take and counts them."""

    def __init__(self, landscape: Landscape) -> None:
        self._landscape = landscape
        self.seconds = 0.0
        self.evaluated = 0.0

    @property
    def space(self) -> Space:
        return self._landscape.space

    @property
    def images(self) -> Index:
        """Numbers of images on which an accuracy can be had; the last is all."""
        return self._landscape.images

    def accuracy(self, codes: Codes, images: int | None = None) -> F64:
        start = time.process_time()
        found = self._landscape.accuracy(codes, images)
        self.seconds += time.process_time() - start
        every = int(self._landscape.images[-1])
        self.evaluated += len(codes) * (images or every) / every
        return found


def run(landscape: Landscape, evaluations: int, task: Task) -> Run:
    surface, predictor = Clocked(landscape), landscape.predictors[task.device]
    start = time.process_time()
    rows = SEARCHERS[task.searcher](surface, predictor, evaluations, task.seed)
    proposing = time.process_time() - start - surface.seconds
    reached = {count: volume(landscape, predictor, rows[:count]) for count in checkpoints(evaluations)}
    repeats = len(rows) - len(np.unique(landscape.space.canonical(rows), axis=0))
    return Run(task, reached, surface.evaluated, repeats, proposing)


def volume(landscape: Landscape, predictor: LatencyPredictor, codes: Codes) -> float:
    largest = landscape.space.encode([landscape.space.largest()])
    return hypervolume(landscape.accuracy(codes), predictor.predict(codes), float(predictor.predict(largest)[0]))


def checkpoints(evaluations: int) -> list[int]:
    return sorted({*(count for count in CHECKPOINTS if count < evaluations), evaluations})


def runs(landscape: Landscape, tasks: Sequence[Task], evaluations: int, processes: int) -> list[Run]:
    """In the order of the tasks."""
    of = partial(run, landscape, evaluations)
    if processes == 1:
        return [of(task) for task in tasks]
    # Not forked: a copy of a process in which OpenMP has run may hang.
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        return list(pool.map(of, tasks))


def by_searcher(found: Sequence[Run]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for each in found:
        groups.setdefault(each.task.searcher, []).append(each)
    return groups


def table(found: Sequence[Run], best: float) -> list[str]:
    """One line a searcher: shares of the best hypervolume in percent, median and range over seeds; other medians."""
    counts, figures = list(found[0].hypervolume), ("evaluated", "repeats", "proposing_s")
    lines = [f"{'searcher':16s}" + "".join(f"{f'at {count}':>22s}" for count in counts) + "  evaluated repeats seconds"]
    for name, own in by_searcher(found).items():
        cells = []
        for count in counts:
            shares = 100 * np.array([each.hypervolume[count] for each in own]) / best
            cells.append(f"{np.median(shares):.2f} ({shares.min():.2f}-{shares.max():.2f})")
        evaluated, repeats, seconds = (np.median([getattr(each, figure) for each in own]) for figure in figures)
        line = f"{name:16s}" + "".join(f"{cell:>22s}" for cell in cells)
        lines.append(f"{line}{evaluated:11.0f}{repeats:8.0f}{seconds:8.1f}")
    return lines


def wins(found: Sequence[Run]) -> list[dict[str, object]]:
    """For each of `DUELS` that was fought on a device, in how many seeds the first searcher is ahead."""
    volumes = {each.task: each.hypervolume for each in found}
    result: list[dict[str, object]] = []
    for device, (name, count, other, later) in product(dict.fromkeys(task.device for task in volumes), DUELS):
        own = [task for task in volumes if (task.device, task.searcher) == (device, name)]
        pairs = [(volumes[task], volumes.get(replace(task, searcher=other), {})) for task in own]
        fought = [first[count] > second[later] for first, second in pairs if count in first and later in second]
        if fought:
            duel = {"searcher": name, "at": count, "other": other, "other_at": later}
            result.append({"device": device, **duel, "wins": sum(fought), "of": len(fought)})
    return result


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER, help="of a landscape")
    parser.add_argument("--seeds", type=int, default=10, help="searches of each searcher for each device")
    parser.add_argument("--evaluations", type=int, default=CHECKPOINTS[-1], help="of each search")
    parser.add_argument(
        "--peers", nargs="+", choices=tuple(SEARCHERS), help="by default all quick ones", metavar="NAME"
    )
    parser.add_argument("--devices", nargs="+", help="by default all of the landscape", metavar="NAME")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--generations", type=int, default=GENERATIONS, help="for the best known front, of 1,000 each")
    options = parser.parse_args(argv)
    options.peers = options.peers or [name for name in SEARCHERS if name not in SLOW]
    return options


def check(options: argparse.Namespace, landscape: Landscape) -> None:
    """`OptionError` for what cannot be run, before anything runs."""
    for name in options.devices or ():
        if name not in landscape.predictors:
            raise OptionError(f"--devices: no device {name!r}; there are {', '.join(landscape.predictors)}")
    for name in ("seeds", "evaluations", "processes", "generations"):
        if getattr(options, name) < 1:
            raise OptionError(f"--{name} must be 1 or more, not {getattr(options, name)}")


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    start = time.perf_counter()
    try:
        landscape = Landscape.load(options.folder)
        check(options, landscape)
    except (LandscapeError, OptionError) as error:
        print(error, file=sys.stderr)
        return 2
    devices = {}
    found: list[Run] = []
    for device in options.devices or landscape.predictors:
        predictor = landscape.predictors[device]
        known = best_known(landscape, predictor, options.generations)
        best = volume(landscape, predictor, known)
        tasks = [Task(device, name, seed) for name, seed in product(options.peers, range(options.seeds))]
        own = runs(landscape, tasks, options.evaluations, options.processes)
        print(f"{device}: percent of the best known hypervolume, {best:.4f} with {len(known)} architectures")
        print("\n".join(f"  {line}" for line in table(own, best)), flush=True)
        devices[device] = {"best_known": best, "front": len(known), "searchers": summary(own)}
        found += own
    duels = wins(found)
    for duel in duels:
        print("{device}: {searcher} at {at} is ahead of {other} at {other_at} in {wins} of {of} seeds".format(**duel))
    result = {"evolution": POPULATION * options.generations, "devices": devices, "wins": duels}
    print_result("search_quality", {**result, "seconds": time.perf_counter() - start})
    return 0


def summary(found: Sequence[Run]) -> dict[str, dict[str, object]]:
    """By searcher, each figure as a list over seeds."""
    result: dict[str, dict[str, object]] = {}
    for name, own in by_searcher(found).items():
        volumes = {str(count): [each.hypervolume[count] for each in own] for count in own[0].hypervolume}
        figures = {key: [getattr(each, key) for each in own] for key in ("evaluated", "repeats", "proposing_s")}
        result[name] = {"hypervolume": volumes, **figures}
    return result


if __name__ == "__main__":
    sys.exit(main())
