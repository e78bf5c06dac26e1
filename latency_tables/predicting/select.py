"""Choosing among kinds of predictors by cross-validation on the measured networks.

Notation: n networks, m of them left out once, j kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from latency_tables.predicting.additive import AdditivePredictor
from latency_tables.predicting.blend import Blend
from latency_tables.predicting.conformal import UNCALIBRATED, Conformal
from latency_tables.predicting.learned import MODELS, LearnedPredictor
from latency_tables.predicting.nnls import nnls
from latency_tables.predicting.predictor import LatencyPredictor
from latency_tables.predicting.samples import checked
from search_spaces import Codes, Space

F64 = NDArray[np.float64]
Indices = NDArray[np.int64]

FOLDS = 10
# With fewer networks there is nothing to choose by: the additive predictor, judged by its own leave-one-out errors.
MIN_SELECT = 16
# A single kind has to be better than the blend by so many standard errors. Over 148 fits to 20; 50 networks of four
# tables the mean error on unseen ones was 3.92; 2.52% when the smallest cross-validated error won and 3.66; 2.42% for
# the blend, and 90% intervals covered 84; 88% and 88; 89%: who wins narrowly was lucky in the errors that make intervals.
CLEARLY = 3.0
# How far a blend's weights are thought to stray from equal ones, a standard deviation. Over 144 such fits the error was
# 3.57; 2.37% without this prior, 3.43; 2.36% with it, and 3.55; 2.48% for the additive predictor alone.
WEIGHT_SPREAD = 0.25


class Fitted(LatencyPredictor, Protocol):
    """A predictor whose intervals can be calibrated."""

    def with_conformal(self, conformal: Conformal) -> Fitted:
        """The same predictions with intervals from these scores."""


Fit = Callable[[Space, Codes, F64], Fitted]

BLEND = "blend"
KINDS: dict[str, Fit] = {
    "additive": AdditivePredictor.fit,
    **{kind: partial(LearnedPredictor.fit, kind=kind) for kind in MODELS},
}


@dataclass(frozen=True, slots=True)
class Selection:
    """The predictor to use, fitted to all networks, and what cross-validation says of every kind."""

    predictor: LatencyPredictor
    kind: str
    errors: Mapping[str, float]
    """For each kind the mean of |predicted / measured - 1| over networks left out of its fit. Lower is better."""
    left_out: Indices
    """The networks that were left out once, as indices, `(m,)`."""
    left_out_ms: F64
    """What the chosen kind predicted of them then, `(m,)`."""


def select(
    space: Space, codes: Codes, latency_ms: F64, *, kinds: Mapping[str, Fit] = KINDS, seed: int = 0
) -> Selection:
    """Cross-validate every kind and their blend, and fit the one to use to all networks.

    All kinds see the same folds. The blend is used, unless one kind is clearly better. The chosen one's errors on
    left-out networks make its intervals. Fewer than `MIN_SELECT` networks get the additive predictor, whatever `kinds`.
    """
    codes, y = checked(space, codes, latency_ms)
    # In one order, whatever they came in: boosting makes differences out of rounding.
    order = np.lexsort((*codes.T, y))
    codes, y = codes[order], y[order]
    if len(y) < MIN_SELECT:
        return _additive_alone(space, codes, y)
    fold = folds(len(y), seed)
    truth = y[fold >= 0]
    relative_mj = np.stack([_left_out(fit, space, codes, y, fold) for fit in kinds.values()], axis=1) / truth[:, None]
    relative = dict(zip(kinds, relative_mj.T, strict=True))
    if len(kinds) > 1:
        relative[BLEND] = _blended(relative_mj, fold[fold >= 0])
    errors = {name: np.abs(each - 1) for name, each in relative.items()}
    kind = _choose(errors)
    if kind == BLEND:
        fitted: Fitted = _fit_blend(space, codes, y, kinds, _weights(relative_mj))
    else:
        fitted = kinds[kind](space, codes, y)
    predicted = relative[kind] * truth
    return Selection(
        predictor=fitted.with_conformal(Conformal.of(predicted, truth)),
        kind=kind,
        errors={name: float(each.mean()) for name, each in errors.items()},
        left_out=order[fold >= 0],
        left_out_ms=predicted,
    )


def folds(n: int, seed: int) -> Indices:
    """The fold of each of n networks in order of latency, `(n,)`; -1 for the first and the last, which none leaves out.

    No predictor should be asked to extrapolate. Of `FOLDS` networks that follow each other, every fold has one.
    """
    rng = np.random.default_rng(seed)
    inner = np.concatenate([rng.permutation(FOLDS) for _ in range(0, n, FOLDS)])
    return np.concatenate([[-1], inner[: n - 2], [-1]])


def _left_out(fit: Fit, space: Space, codes: Codes, y: F64, fold: Indices) -> F64:
    """What fits without a network's fold predict of it, `(m,)`."""
    predicted = np.zeros(len(y))
    for number in range(FOLDS):
        out = fold == number
        predicted[out] = fit(space, codes[~out], y[~out]).predict(codes[out])
    return predicted[fold >= 0]


def _weights(relative_mj: F64) -> F64:
    """How much of each kind makes the relative predictions nearest to 1, `(j,)`; alike where the data leave it open."""
    kinds = relative_mj.shape[1]
    noise = float(((relative_mj - 1) ** 2).mean(axis=0).min())
    pull = noise / WEIGHT_SPREAD**2
    return nnls(relative_mj.T @ relative_mj + pull * np.eye(kinds), relative_mj.sum(axis=0) + pull / kinds)


def _blended(relative_mj: F64, fold_m: Indices) -> F64:
    """The blend's predictions, with weights from the other folds, so that it is left-out like its members'."""
    blended = np.zeros(len(fold_m))
    for number in range(FOLDS):
        out = fold_m == number
        blended[out] = relative_mj[out] @ _weights(relative_mj[~out])
    return blended


def _choose(errors: Mapping[str, F64]) -> str:
    """The kind of the smallest mean error where that is clear, else the blend if there is one."""
    best = min(errors, key=lambda name: float(errors[name].mean()))
    if BLEND not in errors:
        return best
    gain = errors[BLEND] - errors[best]
    return best if gain.mean() > CLEARLY * gain.std() / np.sqrt(len(gain)) else BLEND


def _fit_blend(space: Space, codes: Codes, y: F64, kinds: Mapping[str, Fit], weights: F64) -> Blend:
    used = np.flatnonzero(weights)
    fits = [list(kinds.values())[i] for i in used]
    members = tuple(fit(space, codes, y).with_conformal(UNCALIBRATED) for fit in fits)
    return Blend(space, members, weights[used], UNCALIBRATED)


def _additive_alone(space: Space, codes: Codes, y: F64) -> Selection:
    predictor = AdditivePredictor.fit(space, codes, y)
    error = float(np.abs(1 / (1 + predictor.conformal.scores) - 1).mean())
    return Selection(predictor, "additive", {"additive": error}, np.arange(0), np.zeros(0))
