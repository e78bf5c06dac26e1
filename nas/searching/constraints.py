"""Constraints such as `latency_ms <= 5 with 90%`: what they are read from, how far an architecture is from meeting them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from latency_tables.predicting.predictor import LatencyPredictor
from nas.errors import Infeasible, JobError
from search_spaces import COSTS, Codes, Space, costs, crossover, mutate

Metric = Callable[[Space, LatencyPredictor, Codes], NDArray[np.float64]]


def _cost(name: str) -> Metric:
    return lambda space, predictor, codes: costs(space, codes, name).astype(np.float64)


METRICS: dict[str, Metric] = {
    "latency_ms": lambda space, predictor, codes: predictor.predict(codes),
    **{name: _cost(name) for name in COSTS},
}

_PATTERN = re.compile(
    r"\s*([A-Za-z_]+)\s*(?:@\s*([A-Za-z0-9_.-]+?))?\s*(<=|>=)\s*(\S+)(?:\s+with\s+(\d+(?:\.\d*)?)\s*%)?\s*"
)


@dataclass(frozen=True, slots=True)
class Constraint:
    """`metric <= bound` (or `>=`), on one device or, with None, on each.

    With a `probability`, what has to meet the bound is the value that the latency stays under that often, by the
    predictor's interval.
    """

    text: str
    metric: str
    device: str | None
    at_most: bool
    bound: float
    probability: float | None = None

    def values(self, space: Space, predictor: LatencyPredictor, codes: Codes) -> NDArray[np.float64]:
        """What has to meet the bound, of each row."""
        if self.probability is not None:
            return predictor.upper(codes, self.probability)
        return METRICS[self.metric](space, predictor, codes)

    def violation(self, space: Space, predictor: LatencyPredictor, codes: Codes) -> NDArray[np.float64]:
        """By how much each row misses the bound, relative to it; not above 0 where it is met."""
        values = self.values(space, predictor, codes)
        return (values - self.bound if self.at_most else self.bound - values) / abs(self.bound)


def parse_constraint(text: str) -> Constraint:
    """Read `metric[@device] <= number [with probability%]`; metrics are those of `METRICS`."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise JobError(
            f"constraint {text!r} is not of the form 'latency_ms <= 5', 'latency_ms@device <= 5' or "
            "'latency_ms <= 5 with 90%'"
        )
    metric, device, sign, number, percent = match.groups()
    if metric not in METRICS:
        near = get_close_matches(metric, METRICS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(METRICS)}"
        raise JobError(f"constraint {text!r}: unknown metric {metric!r}; {hint}")
    try:
        bound = float(number)
    except ValueError:
        raise JobError(f"constraint {text!r}: {number!r} is not a number") from None
    if not math.isfinite(bound) or bound <= 0:
        raise JobError(f"constraint {text!r}: the bound must be a positive number")
    probability = None if percent is None else float(percent) / 100
    if probability is not None and not (metric == "latency_ms" and sign == "<=" and 0.5 <= probability < 1):
        raise JobError(f"constraint {text!r}: only 'latency_ms <= bound' takes a probability, from 50% to below 100%")
    return Constraint(" ".join(text.split()), metric, device, sign == "<=", bound, probability)


def violations(
    constraints: Sequence[Constraint], device: str, space: Space, predictor: LatencyPredictor, codes: Codes
) -> NDArray[np.float64]:
    """(n, constraints that concern this device); a row is feasible where nothing is above 0."""
    own = [each for each in constraints if each.device in (None, device)]
    columns = [each.violation(space, predictor, codes) for each in own]
    return np.stack(columns, axis=1) if columns else np.zeros((len(codes), 0))


def feasible_sample(
    constraints: Sequence[Constraint],
    device: str,
    space: Space,
    predictor: LatencyPredictor,
    rng: np.random.Generator,
    n: int,
) -> Codes:
    """Up to `n` different canonical rows that meet the constraints, found by evolution on predictions alone.

    `Infeasible` names the constraint that stays violated, and the closest value found.
    """
    ends = space.encode([space.smallest(), space.largest()])
    pool = np.unique(np.concatenate([ends, space.sample(rng, 4096)]), axis=0)
    for _ in range(30):
        excess = violations(constraints, device, space, predictor, pool).clip(min=0).sum(axis=1)
        if np.count_nonzero(excess == 0) >= n:
            break
        parents = pool[np.argsort(excess, kind="stable")[:512]]
        picked = rng.integers(len(parents), size=(2, 2048))
        children = mutate(space, crossover(space, parents[picked[0]], parents[picked[1]], rng), rng)
        pool = np.unique(np.concatenate([parents, children]), axis=0)
    excess = violations(constraints, device, space, predictor, pool)
    meets = pool[(excess <= 0).all(axis=1)]
    if len(meets) == 0:
        raise Infeasible(_closest(constraints, device, space, predictor, pool, excess))
    return rng.permutation(meets)[:n]


def _closest(
    constraints: Sequence[Constraint],
    device: str,
    space: Space,
    predictor: LatencyPredictor,
    pool: Codes,
    excess: NDArray[np.float64],
) -> str:
    own = [each for each in constraints if each.device in (None, device)]
    best = int(excess.clip(min=0).sum(axis=1).argmin())
    worst = own[int(excess[best].argmax())]
    value = worst.values(space, predictor, pool[best : best + 1])[0]
    arch = space.decode(pool[best : best + 1])[0]
    together = " together with the others" if len(own) > 1 else ""
    return (
        f"no architecture meets {worst.text!r} on {device}{together}; the closest found has {worst.metric} {value:.4g} "
        f"(architecture {arch.id})"
    )


def constraint_values(row: NDArray[np.float64], own: Sequence[Constraint]) -> Mapping[str, float]:
    """A trial's constraints by their text, as Optuna takes them: above 0 is violated."""
    return {constraint.text: float(value) for constraint, value in zip(own, row, strict=True)}
