"""A landscape: architectures of a trained supernet with their recorded accuracies, and a surrogate for all others.

    python benchmarks/landscape.py [FOLDER]        how well the surrogate predicts architectures that it has not seen

A folder has `space.json`, `landscape.npz` and `predictors/*.json`, one a device. The NPZ file holds `codes (n, choices)`,
canonical and each once, and `hits (n, k)`: the correct answers among the first `images (k,)` of the validation images.

Notation: n recorded architectures, m asked for, k numbers of images.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import moocore
import numpy as np
from numpy.typing import NDArray
from ratio import print_result
from scipy.special import ndtri
from scipy.stats import kendalltau
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from latency_tables.errors import LatencyError
from latency_tables.predicting.predictor import LatencyPredictor, load_predictor
from search_spaces import Codes, Space, SpaceError, costs, crossover, mutate

F64 = NDArray[np.float64]
U64 = NDArray[np.uint64]
Index = NDArray[np.int64]

FOLDER = Path(__file__).parent / "landscape"
# Named here, lest a new cost in the package changes the answers of the surrogate.
SIZES = ("macs", "params", "activation_bytes")
FOLDS = 5
NETWORKS = 4
# The share of the recorded architectures that a search is about.
TOP = 0.1
# Of the evolution that looks for the best front there is.
POPULATION, GENERATIONS = 1000, 200


class LandscapeError(ValueError):
    """A landscape's folder is not usable; the message names the file."""


class Surface(Protocol):
    """What a searcher may know: the space, and accuracies, each row of which is an evaluation."""

    @property
    def space(self) -> Space:
        """The space of the architectures."""

    def accuracy(self, codes: Codes) -> F64:
        """Canonical codes `(m, choices)` -> `(m,)`."""


@dataclass(frozen=True, slots=True)
class Quality:
    """How well architectures are predicted by fits to others; `top_` is of the most accurate tenth alone."""

    r2: float
    kendall: float
    rmse: float
    top_r2: float
    top_kendall: float
    top_rmse: float

    @staticmethod
    def of(predicted: F64, recorded: F64) -> Quality:
        top = recorded >= np.quantile(recorded, 1 - TOP)
        return Quality(*_figures(predicted, recorded), *_figures(predicted[top], recorded[top]))


def _figures(predicted: F64, recorded: F64) -> tuple[float, float, float]:
    squared = float(np.mean((predicted - recorded) ** 2))
    return 1 - squared / float(recorded.var()), float(kendalltau(predicted, recorded).statistic), squared**0.5


@dataclass(frozen=True, slots=True, eq=False)
class Surrogate:
    """Accuracy on the first `images[column]` images, with what no smooth function of the architecture explains.

    Boosted trees and neural networks predict the accuracy on all images, and a line from it that on fewer: kinds of models
    that no searcher uses. Each architecture has a residual besides, always the same, drawn with the covariance that
    held-out errors have over the numbers of images. So the surface is as rough as the recorded one, as in NAS-Bench-301
    (Zela et al., "Surrogate NAS Benchmarks: Going Beyond the Limited Search Spaces of Tabular NAS Benchmarks", ICLR 2022).
    """

    space: Space
    models: tuple[Any, ...]
    lines_k2: F64
    spread_kk: F64
    """Lower triangular; times its transpose it is the covariance."""
    quality: Quality

    @staticmethod
    def fit(space: Space, codes: Codes, accuracy_nk: F64) -> Surrogate:
        x, y = features(space, codes), accuracy_nk[:, -1]
        fold = np.random.default_rng(0).permutation(len(y)) % FOLDS
        held_out = np.empty(len(y))
        for i in range(FOLDS):
            held_out[fold == i] = _mean(_fit(x[fold != i], y[fold != i]), x[fold == i])
        lines = np.array([np.polyfit(held_out, column, 1) for column in accuracy_nk.T[:-1]] + [[1.0, 0.0]])
        errors = accuracy_nk - np.outer(held_out, lines[:, 0]) - lines[:, 1]
        covariance = np.atleast_2d(np.cov(errors.T)) + 1e-12 * np.eye(len(lines))
        spread = np.linalg.cholesky(covariance).astype(np.float64)
        return Surrogate(space, _fit(x, y), lines, spread, Quality.of(held_out, y))

    def accuracy(self, codes: Codes, column: int) -> F64:
        slope, intercept = self.lines_k2[column]
        residual = _normals(keys(self.space, codes), len(self.spread_kk)) @ self.spread_kk[column]
        total: F64 = slope * _mean(self.models, features(self.space, codes)) + intercept + residual
        return total


def features(space: Space, codes: Codes) -> F64:
    """`(m, features)`: one column a value of a choice, one a choice for its place among the values, and logarithms of
    `SIZES`; 0 where a choice is inactive."""
    active = space.active(codes)
    values = [active[:, [j]] & (codes[:, [j]] == np.arange(k)) for j, k in enumerate(space.cardinalities)]
    places = np.where(active, codes + 1, 0) / space.cardinalities
    sizes = np.log(np.stack([costs(space, codes, name) for name in SIZES], axis=1))
    return np.concatenate([*values, places, sizes], axis=1)


def _fit(x: F64, y: F64) -> tuple[Any, ...]:
    """Trees once and networks several times, so that the mean over models weighs networks more: they predict better."""
    trees = HistGradientBoostingRegressor(max_iter=250, max_depth=3, min_samples_leaf=15, random_state=0)
    networks = [
        MLPRegressor(hidden_layer_sizes=(64,), alpha=5.0, solver="lbfgs", max_iter=200, random_state=seed)
        for seed in range(NETWORKS)
    ]
    models = [trees, *(make_pipeline(StandardScaler(), network) for network in networks)]
    scaled = [TransformedTargetRegressor(model, transformer=StandardScaler()) for model in models]
    with warnings.catch_warnings():
        # 200 steps do not reach the least loss on the training set; held-out errors fall no further after them.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return tuple(model.fit(x, y) for model in scaled)


def _mean(models: tuple[Any, ...], x: F64) -> F64:
    predicted: F64 = np.mean([model.predict(x) for model in models], axis=0)
    return predicted


def keys(space: Space, codes: Codes) -> U64:
    """One number an architecture, the same in every process: canonical codes `(m, choices)` -> `(m,)`."""
    number = np.zeros(len(codes), dtype=np.uint64)
    for column, values in zip(codes.T, space.cardinalities, strict=True):
        number = number * np.uint64(values) + column.astype(np.uint64)
    return number


def _normals(seeds: U64, k: int) -> F64:
    """Standard normal numbers `(m, k)`, each row a function of its seed alone (SplitMix64: Steele et al., OOPSLA 2014)."""
    state = _mixed(seeds)[:, None] + np.arange(1, k + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    drawn: F64 = ndtri(((_mixed(state) >> np.uint64(11)) + 0.5) / 2.0**53)
    return drawn


def _mixed(state: U64) -> U64:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@dataclass(frozen=True, slots=True, eq=False)
class Landscape:
    """What was recorded answers with its recorded accuracy; everything else with the surrogate's."""

    space: Space
    codes: Codes
    """In ascending order of their keys."""
    accuracy_nk: F64
    images: Index
    surrogate: Surrogate
    predictors: Mapping[str, LatencyPredictor]

    @staticmethod
    def of(
        space: Space,
        codes: Codes,
        hits: NDArray[np.integer[Any]],
        images: Index,
        predictors: Mapping[str, LatencyPredictor],
    ) -> Landscape:
        """Fit the surrogate to the recorded `codes (n, choices)` and `hits (n, k)` among the first `images (k,)`."""
        order = np.argsort(keys(space, codes))
        codes, accuracy = codes[order], hits[order] / images
        return Landscape(space, codes, accuracy, images, Surrogate.fit(space, codes, accuracy), predictors)

    @staticmethod
    def load(folder: Path = FOLDER) -> Landscape:
        """Read a folder and fit the surrogate; `LandscapeError` names the file that is wrong."""
        try:
            space = Space.from_json(json.loads((folder / "space.json").read_text(encoding="utf-8")))
            with np.load(folder / "landscape.npz", allow_pickle=False) as file:
                codes, hits, images = (file[name] for name in ("codes", "hits", "images"))
            found = {path.stem: load_predictor(path, space=space) for path in sorted(folder.glob("predictors/*.json"))}
        except (OSError, ValueError, KeyError, SpaceError, LatencyError) as error:
            raise LandscapeError(f"{folder}: not a landscape: {error}") from error
        _check(folder / "landscape.npz", space, codes, hits, images)
        if not found:
            raise LandscapeError(f"{folder}/predictors: wanted a predictor of one device or more, found none")
        return Landscape.of(space, codes.astype(np.int16), hits, images.astype(np.int64), found)

    def accuracy(self, codes: Codes, images: int | None = None) -> F64:
        """Share of correct answers among the first so many images, by default among all: canonical `(m, choices)`
        -> `(m,)`."""
        column = self._column(images)
        asked = keys(self.space, codes)
        known = keys(self.space, self.codes)
        place = np.minimum(np.searchsorted(known, asked), len(known) - 1)
        is_known = known[place] == asked
        answer: F64 = self.accuracy_nk[place, column]
        if not is_known.all():
            total = self.images[column]
            guessed = self.surrogate.accuracy(codes[~is_known], column)
            answer[~is_known] = np.rint(guessed * total).clip(0, total) / total
        return answer

    def _column(self, images: int | None) -> int:
        found = np.flatnonzero(self.images == (self.images[-1] if images is None else images))
        if not len(found):
            raise LandscapeError(f"recorded on {', '.join(map(str, self.images))} images, not on {images}")
        return int(found[0])

    def objectives(self, predictor: LatencyPredictor, codes: Codes) -> F64:
        """Both to be small, `(m, 2)`: errors on all images, and milliseconds."""
        return np.stack([1 - self.accuracy(codes), predictor.predict(codes)], axis=1)


def _check(path: Path, space: Space, codes: Any, hits: Any, images: Any) -> None:
    n, k = len(codes), len(images)
    if codes.shape != (n, len(space.choices)) or hits.shape != (n, k) or images.shape != (k,) or n < 10 * FOLDS:
        raise LandscapeError(
            f"{path}: wanted codes (n, {len(space.choices)}), hits (n, k) and images (k,) with n of {10 * FOLDS} or more, "
            f"found {codes.shape}, {hits.shape} and {images.shape}"
        )
    try:
        canonical = space.canonical(codes.astype(np.int16))
    except SpaceError as error:
        raise LandscapeError(f"{path}: codes: {error}") from error
    if (canonical != codes).any() or len(np.unique(codes, axis=0)) != n:
        raise LandscapeError(f"{path}: codes: wanted canonical rows, each once")
    if (np.diff(images) <= 0).any() or (hits < 0).any() or (hits > images).any():
        raise LandscapeError(f"{path}: wanted ascending images, and hits from 0 to images")


def fittest(points: F64, n: int) -> Index:
    """Indices of the n points to keep: by front, and in the last one by crowding distance (NSGA-II, Deb et al., 2002).

    Points `(m, d)`, all to be small.
    """
    rank = moocore.pareto_rank(points)
    last = np.sort(rank)[min(n, len(rank)) - 1]
    surely, perhaps = np.flatnonzero(rank < last), np.flatnonzero(rank == last)
    apart = _crowding(points[perhaps])
    return np.concatenate([surely, perhaps[np.argsort(-apart, kind="stable")[: n - len(surely)]]])


def _crowding(points: F64) -> F64:
    """Sum over objectives of the distance between a point's neighbours; the ends of a front are infinitely far apart."""
    total = np.zeros(len(points))
    for column in points.T:
        order = np.argsort(column, kind="stable")
        ordered = np.concatenate([[-np.inf], column[order], [np.inf]])
        total[order] += (ordered[2:] - ordered[:-2]) / (np.ptp(column) or 1.0)
    return total


def best_known(landscape: Landscape, predictor: LatencyPredictor, generations: int = GENERATIONS) -> Codes:
    """The front of everything recorded and of `POPULATION` more architectures a generation, found by evolution."""
    space, rng = landscape.space, np.random.default_rng(0)
    codes = np.unique(np.concatenate([landscape.codes, space.sample(rng, POPULATION)]), axis=0)
    points = landscape.objectives(predictor, codes)
    for _ in range(generations):
        parents = fittest(points, POPULATION)
        mothers, fathers = rng.choice(parents, (2, POPULATION))
        fathers[::2] = mothers[::2]  # half of the children are neighbours of one parent
        children = mutate(space, crossover(space, codes[mothers], codes[fathers], rng), rng)
        codes, first = np.unique(np.concatenate([codes[parents], children]), axis=0, return_index=True)
        points = np.concatenate([points[parents], landscape.objectives(predictor, children)])[first]
    front: Codes = codes[moocore.is_nondominated(points)]
    return front


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    start = time.process_time()
    try:
        landscape = Landscape.load(parser.parse_args().folder)
    except LandscapeError as error:
        print(error, file=sys.stderr)
        return 2
    fitted = time.process_time()
    codes = landscape.space.sample(np.random.default_rng(0), 50_000)
    landscape.accuracy(codes)
    rate = len(codes) / (time.process_time() - fitted)
    found = asdict(landscape.surrogate.quality)
    print(f"{len(landscape.codes)} recorded architectures; of held-out ones, all and the most accurate {TOP:.0%}:")
    for name in ("r2", "kendall", "rmse"):
        print(f"  {name:8s} {found[name]:7.4f} {found['top_' + name]:7.4f}")
    print(f"fitted in {fitted - start:.1f} s, {rate:,.0f} accuracies/s")
    print_result("landscape", {"recorded": len(landscape.codes), **found, "rows_per_s": rate})
    return 0


if __name__ == "__main__":
    sys.exit(main())
