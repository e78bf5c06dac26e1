"""Additive models: a number of an architecture as a sum over its choices and over its slots.

Notation: n architectures, k one-hot columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from latency_tables.predicting.predictor import AdditivePredictor
from nas.errors import JobError
from search_spaces import COSTS, Codes, Space, slot_costs, slot_index, slot_sizes, slots

F64 = NDArray[np.float64]

# Relative to the mean eigenvalue of the centred columns' Gram matrix; leave-one-out chooses.
PENALTIES = tuple(10.0**exponent for exponent in range(-8, 3))


@dataclass(frozen=True, slots=True, eq=False)
class AdditiveModel:
    """constant + a number for the value of each choice + a number for the configuration of each slot.

    What is of this form can be maximised and bounded exactly: see `nas/searching/exact.py`.
    """

    space: Space
    constant: float
    by_choice: tuple[F64, ...]
    """One array a choice: a number for each value, and a last one for where the choice is inactive."""
    by_slot: tuple[F64, ...] = ()
    """One array a slot, in the order of `slot_configs`; or none at all where the slots count for nothing."""

    def __post_init__(self) -> None:
        wanted = [len(choice.values) + 1 for choice in self.space.choices]
        if [len(table) for table in self.by_choice] != wanted:
            raise JobError(f"by_choice: wanted arrays of {wanted} numbers, got {[len(t) for t in self.by_choice]}")
        if self.by_slot and (sizes := list(map(len, self.by_slot))) != list(slot_sizes(self.space)):
            raise JobError(f"by_slot: wanted arrays of {list(slot_sizes(self.space))} numbers, got {sizes}")
        if not np.isfinite(np.concatenate([[self.constant], *self.by_choice, *self.by_slot])).all():
            raise JobError("an additive model has a number that is not finite")

    @staticmethod
    def of_cost(space: Space, metric: str) -> AdditiveModel:
        """One metric of `COSTS`, exactly; `JobError` for one that does not add up over slots."""
        if COSTS[metric].combine is not np.add:
            raise JobError(f"{metric} does not add up over the parts of a network, so no additive model tells it")
        tables = tuple(table.astype(np.float64) for table in slot_costs(space, metric))
        return AdditiveModel(space, 0.0, _zeros(space), tables)

    @staticmethod
    def of_latency(predictor: AdditivePredictor) -> AdditiveModel:
        """Milliseconds, as the predictor tells them where they are above its floor."""
        return AdditiveModel(predictor.space, predictor.constant_ms, _zeros(predictor.space), predictor.tables_ms)

    @staticmethod
    def fit(space: Space, codes: Codes, y: F64) -> AdditiveModel:
        """Main effects of the choices, by ridge regression on canonical codes `(n, choices)` and values `(n,)`."""
        return fit_left_out(space, codes, y)[0]

    def predict(self, codes: Codes) -> F64:
        """One number for each row of canonical codes: `(n, choices)` -> `(n,)`."""
        total = np.full(len(codes), self.constant)
        # Term by term: the sum of a row is the same to the last bit, whichever rows come with it.
        for term in self.terms(codes):
            total += term
        return total

    def terms(self, codes: Codes) -> Iterator[F64]:
        """What each choice, then each slot adds to each row: arrays `(n,)`."""
        active = self.space.active(codes)
        for j, table in enumerate(self.by_choice):
            yield table[np.where(active[:, j], codes[:, j], len(table) - 1)]
        if self.by_slot:
            for slot, table in zip(slots(self.space), self.by_slot, strict=True):
                yield table[slot_index(self.space, slot, codes)]

    def __neg__(self) -> AdditiveModel:
        return replace(
            self,
            constant=-self.constant,
            by_choice=tuple(-table for table in self.by_choice),
            by_slot=tuple(-table for table in self.by_slot),
        )


def fit_left_out(space: Space, codes: Codes, y: F64) -> tuple[AdditiveModel, F64]:
    """The model of `AdditiveModel.fit`, and what it would predict of each row without that row, `(n,)`.

    Ridge regression (Hoerl and Kennard, Technometrics 12, 1970) with the penalty of the smallest squared leave-one-out
    error, which has a closed form (Allen, Technometrics 16, 1974). `JobError` for fewer than two rows.
    """
    if len(codes) != len(y) or len(y) < 2 or not np.isfinite(y).all():
        raise JobError(f"an additive model is fitted to 2 networks at least, one finite number each; got {len(y)}")
    x_nk = _one_hot(space, codes)
    centre_k, mean = x_nk.mean(axis=0), y.mean()
    x_nk -= centre_k
    values, vectors = np.linalg.eigh(x_nk @ x_nk.T)
    values = np.maximum(values, 0.0)
    along = vectors.T @ (y - mean)

    def left_out_errors(penalty: float) -> F64:
        """Residuals over one minus their leverage, of which the constant has 1/n."""
        shrunk = penalty / (values + penalty)
        errors: F64 = vectors @ (shrunk * along) / (vectors**2 @ shrunk - 1 / len(y))
        return errors

    penalties = [share * (float(values.mean()) or 1.0) for share in PENALTIES]
    best = min(penalties, key=lambda penalty: float((left_out_errors(penalty) ** 2).sum()))
    beta_k = x_nk.T @ (vectors @ (along / (values + best)))
    ends = np.cumsum([len(choice.values) + 1 for choice in space.choices])[:-1]
    model = AdditiveModel(space, float(mean - centre_k @ beta_k), tuple(np.split(beta_k, ends)))
    return model, y - left_out_errors(best)


def _one_hot(space: Space, codes: Codes) -> F64:
    """A column for each value of each choice, and one for where it is inactive: `(n, k)`."""
    active = space.active(codes)
    blocks = []
    for j, choice in enumerate(space.choices):
        level = np.where(active[:, j], codes[:, j], len(choice.values))
        blocks.append(level[:, None] == np.arange(len(choice.values) + 1))
    return np.concatenate(blocks, axis=1).astype(np.float64)


def _zeros(space: Space) -> tuple[F64, ...]:
    return tuple(np.zeros(len(choice.values) + 1) for choice in space.choices)
