"""What the search costs beside the evaluations: candidates a second through the predictor, and overhead an evaluation.

    python benchmarks/search_overhead.py [--evaluations 60] [--devices 3]

The overhead is everything in `search` but the evaluations themselves (proposing, predicting, storing, fronts), as
a share of their time, with a real evaluator (CIFAR-10's space and image count, random weights and images) on one thread.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from latency_tables.predicting.predictor import AdditivePredictor
from latency_tables.profile import plan
from nas.job import SearchSettings
from nas.searching.engine import search
from nas.searching.evaluator import Evaluator, Score
from nas.searching.runners import LocalRunner
from nas.searching.store import EvaluationStore
from search_spaces import Arch, Space, costs, define_space
from supernets.supernet import Supernet

CANDIDATES = 100_000


class Clocked(LocalRunner):
    """Adds up the seconds spent in evaluations."""

    seconds = 0.0

    def scores(self, archs: Sequence[Arch]) -> Iterator[tuple[Arch, Score]]:
        for arch, score in super().scores(archs):
            self.seconds += score.seconds
            yield arch, score


def predictor_of(space: Space) -> AdditivePredictor:
    """A predictor fitted to made-up latencies: about 1 ms for 10 million MACs, with 3% noise."""
    codes = space.encode(plan(space, 80))
    noise = np.random.default_rng(0).normal(1.0, 0.03, len(codes))
    return AdditivePredictor.fit(space, codes, (0.05 + costs(space, codes, "macs") / 1e7) * noise)


def throughput(space: Space, repeats: int) -> list[float]:
    """Candidates a second, sampling excluded; one figure a repeat."""
    predictor, rng = predictor_of(space), np.random.default_rng(1)
    figures = []
    for _ in range(repeats):
        codes = space.sample(rng, CANDIDATES)
        start = time.perf_counter()
        predictor.predict(codes)
        figures.append(CANDIDATES / (time.perf_counter() - start))
    return figures


def overhead(space: Space, evaluations: int, devices: int, images: int) -> dict[str, float]:
    """Search with real evaluations; seconds in them and around them."""
    torch.manual_seed(0)
    size = int(space.largest().values["resolution"])
    calibration = [torch.rand(256, 3, size, size) for _ in range(4)]
    validation = [(torch.rand(256, 3, size, size), torch.randint(10, (256,))) for _ in range(max(1, images // 256))]
    runner = Clocked(Evaluator(Supernet(space).eval(), calibration, validation))
    predictors = {f"device{i}": predictor_of(space) for i in range(devices)}
    settings = SearchSettings(evaluations=evaluations, population=20)
    with tempfile.TemporaryDirectory() as folder, EvaluationStore(Path(folder) / "store.sqlite", "bench") as store:
        start = time.perf_counter()
        found = search(space, predictors, runner, store, settings, seed=0)
        total = time.perf_counter() - start
    return {
        "evaluations": len(found.codes),
        "proposals": found.proposals,
        "evaluation_ms": 1000 * runner.seconds / len(found.codes),
        "overhead_ms": 1000 * (total - runner.seconds) / len(found.codes),
        "overhead": (total - runner.seconds) / runner.seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, default=60)
    parser.add_argument("--devices", type=int, default=3)
    parser.add_argument("--images", type=int, default=2500, help="validation images an evaluation")
    parser.add_argument("--quick", action="store_true", help="12 evaluations of 256 images")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.evaluations, arguments.images = 12, 256
    spaces = {"tiny": define_space("tiny"), "mobilenet_v3": define_space("mobilenet_v3", resolutions=[128, 160, 192])}
    rates = {name: throughput(space, repeats=9) for name, space in spaces.items()}
    result: dict[str, object] = {"benchmark": "search_overhead"}
    for name, figures in rates.items():
        low, middle, high = np.percentile(figures, [25, 50, 75])
        print(f"{name}: {middle:,.0f} candidates/s (quartiles {low:,.0f} - {high:,.0f})")
        result[f"candidates_per_s_{name}"] = {"median": round(middle), "quartiles": [round(low), round(high)]}
    measured = overhead(spaces["tiny"], arguments.evaluations, arguments.devices, arguments.images)
    print(
        f"search: {measured['evaluation_ms']:.0f} ms an evaluation, {measured['overhead_ms']:.1f} ms around it "
        f"({100 * measured['overhead']:.2f}%)"
    )
    print(json.dumps({**result, **measured}))


if __name__ == "__main__":
    main()
