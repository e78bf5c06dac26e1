"""Fronts and evaluations as CSV with a header, for spreadsheets and data frames. What is not known is an empty cell."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nas.tables import choice_order

FRONT_COLUMNS = (
    "arch_id",
    "val_accuracy",
    "search_accuracy",
    "test_accuracy",
    "latency_ms_predicted",
    "latency_ms_low",
    "latency_ms_high",
    "latency_ms_measured",
    "macs",
    "params",
)
PARTS = ("predicted", "low", "high", "measured")

Row = dict[str, Any]


def front_csv(device: Mapping[str, Any]) -> str:
    """A device's front. Beside `FRONT_COLUMNS` four columns for every other quantity, as `energy_mj_measured`, two for every
    constraint (`true` or `false`), `picks` parted by `;`, and `arch` as JSON."""
    rows = []
    for network in device["front"]:
        row: Row = {name: network.get(name) for name in FRONT_COLUMNS}
        for name, value in network.get("values", {}).items():
            if name != "latency_ms":
                row |= {f"{name}_{part}": value.get(part) for part in PARTS}
        for limit in network.get("constraints", ()):
            row |= {f"{limit['text']} ({part})": _truth(limit[part]) for part in ("predicted", "measured")}
        rows.append({**row, "picks": ";".join(network["picks"]), "arch": json.dumps(network["arch"])})
    return _csv([*FRONT_COLUMNS, *_beside(rows, (*FRONT_COLUMNS, "picks", "arch")), "picks", "arch"], rows)


def evaluations_csv(summary: Mapping[str, Any]) -> str:
    """Every evaluated architecture: its accuracy in the search and on all validation images, what each device is predicted to
    make of it, who proposed it, and a column for each choice, empty where the choice is inactive."""
    known = {each["arch_id"]: each for each in summary["search"].get("architectures", ())}
    rows: dict[str, Row] = {}
    for device in summary["devices"]:
        for point in device["evaluated"]:
            row = rows.setdefault(point["arch_id"], {"arch_id": point["arch_id"], "accuracy": point["val_accuracy"]})
            row |= {
                f"{name.removesuffix('_predicted')}@{device['name']}": value
                for name, value in point.items()
                if name not in ("arch_id", "val_accuracy")
            }
    for arch_id, row in rows.items():
        found = known.get(arch_id, {})
        row |= {"confirmed_accuracy": found.get("confirmed_accuracy"), "source": found.get("source")}
    first = ("arch_id", "accuracy", "confirmed_accuracy", "source")
    costs = _beside(rows.values(), first)
    choices = sorted(dict.fromkeys(name for each in known.values() for name in each["arch"]), key=choice_order)
    whole = [{**row, **known.get(arch_id, {}).get("arch", {})} for arch_id, row in rows.items()]
    return _csv([*first, *costs, *choices], whole)


def _beside(rows: Iterable[Row], known: Sequence[str]) -> list[str]:
    """The other columns, in the order in which rows first have them."""
    return [name for name in dict.fromkeys(name for row in rows for name in row) if name not in known]


def _truth(met: bool | None) -> str | None:
    return None if met is None else str(met).lower()


def _csv(columns: Sequence[str], rows: Iterable[Row]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
