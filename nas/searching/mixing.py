"""Mixed precision by integer programming: which parts of a network compute in integers, at what loss, under a latency limit.

Each part has a loss, how much the network's answers change where this part alone is in integers, and what it saves. The best
mix under a limit is a knapsack (Yao et al., "HAWQ-V3: Dyadic Neural Network Quantization", ICML 2021, section 3.4). The loss is
the divergence of the answers on training images (Cai et al., "ZeroQ", CVPR 2020), which needs no labels.

Notation: p parts, the choices of precision that are active in a network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.searching.quantities import Target
from search_spaces import Arch, Codes, first_rows, float_codes, precision_columns

F64 = NDArray[np.float64]
Row = NDArray[np.int16]
Losses = Callable[[Arch], F64]
"""What an architecture loses where one part alone computes in integers, for each of `precision_columns`."""

# Networks of a front that are mixed for a batch, and mixes of each, at limits between its latencies in int8 and in fp32.
NETWORKS, LIMITS = 3, 4
# Savings do not quite add up: a mix that is predicted above its limit is sought again under a tighter one.
TRIES = 4


@dataclass(frozen=True, eq=False)
class Mixer:
    """Proposes mixes of the networks on the fronts that a search has found."""

    losses: Losses

    def __call__(self, target: Target, front: Codes, turn: int) -> Codes:
        """Canonical rows: mixes of some networks of a target's front, others each turn."""
        rows = float_codes(target.space, front)
        rows = rows[first_rows(rows)]
        chosen = {(turn * NETWORKS + i) % len(rows) for i in range(NETWORKS)} if len(rows) else set()
        return np.concatenate([front[:0], *(mixes(target, rows[i], self.losses, LIMITS) for i in sorted(chosen))])


def mixes(target: Target, row: Row, losses: Losses, limits: int) -> Codes:
    """Mixes of one network, a row in fp32, at as many limits evenly between its latencies in int8 and in fp32."""
    space = target.space
    columns = precision_columns(space)
    active = space.active(row[None])[0, columns]
    loss_p = losses(space.decode(row[None])[0])[active]
    parts = columns[active]
    fast, slow = target.values("latency_ms", np.stack([_in_integers(row, parts), row])).tolist()
    limits_ms = [fast + (slow - fast) * (i + 1) / (limits + 1) for i in range(limits)]
    found = [best_mix(target, row, parts, loss_p, limit_ms) for limit_ms in limits_ms]
    return np.array([each for each in found if each is not None], dtype=np.int16).reshape(-1, len(row))


def best_mix(target: Target, row: Row, parts: NDArray[np.int64], loss_p: F64, limit_ms: float) -> Row | None:
    """The mix of the least summed loss whose predicted latency is within the limit; None where none is found.

    parts: the columns of the row that may be changed to int8.
    """
    alone = [_in_integers(row, parts[[p]]) for p in range(len(parts))]
    spared = [_in_integers(row, np.delete(parts, p)) for p in range(len(parts))]
    found = target.values("latency_ms", np.stack([row, _in_integers(row, parts), *alone, *spared]))
    slow, fast, alone_p, spared_p = found[0], found[1], found[2 : 2 + len(parts)], found[2 + len(parts) :]
    # What a part saves depends on the others a little: the mean of what it saves first and last.
    saved_p, need = (slow - alone_p + spared_p - fast) / 2, float(slow - limit_ms)
    for _ in range(TRIES):
        picked = knapsack(loss_p, saved_p, need)
        if picked is None:
            return None
        mixed = _in_integers(row, parts[picked])
        above = float(target.values("latency_ms", mixed[None])[0]) - limit_ms
        if above <= 0:
            return mixed
        need += above
    return None


def knapsack(loss_p: F64, saved_p: F64, need: float) -> NDArray[np.bool_] | None:
    """The parts of the least summed loss that together save at least `need`; None where all of them do not."""
    from scipy.optimize import Bounds, LinearConstraint, milp  # 0.09 s, which most commands need not wait for

    if need > saved_p.clip(min=0).sum():
        return None
    scale = float(np.abs(saved_p).max()) or 1.0
    found = milp(
        loss_p / (float(np.abs(loss_p).max()) or 1.0),
        constraints=LinearConstraint(saved_p[None] / scale, lb=need / scale),
        integrality=np.ones(len(loss_p)),
        bounds=Bounds(0, 1),
    )
    return None if found.x is None else np.asarray(found.x > 0.5)


def _in_integers(row: Row, parts: NDArray[np.int64]) -> Row:
    """The row with these columns at int8, the first value of every choice of precision."""
    mixed = row.copy()
    mixed[parts] = 0
    return mixed
