"""What the search costs beside the evaluations, and what more devices cost.

    python benchmarks/search_overhead.py [FOLDER] [--evaluations 100] [--repeats 5]

Evaluations are answered by the recorded landscape of FOLDER after `--evaluation-ms` of sleep, one at a time. Three figures:

- overhead: wall time less the evaluations', as a share of all, in the default search; of that, the share of proposing;
- a batch: seconds to propose 50 architectures after 100 evaluations;
- devices: the time of a whole search for 4 and for 16 devices over that for one, taken in turn. Beyond the landscape's devices,
  others are made up from them: the latency to some power, so that each has another front.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from landscape import FOLDER, Landscape, LandscapeError
from numpy.typing import NDArray
from ours import IMAGES, Recorded
from ratio import print_result

from latency_tables.predicting.predictor import LatencyPredictor
from nas.searching.engine import Identity, Plan, search
from nas.searching.evaluations import Evaluations
from nas.searching.evaluator import Score
from nas.searching.guided import Known, propose
from nas.searching.problem import Problem
from nas.searching.quantities import Target
from nas.searching.store import TrialStore
from search_spaces import Arch, Codes, Space

POWERS = (1.0, 0.8, 1.2, 1.4)


class Slowed(Recorded):
    """Takes a while for each answer, and adds up the whiles."""

    def __init__(self, landscape: Landscape, evaluation_s: float) -> None:
        super().__init__(landscape)
        self._evaluation_s = evaluation_s
        self.seconds = 0.0

    def scores(self, archs: Sequence[Arch], images: int | None = None) -> Iterator[tuple[Arch, Score]]:
        for arch in archs:
            start = time.perf_counter()
            found = next(super().scores([arch], images))
            time.sleep(max(0.0, self._evaluation_s - (time.perf_counter() - start)))
            self.seconds += time.perf_counter() - start
            yield found


@dataclass(frozen=True)
class Other:
    """A made-up device: another one's latency to some power."""

    like: LatencyPredictor
    power: float

    @property
    def space(self) -> Space:
        return self.like.space

    def predict(self, codes: Codes) -> NDArray[np.float64]:
        return np.asarray(self.like.predict(codes) ** self.power)


def problem_of(landscape: Landscape, devices: int) -> Problem:
    made = [Other(like, power) for power in POWERS for like in landscape.predictors.values()]
    if devices > len(made):
        raise SystemExit(f"{len(made)} devices at most, not {devices}")
    targets = [Target(f"d{i:02d}", landscape.space, 1, {"latency_ms": each}) for i, each in enumerate(made[:devices])]
    return Problem(landscape.space, tuple(targets))


def timed(landscape: Landscape, devices: int, evaluations: int, evaluation_s: float, seed: int) -> dict[str, float]:
    """One search into a file of its own: seconds in all, in evaluations, and in proposing."""
    problem, runner = problem_of(landscape, devices), Slowed(landscape, evaluation_s)
    with tempfile.TemporaryDirectory() as folder, TrialStore(Path(folder) / "store.sqlite") as store:
        start = time.perf_counter()
        plan = Plan("guided", evaluations, (IMAGES,), seed=seed)
        found = search(problem, plan, Identity("search"), store, Evaluations(store, "landscape", runner, problem.space))
        total = time.perf_counter() - start
    return {"total_s": total, "evaluations_s": runner.seconds, "proposing_s": found.proposing_seconds}


def batch_s(landscape: Landscape, known: int, n: int, seed: int) -> float:
    """Seconds to propose `n` architectures for one device after `known` random ones were evaluated."""
    rng = np.random.default_rng(seed)
    codes = np.unique(landscape.space.sample(rng, 2 * known), axis=0)[:known]
    accuracy = landscape.accuracy(codes)
    evaluated = Known(codes, accuracy, np.zeros(known), np.ones(known, dtype=np.bool_))
    start = time.perf_counter()
    proposed = propose(problem_of(landscape, 1), evaluated, rng, n)
    seconds = time.perf_counter() - start
    assert len(proposed) == n
    return seconds


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER, help="of a landscape")
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--evaluation-ms", type=float, default=20.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="30 evaluations, one repeat")
    options = parser.parse_args(argv)
    evaluations, repeats = (30, 1) if options.quick else (options.evaluations, options.repeats)
    try:
        landscape = Landscape.load(options.folder)
    except LandscapeError as error:
        print(error, file=sys.stderr)
        return 2
    landscape.accuracy(
        landscape.space.sample(np.random.default_rng(0), 1)
    )  # the surrogate is fitted when it is first asked
    counts = (1, 4, 16)
    found = {
        (devices, seed): timed(landscape, devices, evaluations, options.evaluation_ms / 1000, seed)
        for seed in range(repeats)
        for devices in counts
    }
    one = [found[1, seed] for seed in range(repeats)]
    engine = [(each["total_s"] - each["evaluations_s"] - each["proposing_s"]) / each["total_s"] for each in one]
    proposing = [each["proposing_s"] / each["total_s"] for each in one]
    batches = [batch_s(landscape, 100, 50, seed) for seed in range(repeats)]
    ratios = {n: [found[n, s]["total_s"] / found[1, s]["total_s"] for s in range(repeats)] for n in counts[1:]}
    print(
        f"overhead at {options.evaluation_ms:g} ms an evaluation: {100 * median(engine):.1f}% of the time, and proposing"
    )
    per_ms = 1000 * median(each["proposing_s"] for each in one) / evaluations
    print(f"  {100 * median(proposing):.1f}% ({per_ms:.1f} ms an evaluation)")
    print(f"a batch of 50 after 100 evaluations: {median(batches):.2f} s ({min(batches):.2f}-{max(batches):.2f})")
    for n, own in ratios.items():
        print(f"{n} devices over one: {median(own):.2f} ({min(own):.2f}-{max(own):.2f})")
    print_result(
        "search_overhead",
        {
            "evaluations": evaluations,
            "evaluation_ms": options.evaluation_ms,
            "engine_share": engine,
            "proposing_share": proposing,
            "batch_of_50_s": batches,
            "devices_over_one": {str(n): own for n, own in ratios.items()},
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
