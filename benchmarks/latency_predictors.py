"""How good each kind of predictor is on networks of a table that it has not seen, at several numbers of measured ones.

    python benchmarks/latency_predictors.py TABLE.json [TABLE.json ...] [--sizes 20 50 100 200] [--seeds 5]

Each split fits to so many networks, the table's fastest and slowest among them, and predicts all others. `selected` is what
`select` chooses. The noise floor is the table's: no error can be told apart below it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields

import numpy as np
from numpy.typing import NDArray
from ratio import print_result

from latency_tables.errors import LatencyError
from latency_tables.predicting.metrics import mape, spearman, within
from latency_tables.predicting.predictor import LatencyPredictor
from latency_tables.predicting.select import KINDS, MIN_SELECT, select
from latency_tables.table import LatencyTable, load
from search_spaces import Codes

COVERAGE = 0.9
CANDIDATES = 100_000
METHODS = {**{kind: {kind: fit} for kind, fit in KINDS.items()}, "selected": dict(KINDS)}

F64 = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Score:
    """One method on one split, or the mean over splits. Shares and errors in percent."""

    mape: float
    within_5: float
    within_10: float
    spearman: float
    coverage: float
    """Of 90% intervals."""
    below_upper: float
    """Share below the bound of 90% probability."""
    half_width: float
    """Of 90% intervals, relative to the prediction."""
    fit_s: float
    """Processor time of the fit and of the cross-validation that its intervals need."""
    per_second: float
    """Predictions in a batch of 100,000, by processor time, which a busy machine disturbs least."""


def splits(latency_ms: F64, size: int, seeds: int) -> Iterator[tuple[Indices, Indices]]:
    """Networks to fit to and networks to predict. A predictor is not asked to extrapolate, as when it is judged."""
    ends = np.array([latency_ms.argmin(), latency_ms.argmax()])
    free = np.setdiff1d(np.arange(len(latency_ms)), ends)
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(free)
        yield np.concatenate([ends, order[: size - 2]]), order[size - 2 :]


def score(predictor: LatencyPredictor, codes: Codes, measured: F64, fit_s: float, candidates: Codes) -> Score:
    predicted = predictor.predict(codes)
    low, high = predictor.interval(codes, COVERAGE)
    start = time.process_time()
    predictor.predict(candidates)
    return Score(
        mape=100 * mape(predicted, measured),
        within_5=100 * within(predicted, measured, 0.05),
        within_10=100 * within(predicted, measured, 0.10),
        spearman=spearman(predicted, measured),
        coverage=100 * float(np.mean((low <= measured) & (measured <= high))),
        below_upper=100 * float(np.mean(measured <= predictor.upper(codes, COVERAGE))),
        half_width=100 * float(np.mean(high / predicted - 1)),
        fit_s=fit_s,
        per_second=len(candidates) / (time.process_time() - start),
    )


def compare(table: LatencyTable, size: int, seeds: int) -> dict[str, Score]:
    """Each method's mean over the splits."""
    codes, measured = table.codes(), table.latency_ms()
    candidates = table.space.sample(np.random.default_rng(0), CANDIDATES)
    scores: dict[str, list[Score]] = {method: [] for method in METHODS}
    for fitted, unseen in splits(measured, size, seeds):
        for method, kinds in METHODS.items():
            start = time.process_time()
            predictor = select(table.space, codes[fitted], measured[fitted], kinds=kinds).predictor
            taken = time.process_time() - start
            scores[method].append(score(predictor, codes[unseen], measured[unseen], taken, candidates))
    return {method: mean(found) for method, found in scores.items()}


def mean(scores: list[Score]) -> Score:
    return Score(**{f.name: float(np.mean([getattr(each, f.name) for each in scores])) for f in fields(Score)})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tables", nargs="+", metavar="TABLE.json")
    parser.add_argument("--sizes", nargs="+", type=int, default=[20, 50, 100, 200])
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    results = []
    for path in arguments.tables:
        try:
            table = load(path)
        except LatencyError as error:
            sys.exit(str(error))
        n, floor = len(table.entries), 100 * table.noise_floor
        print(f"{path}: {n} networks of {table.space.family} on {table.device.id}, noise floor {floor:.2f}%")
        for size in arguments.sizes:
            if not MIN_SELECT <= size <= n - 10:
                print(f"  {size} networks: skipped; wanted {MIN_SELECT} to {n - 10}")
                continue
            found = compare(table, size, arguments.seeds)
            print_scores(size, found)
            means = {method: asdict(each) for method, each in found.items()}
            results.append({"table": path, "noise_floor": floor, "networks": size, "methods": means})
    print_result("latency_predictors", {"seeds": arguments.seeds, "results": results})


def print_scores(size: int, found: dict[str, Score]) -> None:
    print(f"  fitted to {size:3d}   MAPE  <=5%  <=10%  Spearman  covered  below  +-width  fit s  predictions/s")
    for method, s in found.items():
        print(
            f"    {method:10s} {s.mape:6.2f} {s.within_5:5.1f} {s.within_10:6.1f} {s.spearman:9.4f} {s.coverage:8.1f} "
            f"{s.below_upper:6.1f} {s.half_width:8.2f} {s.fit_s:6.2f} {s.per_second:14,.0f}"
        )


if __name__ == "__main__":
    main()
