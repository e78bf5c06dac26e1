"""Picks of a front: by name, by what is needed of a network, or by its id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_tables.measuring.measurement import Measurement
from latency_tables.statistic import STATISTICS
from nas.errors import JobError
from nas.job import is_arch_id
from nas.searching.constraints import Constraint, parse_constraint
from nas.searching.fronts import PICKS
from nas.searching.quantities import QUANTITIES, Target

Row = Mapping[str, Any]
"""One network of a front, as the search stage wrote it."""


@dataclass(frozen=True, slots=True)
class Picked:
    """What of one device's front is to be handed over: pick -> index in the front; and for each pick that nothing there
    answers to, why."""

    indices: Mapping[str, int]
    missed: Mapping[str, str]


def picked(front: Sequence[Row], device: str, names: Sequence[str], target: Target | None = None) -> Picked:
    """Who on a device's front answers to each of these picks; nobody on an empty one.

    A limit, as `latency_ms <= 3`, picks the most accurate network that is predicted to meet it, and one on accuracy the
    fastest; one on another device picks nobody. Limits need the `target`, which predicts.
    """
    indices: dict[str, int] = {}
    missed: dict[str, str] = {}
    accuracy = np.array([row["val_accuracy"] for row in front])
    latency_ms = np.array([row["latency_ms_predicted"] for row in front])
    for name in dict.fromkeys(names) if front else ():
        if name in PICKS:
            indices[name] = PICKS[name](accuracy, latency_ms)
        elif is_arch_id(name):
            _by_id(front, device, name, indices, missed)
        else:
            assert target is not None, name
            _by_limit(front, target, parse_constraint(name), accuracy, latency_ms, indices, missed)
    return Picked(indices, missed)


def check_picks(found: Sequence[Picked]) -> None:
    """`JobError` where a pick finds nobody on any device that has a front."""
    for name in dict.fromkeys(name for each in found for name in each.missed):
        if not any(name in each.indices for each in found):
            raise JobError(f"export.picks: {'; '.join(each.missed[name] for each in found if name in each.missed)}")


def slug(pick: str) -> str:
    """A pick as a part of a file's name: `knee`, `latency_ms-at-most-3-with-90pct`."""
    if pick in PICKS or is_arch_id(pick):
        return pick
    limit = parse_constraint(pick)
    sure = "" if limit.probability is None else f"-with-{100 * limit.probability:g}pct"
    return f"{limit.quantity}-{'at-most' if limit.at_most else 'at-least'}-{limit.bound:.10g}{sure}"


def _by_id(front: Sequence[Row], device: str, name: str, indices: dict[str, int], missed: dict[str, str]) -> None:
    ids = [row["arch_id"] for row in front]
    if name in ids:
        indices[name] = ids.index(name)
    else:
        missed[name] = f"{name} is not on the front of {device}, which has {', '.join(ids)}"


def _by_limit(
    front: Sequence[Row],
    target: Target,
    limit: Constraint,
    accuracy: NDArray[np.float64],
    latency_ms: NDArray[np.float64],
    indices: dict[str, int],
    missed: dict[str, str],
) -> None:
    if not limit.concerns(target):
        return
    codes = target.space.encode([target.space.arch(row["arch"]) for row in front])
    excess = limit.excess(target, codes, accuracy)
    meeting = np.flatnonzero(excess <= 0)
    if len(meeting):
        of_accuracy = limit.quantity == "accuracy"
        best = np.argmin(latency_ms[meeting]) if of_accuracy else np.argmax(accuracy[meeting])
        indices[limit.text] = int(meeting[best])
        return
    closest = int(np.argmin(excess))
    values = accuracy if limit.quantity == "accuracy" else limit.values(target, codes)
    missed[limit.text] = (
        f"no network of the front of {target.name} meets {limit.text!r}; closest is {front[closest]['arch_id']} with "
        f"{values[closest]:.4g}"
    )


def met(pick: str, row: Row, measured: Measurement) -> bool | None:
    """Whether a network that a limit picked for its prediction meets it as measured and tested; None for other picks, and where
    nobody measured it."""
    if pick in PICKS or is_arch_id(pick):
        return None
    limit = parse_constraint(pick)
    statistic = QUANTITIES[limit.quantity].statistic
    value = row["test_accuracy"] if limit.quantity == "accuracy" else None
    if statistic is not None:
        value = STATISTICS[statistic](measured)
    elif QUANTITIES[limit.quantity].cost is not None:
        return True  # known exactly, so it holds as it did when it was picked
    return None if value is None else bool(value <= limit.bound if limit.at_most else value >= limit.bound)
