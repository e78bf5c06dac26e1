"""What additive models say at best: candidates for a search, and a bound for its report.

Accuracy is fitted by main effects, cost is additive or made so, and integer programming finds the architecture of the highest
fitted accuracy at each cost. That is the optimum of the models, not of accuracy: main effects miss what choices do together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latency_tables.plan import plan
from latency_tables.predicting.predictor import AdditivePredictor
from nas.searching.additive import AdditiveModel, fit_left_out
from nas.searching.constraints import Constraint
from nas.searching.exact import Limit, Optimum, trace
from nas.searching.problem import Problem
from nas.searching.quantities import Target
from search_spaces import Codes

F64 = NDArray[np.float64]

# Costs that add up over the parts of a network, by the name of the quantity.
ADDITIVE = {"macs": "macs", "params": "params", "activation_bytes": "activation_bytes", "model_bytes": "weight_bytes"}
# Architectures that an additive model of a prediction is fitted to, and as many that it is tried on.
FITTED_TO = 150
TIME_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Bound:
    """The best fitted accuracy at each cost, and how far off the two models are."""

    quantity: str
    optima: tuple[Optimum, ...]
    costs: tuple[float, ...]
    accuracy_error: float
    """Mean absolute, of evaluated architectures that were left out of the fit."""
    cost_error: float
    """Mean relative; 0 where the predictor is additive itself."""


def bound(problem: Problem, target: Target, codes: Codes, accuracy: F64, points: int = 8) -> Bound | None:
    """The front of additive models fitted to evaluated rows; None without accuracy and a cost among the objectives, or where
    nothing meets the limits."""
    if "accuracy" not in problem.objectives or not problem.costs or len(codes) < 2:
        return None
    model, left_out = fit_left_out(problem.space, codes, accuracy)
    cost, error = cost_model(target, problem.costs[0])
    optima = trace(model, cost, _limits(problem, target), points, time_limit_s=TIME_LIMIT_S)
    if not optima:
        return None
    costs = cost.predict(np.concatenate([optimum.codes for optimum in optima]))
    return Bound(problem.costs[0], optima, tuple(costs.tolist()), float(np.abs(left_out - accuracy).mean()), error)


def exact_candidates(problem: Problem, targets: Sequence[Target], codes: Codes, accuracy: F64, points: int) -> Codes:
    """The optima of additive models on these targets: different canonical rows, which may be known."""
    found = [bound(problem, target, codes, accuracy, points) for target in targets]
    rows = [optimum.codes for each in found if each is not None for optimum in each.optima]
    return np.unique(np.concatenate([codes[:0], *rows]), axis=0)


def cost_model(target: Target, quantity: str) -> tuple[AdditiveModel, float]:
    """A quantity as an additive model, and how far off that is: the mean relative error on rows that it was not fitted to."""
    if quantity in ADDITIVE:
        return AdditiveModel.of_cost(target.space, ADDITIVE[quantity]), 0.0
    predictor = target.predictors.get(quantity)
    if isinstance(predictor, AdditivePredictor):
        return AdditiveModel.of_latency(predictor), 0.0
    rows = target.space.encode(plan(target.space, 2 * FITTED_TO, seed=0))
    truth, fitted = target.values(quantity, rows), slice(0, None, 2)
    # The latency predictor's own additive kind: it knows what layers cost, where main effects of choices are off by 22%.
    model = AdditiveModel.of_latency(AdditivePredictor.fit(target.space, rows[fitted], truth[fitted]))
    return model, float(np.abs(model.predict(rows[1::2]) / truth[1::2] - 1).mean())


def _limits(problem: Problem, target: Target) -> list[Limit]:
    """Those of the target's limits that additive models can tell; the others are left to the search."""
    return [
        Limit(cost_model(target, limit.quantity)[0], limit.bound)
        for limit in problem.limits_on(target)
        if _can_be_told(limit, target)
    ]


def _can_be_told(limit: Constraint, target: Target) -> bool:
    known = limit.quantity in ADDITIVE or limit.quantity in target.predictors
    return known and limit.at_most and limit.probability is None
