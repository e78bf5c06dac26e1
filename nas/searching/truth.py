"""What was measured, held against what was predicted and asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from latency_tables.measuring.measurement import Measurement
from latency_tables.statistic import STATISTICS
from nas.searching.constraints import Constraint, parse_constraint
from nas.searching.quantities import QUANTITIES

Json = Any


def with_measured(row: Mapping[str, Json], measured: Measurement) -> dict[str, Json]:
    """A network of a front, as the search stage wrote it, with what its measurement says of each value and constraint.

    What is known exactly is as it was said; accuracy is that on test images, where it was tested. None: nobody measured it.
    """
    values = {name: {**value, "measured": _measured(name, value, measured)} for name, value in row["values"].items()}
    constraints = [
        {**each, "measured": _holds(parse_constraint(each["text"]), row, values)} for each in row["constraints"]
    ]
    return {**row, "latency_ms_measured": measured.median_us / 1e3, "values": values, "constraints": constraints}


def _measured(name: str, value: Mapping[str, float], measured: Measurement) -> float | None:
    statistic = QUANTITIES[name].statistic
    return value["predicted"] if statistic is None else STATISTICS[statistic](measured)


def _holds(limit: Constraint, row: Mapping[str, Json], values: Mapping[str, Mapping[str, Json]]) -> bool | None:
    found = row["test_accuracy"] if limit.quantity == "accuracy" else values[limit.quantity]["measured"]
    if found is None:
        return None
    return bool(found <= limit.bound if limit.at_most else found >= limit.bound)
