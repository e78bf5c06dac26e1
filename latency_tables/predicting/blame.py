"""Where predictions are wrong: the slots whose costs are off, and the values of choices that go with errors.

Notation: n networks, s slots.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latency_tables.predicting.additive import AdditivePredictor
from latency_tables.predicting.nnls import nnls
from search_spaces import Codes, Space, slots
from search_spaces.space import Value

F64 = NDArray[np.float64]

# Of fewer networks than this a mean error says nothing.
MIN_NETWORKS = 4


@dataclass(frozen=True, slots=True)
class SlotError:
    """How far the predicted costs of one slot are off, over its configurations."""

    slot: str
    error: float
    """Standard deviation, relative to the slot's cost. Lower is better."""
    share: float
    """The slot's mean share of the latency of the networks that have it."""
    networks: int
    """That have the slot, of those the errors are of."""


@dataclass(frozen=True, slots=True)
class ChoiceError:
    """The mean error of the networks that take one value of one choice."""

    choice: str
    value: Value
    error: float
    """Of `predicted / measured - 1`: above 0 where predictions are too slow."""
    standard_error: float
    networks: int


def slot_errors(additive: AdditivePredictor, codes: Codes, errors: F64, noise: float = 0.0) -> tuple[SlotError, ...]:
    """What share of the errors' variance goes with each slot, those that harm most first.

    `errors` are relative errors `(n,)` of networks that the fit had not seen, `noise` the standard deviation of what
    they were measured with. If the costs of slots are off independently, the expected square of a network's error is
    `noise^2` and the sum over its slots of `(share of the latency)^2 error^2`: these are fitted by non-negative least
    squares, drawn towards one error for all slots.
    """
    costs_ns = additive.slot_costs_ms(codes)
    shares_ns = costs_ns / additive.predict(codes)[:, None]
    variances = _variances(shares_ns**2, errors**2 - noise**2)
    harm = variances * (shares_ns**2).mean(axis=0)
    found = []
    for s in np.argsort(-harm, kind="stable"):
        present = costs_ns[:, s] > 0
        share = float(shares_ns[present, s].mean()) if present.any() else 0.0
        name = slots(additive.space)[s].name
        found.append(SlotError(name, float(np.sqrt(variances[s])), share, int(present.sum())))
    return tuple(found)


def choice_errors(space: Space, codes: Codes, errors: F64) -> tuple[ChoiceError, ...]:
    """The mean of the errors `(n,)` of each value's networks, those least likely to be chance first."""
    active, found = space.active(codes), []
    for column, choice in enumerate(space.choices):
        for index, value in enumerate(choice.values):
            taken = errors[active[:, column] & (codes[:, column] == index)]
            if len(taken) >= MIN_NETWORKS:
                standard_error = float(taken.std(ddof=1) / np.sqrt(len(taken)))
                found.append(ChoiceError(choice.name, value, float(taken.mean()), standard_error, len(taken)))
    return tuple(sorted(found, key=lambda each: -abs(each.error) / max(each.standard_error, 1e-12)))


def _variances(shares2_ns: F64, excess_n: F64) -> F64:
    """Of each slot's cost. One of a usual share is pulled as much by the slots' common variance as by its own data."""
    total_n = shares2_ns.sum(axis=1)
    common = max(float(total_n @ excess_n) / max(float(total_n @ total_n), 1e-300), 0.0)
    pull = float(np.median((shares2_ns**2).sum(axis=0)))
    gram = shares2_ns.T @ shares2_ns + pull * np.eye(shares2_ns.shape[1])
    return nnls(gram, shares2_ns.T @ excess_n + pull * common)
