"""Predicting accuracy from the architectures evaluated so far, with how far to trust it.

An ensemble of Gaussian processes (Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006) on canonical
encodings. A linear fit of all main effects says how much each choice matters, and scales its column: that takes the place of
one length a choice, which a hundred evaluations cannot tell (22 choices, Kendall's tau on unseen networks after 60 evaluations:
0.73 with equal scales, 0.82 so; ridge regression 0.78). Members differ in how much the linear fit is shrunk, and are weighed by
how well they predict evaluations that they were not fitted to.

Notation: n evaluated architectures, c columns of the encoding. Members work in units of the accuracies' standard deviation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search_spaces import Codes, Space, costs

F64 = NDArray[np.float64]

# How much the linear fit that scales the columns is shrunk: one member of the ensemble for each.
SHRINKAGES = (1.0, 3.0, 10.0)
# A column without a main effect keeps this share of the mean scale: it may matter together with others.
LEAST_SCALE = 0.1
# Variances of the three parts and of the noise, relative to that of the accuracies; lengths relative to the columns.
GRID: dict[str, tuple[float, ...]] = {
    "linear": (0.0, 0.1, 0.3, 1.0, 3.0, 10.0),
    "local": (0.0, 0.03, 0.1, 0.3, 1.0, 3.0),
    "length": (0.35, 0.5, 0.7, 1.0, 1.5, 2.5),
    "size": (0.0, 0.03, 0.1, 0.3, 1.0, 3.0),
    "size_length": (1.0, 2.0, 4.0, 8.0),
    "noise": (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4),
}
START = {"linear": 1.0, "local": 0.3, "length": 1.0, "size": 0.3, "size_length": 4.0, "noise": 0.05}
SWEEPS = 2
# Rows that the settings are chosen on, and that the model is fitted to: beyond, both take longer and gain little.
CHOSEN_ON, MOST_ROWS = 150, 1000


# Parts of these rows that are left out in turn, to see how well the others predict them.
FOLDS = 5
# Accuracies that differ by less are as good as equal: the standard deviation that the model takes at least.
LEAST_STD = 1e-3


@dataclass(frozen=True, eq=False)
class AccuracyModel:
    """Accuracy on all validation images, of architectures that were not evaluated."""

    space: Space
    centre: float
    std: float
    size_centre: F64
    size_std: F64
    sizes: F64
    members: tuple[_Member, ...]
    weights: F64
    stretch: F64
    """Of each member's variance, because the fit that scales its columns has seen the accuracies too."""

    @staticmethod
    def fit(space: Space, codes: Codes, accuracy: F64, variance: F64 | None = None) -> AccuracyModel:
        """Fit to the canonical rows `(n, choices)` and their accuracies `(n,)`, n at least 2; their order does not matter.

        `variance` `(n,)` is what is known of each accuracy's own error, as of one on fewer images than the others.
        """
        rows = np.lexsort(codes.T)
        rows = rows[_some_rows(accuracy[rows], MOST_ROWS)]
        encoded = Encoded.of(space, codes[rows])
        centre, std = float(accuracy[rows].mean()), max(float(accuracy[rows].std()), LEAST_STD)
        size_centre = np.asarray(encoded.sizes.mean(axis=0), dtype=np.float64)
        size_std = np.asarray(np.maximum(encoded.sizes.std(axis=0), 1e-9), dtype=np.float64)
        sizes = (encoded.sizes - size_centre) / size_std
        y = (accuracy[rows] - centre) / std
        own = np.zeros(len(rows)) if variance is None else variance[rows] / std**2
        apart = _distances(sizes, sizes)
        few = _evenly(len(y), CHOSEN_ON)
        sample = (encoded.columns[few], apart[np.ix_(few, few)], y[few], own[few])
        members, scores, stretch = [], [], []
        for shrinkage in SHRINKAGES:
            settings = _choose(*sample, shrinkage)
            members.append(_Member.fit(encoded.columns, apart, y, own, shrinkage, settings))
            errors, variances = _left_out(*sample, shrinkage, settings)
            scores.append(-0.5 * float((np.log(variances) + errors**2 / variances).sum()))
            stretch.append(max(float((errors**2 / variances).mean()), 1.0))
        # Pseudo-Bayesian model averaging (Yao et al., "Using Stacking to Average Bayesian Predictive Distributions", 2018).
        weights = np.exp(np.array(scores) - max(scores))
        weights /= weights.sum()
        return AccuracyModel(
            space, centre, std, size_centre, size_std, sizes, tuple(members), weights, np.array(stretch)
        )

    def predict(self, codes: Codes) -> tuple[F64, F64]:
        """Mean and standard deviation of the accuracy of each row, as an evaluation would count it, `(n,)` each."""
        encoded = Encoded.of(self.space, codes)
        apart = _distances((encoded.sizes - self.size_centre) / self.size_std, self.sizes)
        found = [member.predict(encoded.columns, apart) for member in self.members]
        means, variances = (np.stack(each) for each in zip(*found, strict=True))
        mean = self.weights @ means
        variance = self.weights @ (self.stretch[:, None] * variances + (means - mean) ** 2)
        return self.centre + self.std * mean, self.std * np.sqrt(variance)


@dataclass(frozen=True, eq=False)
class Encoded:
    """Architectures as numbers: `columns (n, c)`, each choice from -1 to 1 in the order of its values, 0 where inactive, then
    which conditional choices are active; `sizes (n, 3)`, the logarithms of MACs, parameters and activation bytes."""

    columns: F64
    sizes: F64

    @staticmethod
    def of(space: Space, codes: Codes) -> Encoded:
        active = space.active(codes)
        steps = np.maximum(space.cardinalities - 1, 1).astype(np.float64)
        ordinals = np.where(active, 2.0 * codes / steps - 1.0, 0.0)[:, space.cardinalities > 1]
        conditional = np.array([choice.when is not None for choice in space.choices])
        columns = np.concatenate([ordinals, 2.0 * active[:, conditional] - 1.0], axis=1)
        if columns.shape[1] == 0:  # a space of one network
            columns = np.zeros((len(codes), 1))
        sizes = [costs(space, codes, metric) for metric in ("macs", "params", "activation_bytes")]
        return Encoded(columns, np.log(np.maximum(np.stack(sizes, axis=1), 1.0)))


@dataclass(frozen=True, eq=False)
class _Member:
    """One Gaussian process: linear in the columns, plus Matern-5/2 over them and over sizes, whose distances are `apart`."""

    columns: F64
    scale_c: F64
    settings: Mapping[str, float]
    pull_n: F64
    inverse_nn: F64

    @staticmethod
    def fit(columns: F64, apart: F64, y: F64, own: F64, shrinkage: float, settings: Mapping[str, float]) -> _Member:
        scale = _scales(columns, y, shrinkage)
        columns = columns * scale
        covariance = _covariance(_parts(columns, columns, apart, settings), settings)
        inverse = np.asarray(np.linalg.inv(covariance + np.diag(settings["noise"] + own)), dtype=np.float64)
        return _Member(columns, scale, settings, inverse @ y, inverse)

    def predict(self, columns: F64, apart: F64) -> tuple[F64, F64]:
        """Mean and variance. The noise is what an architecture has of its own, so its accuracy has it as well."""
        columns = columns * self.scale_c
        cross = _covariance(_parts(columns, self.columns, apart, self.settings), self.settings)
        own = self.settings["linear"] * (columns**2).mean(axis=1) + self.settings["local"] + self.settings["size"]
        variance = own - ((cross @ self.inverse_nn) * cross).sum(axis=1)
        return cross @ self.pull_n, np.maximum(variance, 0.0) + self.settings["noise"]


def _left_out(
    columns: F64, apart: F64, y: F64, own: F64, shrinkage: float, settings: Mapping[str, float]
) -> tuple[F64, F64]:
    """Of each row, the error and the variance of a member fitted to the other folds. The closed form that leaves out one row
    (eq. 5.10-5.12) would keep the scales, which know it."""
    errors, variances = np.empty(len(y)), np.empty(len(y))
    for fold in range(min(FOLDS, len(y))):
        out = np.arange(len(y)) % FOLDS == fold
        rest = ~out
        member = _Member.fit(columns[rest], apart[np.ix_(rest, rest)], y[rest], own[rest], shrinkage, settings)
        mean, variance = member.predict(columns[out], apart[np.ix_(out, rest)])
        errors[out], variances[out] = y[out] - mean, variance + own[out]
    return errors, variances


def _scales(columns: F64, y: F64, shrinkage: float) -> F64:
    """One factor a column, in proportion to its main effect; their mean square is 1."""
    centred = columns - columns.mean(axis=0)
    gram = centred.T @ centred + shrinkage * np.eye(columns.shape[1])
    effect = np.abs(np.linalg.solve(gram, centred.T @ y))
    scale = effect / (float(effect.mean()) or 1.0) + LEAST_SCALE
    return np.asarray(scale / np.sqrt((scale**2).mean()), dtype=np.float64)


def _choose(columns: F64, apart: F64, y: F64, own: F64, shrinkage: float) -> dict[str, float]:
    """The settings of `GRID` with the largest marginal likelihood (eq. 5.8), one at a time."""
    columns = columns * _scales(columns, y, shrinkage)
    parts = _parts(columns, columns, apart)
    best = START
    likelihood = _likelihood(parts, best, y, own)
    for name in list(GRID) * SWEEPS:
        for value in GRID[name]:
            tried = {**best, name: value}
            if tried != best and (found := _likelihood(parts, tried, y, own)) > likelihood:
                best, likelihood = tried, found
    return best


Parts = Mapping[tuple[str, float], F64]


def _parts(columns: F64, others: F64, apart: F64, only: Mapping[str, float] | None = None) -> Parts:
    """The covariances that settings weigh, by name and length; with `only`, those that these settings need."""
    lengths, size_lengths = (GRID[name] if only is None else (only[name],) for name in ("length", "size_length"))
    width = columns.shape[1]
    distance = _distances(columns, others) / np.sqrt(width)
    return {
        ("linear", 0.0): columns @ others.T / width,
        **{("local", length): _matern(distance / length) for length in lengths},
        **{("size", length): _matern(apart / length) for length in size_lengths},
    }


def _covariance(parts: Parts, settings: Mapping[str, float]) -> F64:
    return (
        settings["linear"] * parts["linear", 0.0]
        + settings["local"] * parts["local", settings["length"]]
        + settings["size"] * parts["size", settings["size_length"]]
    )


def _likelihood(parts: Parts, settings: Mapping[str, float], y: F64, own: F64) -> float:
    lower = np.linalg.cholesky(_covariance(parts, settings) + np.diag(settings["noise"] + own))
    whitened = np.linalg.solve(lower, y)
    return float(-0.5 * whitened @ whitened - np.log(np.diag(lower)).sum())


def _distances(a: F64, b: F64) -> F64:
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)))


def _matern(distance: F64) -> F64:
    """Of smoothness 5/2 (eq. 4.17)."""
    d = np.sqrt(5.0) * distance
    return np.asarray((1 + d + d * d / 3) * np.exp(-d))


def _some_rows(accuracy: F64, most: int) -> NDArray[np.int64]:
    """All rows, or the most accurate quarter of `most` and the rest evenly from the others, in order."""
    if len(accuracy) <= most:
        return np.arange(len(accuracy))
    best = np.argsort(-accuracy, kind="stable")[: most // 4]
    others = np.setdiff1d(np.arange(len(accuracy)), best)
    return np.sort(np.concatenate([best, others[_evenly(len(others), most - len(best))]]))


def _evenly(n: int, most: int) -> NDArray[np.int64]:
    return np.arange(n) if n <= most else np.linspace(0, n - 1, most).round().astype(np.int64)
