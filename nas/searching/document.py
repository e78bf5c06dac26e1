"""What a campaign found, as JSON: what the search stage leaves and the report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.searching.campaign import Campaign, Curve
from nas.searching.controls import spread
from nas.searching.engine import SearchResult
from nas.searching.quantities import Target
from search_spaces import Arch, Codes, Space, arch_cost, float_space, lifted, precision_of

F64 = NDArray[np.float64]
Json = Any

COVERAGE = 0.9


def search_json(found: Campaign, seconds: float) -> dict[str, Json]:
    """The search over all devices: how much was evaluated, what it was worth, and what it is compared with."""
    met = [target.name for target in found.problem.targets if target.name not in found.searches[0].infeasible]
    volumes = [_mean(each.hypervolume, met) for each in found.searches]
    random = [_mean(each.history[-1][1], met) for each in found.random if each.history]
    return {
        "objectives": list(found.problem.objectives),
        "constraints": [limit.text for limit in found.problem.limits],
        "proposals": sum(each.proposals for each in found.searches),
        "evaluations": len(found.codes) - max(each.sources.get("warm", 0) for each in found.searches),
        "confirmed": int(np.isfinite(found.confirmed).sum()),
        "hypervolume": spread(volumes),
        "hypervolume_random": spread(random) if random else None,
        "searches": [_search_json(each, met) for each in found.searches],
        "random": [{"evaluations": len(each.codes), "history": _history(each.history, met)} for each in found.random],
        "architectures": [
            {
                "arch_id": arch.id,
                "arch": arch.values,
                "accuracy": float(found.accuracy[i]),
                "final": bool(found.final[i]),
                "confirmed_accuracy": float(found.confirmed[i]) if isfinite(found.confirmed[i]) else None,
            }
            for i, arch in enumerate(found.problem.space.decode(found.codes))
        ],
        "seconds": seconds,
    }


def evaluated(document: Mapping[str, Json], space: Space, images: int) -> dict[Arch, float]:
    """Accuracies on so many images in what a finished search wrote: its own, whatever others have evaluated since."""
    if document["search"]["images"][-1] != images:
        return {}
    rows = document["search"]["architectures"]
    return {_arch(space, row["arch"]): row["accuracy"] for row in rows if row.get("final")}


def _arch(space: Space, values: Mapping[str, Json]) -> Arch:
    """An architecture by its values in this space, or in the same without precision."""
    plain = float_space(space)
    return lifted(space, plain.arch(values)) if values.keys() <= plain.columns.keys() else space.arch(values)


def device_json(found: Campaign, target: Target) -> dict[str, Json]:
    """One device: its front, everything evaluated, what its constraints reach, and its controls."""
    first = found.searches[0]
    front = found.fronts[target.name]
    missed = first.infeasible.get(target.name)
    volumes = [each.hypervolume[target.name] for each in found.searches]
    random = [each.history[-1][1][target.name] for each in found.random if each.history]
    return {
        "name": target.name,
        "front": _front_json(found, target, front),
        "evaluated": _points_json(found, target, found.codes, found.accuracy),
        "hypervolume": spread(volumes),
        "hypervolume_random": spread(random) if random else None,
        "reach": [asdict(row) for row in first.reach[target.name]],
        "closest": None if missed is None else _closest_json(found, missed.closest, missed.missed),
        "bound": _bound_json(found, target),
        "uniform": None if found.uniform is None else _points_json(found, target, *found.uniform),
        "uniform_hypervolume": None if found.uniform is None else found.problem.hypervolume(target, *found.uniform),
        "average": asdict(average) if (average := found.averages.get(target.name)) else None,
    }


def _search_json(found: SearchResult, met: Sequence[str]) -> dict[str, Json]:
    return {
        "seed": found.seed,
        "evaluations": len(found.codes) - found.sources.get("warm", 0),
        "proposals": found.proposals,
        "ended": found.ended,
        "sources": dict(found.sources),
        "fidelity": asdict(found.fidelity) if found.fidelity else None,
        "history": _history(found.history, met),
        "seconds": found.seconds,
    }


def _history(curve: Curve, met: Sequence[str]) -> list[dict[str, Json]]:
    return [{"evaluations": n, "hypervolume": _mean(by, met), "by_device": dict(by)} for n, by in curve]


def _front_json(found: Campaign, target: Target, front: NDArray[np.int64]) -> list[dict[str, Json]]:
    codes = found.codes[front]
    low, high = target.interval("latency_ms", codes, COVERAGE)
    predicted = target.values("latency_ms", codes)
    values = _values(found, target, codes)
    holds = {
        limit.text: limit.excess(target, codes, found.confirmed[front]) <= 0
        for limit in found.problem.limits_on(target)
    }
    rows = []
    for k, (i, arch) in enumerate(zip(front, found.problem.space.decode(codes), strict=True)):
        cost = arch_cost(found.problem.space, arch)
        rows.append(
            {
                "arch_id": arch.id,
                "arch": arch.values,
                "precision": precision_of(arch),
                "val_accuracy": float(found.confirmed[i]),
                "search_accuracy": float(found.accuracy[i]),
                "test_accuracy": None,
                "latency_ms_predicted": float(predicted[k]),
                "latency_ms_low": float(low[k]),
                "latency_ms_high": float(high[k]),
                "latency_ms_measured": None,
                "macs": cost.macs,
                "params": cost.params,
                "values": {name: column[k] for name, column in values.items()},
                "constraints": [
                    {"text": text, "predicted": bool(met[k]), "measured": None} for text, met in holds.items()
                ],
                "picks": [],
            }
        )
    return rows


def _values(found: Campaign, target: Target, codes: Codes) -> dict[str, list[dict[str, float]]]:
    """Every quantity that the search optimises or bounds, predicted and with its interval; none for accuracy."""
    names = [*found.problem.costs, *(limit.quantity for limit in found.problem.limits_on(target))]
    columns = {}
    for name in dict.fromkeys(names):
        if name == "accuracy":
            continue
        low, high = target.interval(name, codes, COVERAGE)
        columns[name] = [
            {"predicted": float(value), "low": float(bottom), "high": float(top)}
            for value, bottom, top in zip(target.values(name, codes), low, high, strict=True)
        ]
    return columns


def _points_json(found: Campaign, target: Target, codes: Codes, accuracy: F64) -> list[dict[str, Json]]:
    space = found.problem.space
    columns = {"latency_ms_predicted": target.values("latency_ms", codes)}
    columns |= {name: target.values(name, codes) for name in found.problem.costs if name != "latency_ms"}
    return [
        {
            "arch_id": arch.id,
            "precision": precision_of(arch),
            "val_accuracy": float(score),
            **{name: float(column[i]) for name, column in columns.items()},
        }
        for i, (arch, score) in enumerate(zip(space.decode(codes), accuracy, strict=True))
    ]


def _bound_json(found: Campaign, target: Target) -> dict[str, Json] | None:
    bound = found.bounds.get(target.name)
    if bound is None:
        return None
    archs = found.problem.space.decode(np.concatenate([optimum.codes for optimum in bound.optima]))
    return {
        "quantity": bound.quantity,
        "accuracy_error": bound.accuracy_error,
        "cost_error": bound.cost_error,
        "points": [
            {"arch_id": arch.id, "cost": cost, "accuracy": optimum.bound, "proven": optimum.proven}
            for arch, cost, optimum in zip(archs, bound.costs, bound.optima, strict=True)
        ],
    }


def _closest_json(found: Campaign, codes: Codes, missed: Sequence[tuple[str, float]]) -> dict[str, Json]:
    (arch,) = found.problem.space.decode(codes)
    return {
        "arch_id": arch.id,
        "arch": arch.values,
        "missed": [{"text": text, "value": value} for text, value in missed],
    }


def _mean(by_target: Mapping[str, float], met: Sequence[str]) -> float:
    """Over the targets whose limits can be met; 0 where there is none."""
    values = [by_target[name] for name in met]
    return float(np.mean(values)) if values else 0.0
