"""The best architecture under limits where models are additive, found by integer programming and proven to be the best.

A *factor* is a few choices that count together: those of a slot, with whatever they wait for. Each of its configurations
is a binary variable, *picked* or not. A factor picks exactly one, and factors agree on the choices that they share. Then
models are sums over what is picked, and `scipy.optimize.milp` (HiGHS) does the rest. Whether a choice is active needs no
variable: what it waits for is in its factor, which has no configuration that breaks the condition.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.errors import JobError
from nas.searching.additive import AdditiveModel
from search_spaces import Codes, Space, slots

F64 = NDArray[np.float64]
Indices = NDArray[np.int64]

# How far apart the cheapest and the dearest network lie in the solver's units. It stops at 1e-6 of these.
SPAN = 1e4

# Measured over 500-600 programs of both families under one to three limits: 0.08 s without presolve, 0.11 s with it.
OPTIONS = {"mip_rel_gap": 0.0, "presolve": False}

SOLVED, OUT_OF_TIME, INFEASIBLE = 0, 1, 2  # what `milp` calls them

# Two threads that redirect standard output at once would lose it.
_REDIRECTING = threading.Lock()


@dataclass(frozen=True, slots=True)
class Limit:
    """`model` tells at most this much."""

    model: AdditiveModel
    at_most: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.at_most):
            raise JobError(f"a limit must be a finite number, not {self.at_most}")

    def meets(self, codes: Codes) -> bool:
        """Whether all rows keep to it."""
        return bool((self.model.predict(codes) <= self.at_most).all())


@dataclass(frozen=True, slots=True, eq=False)
class Optimum:
    """What a solver found, and what it knows of everything else."""

    codes: Codes
    """The architecture, `(1, choices)` and canonical; `(0, choices)` where the time was over before there was one."""
    value: float
    """Of the objective, to the bit what the model predicts; -inf without an architecture."""
    bound: float
    """No network that meets the limits has a larger value."""
    proven: bool
    """No network has a larger value than this one, but for 1e-10 of the span that the objective has over the space."""
    seconds: float


def solve(objective: AdditiveModel, limits: Sequence[Limit] = (), *, time_limit_s: float = 10.0) -> Optimum | None:
    """The network with the largest value of `objective` among those that meet the limits; None: no network meets them.

    The same answer each time, unless the time limit cuts it short.
    """
    started = time.perf_counter()
    models = [objective, *(limit.model for limit in limits)]
    if any(model.space != objective.space for model in models):
        raise JobError("the objective and the limits are models of different spaces; make them of one")
    program = _Program.of(objective.space, models)
    goal = program.scaled(objective)
    rows = [program.scaled(limit.model).row(limit.at_most) for limit in limits]
    while True:
        found = _milp(program, goal.units, rows, started + time_limit_s - time.perf_counter())
        if found.status == INFEASIBLE:
            return None
        picked = np.zeros(len(program.codes)) if found.x is None else np.round(found.x[: len(program.codes)])
        codes = program.network(picked)
        if all(limit.meets(codes) for limit in limits):
            break
        # It is above a limit by less than the solver can tell: rule out this one network and go on.
        rows.append((picked, picked.sum() - 1))
    value = float(objective.predict(codes)[0]) if len(codes) else -math.inf
    # No network has more than the best of each factor, which is all that is known before the first relaxation is solved.
    most = SPAN if found.mip_dual_bound is None else min(-found.mip_dual_bound, SPAN)
    bound = max(goal.offset + goal.unit * most, value)
    return Optimum(codes, value, bound, found.status == SOLVED, time.perf_counter() - started)


def trace(
    objective: AdditiveModel,
    cost: AdditiveModel,
    limits: Sequence[Limit] = (),
    points: int = 12,
    *,
    time_limit_s: float = 10.0,
) -> tuple[Optimum, ...]:
    """The front of two models: the best `objective` under `points` limits of `cost`, cheapest first, without repeats.

    The limits are spread evenly from what the cheapest network costs to what the best one costs; both meet `limits`. Each
    point has more of the objective than the one before. Empty where no network meets `limits`, or none was found in time;
    `time_limit_s` is for each solve.
    """
    cheapest = solve(-cost, limits, time_limit_s=time_limit_s)
    best = solve(objective, limits, time_limit_s=time_limit_s)
    if cheapest is None or best is None or not (len(cheapest.codes) and len(best.codes)):
        return ()
    low, high = cost.predict(np.concatenate([cheapest.codes, best.codes]))
    found = [best]
    for at_most in np.linspace(high, low, points)[1:]:
        if cost.predict(found[-1].codes)[0] <= at_most:
            continue  # the same network is the best again
        best = solve(objective, [*limits, Limit(cost, float(at_most))], time_limit_s=time_limit_s)
        if best is not None and len(best.codes):
            found.append(best)
    front: list[Optimum] = []
    for point in reversed(found):
        if not front or point.value > front[-1].value:
            front.append(point)
    return tuple(front)


@dataclass(frozen=True, slots=True, eq=False)
class _Scaled:
    """A model as `offset + unit * (units of what is picked)`; each factor has a configuration of 0 units."""

    units: F64
    offset: float
    unit: float

    def row(self, at_most: float) -> tuple[F64, float]:
        """The limit in units: coefficients, and what they may come to."""
        return self.units, (at_most - self.offset) / self.unit


@dataclass(frozen=True, slots=True, eq=False)
class _Program:
    """Factors and their configurations."""

    scopes: tuple[tuple[int, ...], ...]
    """The columns of each factor's choices."""
    owners: tuple[int, ...]
    """Of each term of a model, first the choices, then the slots: the factor that counts it."""
    codes: Codes
    """A row for each configuration of each factor, 0 in all other columns."""
    factor: Indices
    """Of each row."""

    @staticmethod
    def of(space: Space, models: Sequence[AdditiveModel]) -> _Program:
        terms = [_closed(space, [j]) for j in range(len(space.choices))]
        if tables := [model.by_slot for model in models if model.by_slot]:
            for slot, found in zip(slots(space), zip(*tables, strict=True), strict=True):
                # A slot that costs the same whatever it is made of ties no choices together.
                counts = any(np.ptp(table) > 0 for table in found)
                terms.append(_closed(space, [space.columns[name] for name in slot.choices] if counts else []))
        scopes = [a for a in dict.fromkeys(terms) if not any(set(a) < set(b) for b in terms)]
        owners = tuple(next(i for i, scope in enumerate(scopes) if set(term) <= set(scope)) for term in terms)
        codes = [_configurations(space, scope) for scope in scopes]
        factor = np.repeat(np.arange(len(scopes)), list(map(len, codes)))
        return _Program(tuple(scopes), owners, np.concatenate(codes), factor)

    def scaled(self, model: AdditiveModel) -> _Scaled:
        amounts = np.zeros(len(self.codes))
        for owner, term in zip(self.owners, model.terms(self.codes), strict=False):
            amounts += np.where(self.factor == owner, term, 0.0)
        starts = np.searchsorted(self.factor, np.arange(len(self.scopes)))
        least = np.minimum.reduceat(amounts, starts)
        span = float((np.maximum.reduceat(amounts, starts) - least).sum())
        unit = span / SPAN or 1.0
        return _Scaled((amounts - least[self.factor]) / unit, model.constant + float(least.sum()), unit)

    def network(self, picked: F64) -> Codes:
        """The architecture of these configurations, `(1, choices)`; `(0, choices)` where none are picked."""
        rows = self.codes[picked > 0]
        return rows.max(axis=0, keepdims=True) if len(rows) else rows

    def equations(self) -> tuple[Any, F64]:
        """What holds for every architecture, as a sparse matrix and its right-hand side.

        Each factor picks one configuration. The matrix has more columns than there are configurations: one for each
        value of each choice that factors share, equal to what each of these factors picks of that value.
        """
        from scipy.sparse import coo_array

        height, width = len(self.scopes), len(self.codes)
        blocks = [(self.factor, np.arange(width), np.ones(width))]
        for j in range(self.codes.shape[1]):
            sharing = [i for i, scope in enumerate(self.scopes) if j in scope]
            values = np.arange(int(self.codes[:, j].max()) + 1)
            for i in sharing if len(sharing) > 1 else []:
                of = np.flatnonzero(self.factor == i)
                blocks.append((height + self.codes[of, j], of, np.ones(len(of))))
                blocks.append((height + values, width + values, -np.ones(len(values))))
                height += len(values)
            width += len(values) if len(sharing) > 1 else 0
        rows, columns, entries = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        right = (np.arange(height) < len(self.scopes)).astype(np.float64)
        return coo_array((entries, (rows, columns)), shape=(height, width)).tocsr(), right


def _milp(program: _Program, goal: F64, rows: Sequence[tuple[F64, float]], time_limit_s: float) -> Any:
    """HiGHS's answer to: the most of `goal`, with each of `rows` at most what stands beside it."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    matrix, right = program.equations()
    further = np.zeros(matrix.shape[1] - len(goal))
    constraints = [LinearConstraint(matrix, right, right)]
    constraints += [LinearConstraint(np.concatenate([row, further])[None], -np.inf, at_most) for row, at_most in rows]
    with _to_standard_error():
        found = milp(
            -np.concatenate([goal, further]),
            integrality=np.ones(matrix.shape[1]),
            bounds=Bounds(0, 1),
            constraints=constraints,
            options={**OPTIONS, "time_limit": max(time_limit_s, 0.0)},
        )
    if found.status not in (SOLVED, OUT_OF_TIME, INFEASIBLE):
        raise JobError(f"the best network under these limits cannot be computed: {found.message}")
    return found


@contextmanager
def _to_standard_error() -> Iterator[None]:
    """Sends there what C code writes to standard output, where the caller may be printing a document.

    Whatever it is told, HiGHS writes a line of its own in about one of 400 solves.
    """
    libc = ctypes.CDLL(None)
    with _REDIRECTING:
        libc.fflush(None)
        output = os.dup(1)
        os.dup2(2, 1)
        try:
            yield
        finally:
            libc.fflush(None)
            os.dup2(output, 1)
            os.close(output)


def _closed(space: Space, columns: Sequence[int]) -> tuple[int, ...]:
    """These columns and those that they wait for, ascending."""
    found = set(columns)
    for j in reversed(range(len(space.choices))):  # what a choice waits for is before it
        when = space.choices[j].when
        if j in found and when is not None:
            found.add(space.columns[when.choice])
    return tuple(sorted(found))


def _configurations(space: Space, scope: Sequence[int]) -> Codes:
    """Every canonical row that is 0 outside of these columns."""
    grid = np.indices([int(space.cardinalities[j]) for j in scope]).reshape(len(scope), -1).T
    codes = np.zeros((len(grid), len(space.choices)), dtype=np.int16)
    codes[:, scope] = grid
    canonical: Codes = codes[(space.canonical(codes) == codes).all(axis=1)]
    return canonical
