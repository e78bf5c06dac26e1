"""The search in the report of a run: what it was worth over its evaluations, beside random search and uniform scaling."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nas.page import figure, section
from nas.plots import Plot, axis, line, plot
from nas.tables import (
    ABSENT,
    duration,
    escaped,
    facts_list,
    finite,
    folded_table,
    percent,
    score_of,
    significant,
    spread_text,
    table,
)

# Devices that have a small plot of their own: more only make the page long.
MOST_DEVICES = 12
ENDED = {
    "evaluations": "its evaluations were used up",
    "patience": "the fronts stood still",
    "space": "nothing new was left to propose",
    "infeasible": "no device's constraints can be met",
}
SOURCES = {
    "founder": "first generation",
    "sampler": "sampler",
    "warm": "taken over from other runs",
    "exact": "exact solver",
}

Json = Mapping[str, Any]
Worth = Callable[[Json], float]
Curve = Sequence[tuple[int, float]]


def search_section(plots: dict[str, Plot], summary: Mapping[str, Any]) -> str:
    search, devices, score = summary["search"], summary["devices"], score_of(summary["data"])
    facts = (
        ("Sampler", escaped(search["sampler"])),
        ("Objectives", escaped(", ".join(search["objectives"]))),
        ("Architectures evaluated", f"{search['evaluations']:,}"),
        ("Proposals", f"{search['proposals']:,}"),
        ("Validation images read", ", then ".join(f"{images:,}" for images in search["images"])),
        ("Evaluated on all validation images", f"{search['confirmed']:,}"),
        ("Time", duration(search["seconds"])),
    )
    parts = [
        facts_list(facts),
        _growth(plots, search, devices, score),
        f"<h3>What it was worth</h3>{_worth(search, devices)}",
        f"<h3>The searches</h3>{_searches(search)}" if search["searches"] else "",
        _proxies(search.get("proxies"), score),
    ]
    return section("search", "Search", "".join(parts))


# Hypervolume over evaluations


def _growth(plots: dict[str, Plot], search: Json, devices: Sequence[Json], score: str) -> str:
    if not any(each["history"] for each in search["searches"]):
        return ""
    several = len(search["searches"]) > 1
    caption = (
        f"The hypervolume is the share of a box of {score} and costs that the front dominates. It grows when a network is "
        "found that is better in one or the other; once it is flat, a longer search would find little more. "
    )
    caption += "Thin lines are the seeds, the thick one is their mean. " if several else ""
    if search["random"]:
        caption += "Random search had as many evaluations"
        caption += (
            "; the band is one standard deviation over seeds to either side. " if len(search["random"]) > 1 else ". "
        )
    whole = _scaled_mean(devices)
    drawn = _growth_plot(search, lambda row: float(row["hypervolume"]), whole)
    parts = [figure(plots, "hypervolume", drawn, "Progress of the search, mean over devices", caption.strip())]
    if 1 < len(devices) <= MOST_DEVICES:
        small = [
            _growth_of(plots, search, index, device)
            for index, device in enumerate(devices)
            if device["closest"] is None  # where nothing meets the constraints, nothing grows
        ]
        parts.append(f'<div class="small-multiples">{"".join(small)}</div>')
    return "".join([*parts, _history_table(search, [device["name"] for device in devices[:MOST_DEVICES]])])


def _history_table(search: Json, names: Sequence[str]) -> str:
    kinds = {"search": search["searches"], "random": search["random"]}
    rows = [
        (
            f"{kind} {i + 1}",
            f"{row['evaluations']:,}",
            significant(row["hypervolume"], 4),
            *(significant(row["by_device"].get(name), 4) for name in names),
        )
        for kind, found in kinds.items()
        for i, each in enumerate(found)
        for row in each["history"]
    ]
    columns = ("Search", "#Evaluations", "#Mean", *(f"#{escaped(name)}" for name in names))
    return folded_table("Hypervolume over evaluations", columns, rows)


def _growth_of(plots: dict[str, Plot], search: Json, index: int, device: Json) -> str:
    """One device's own small plot."""
    name = device["name"]
    drawn = _growth_plot(search, lambda row: float(row["by_device"].get(name, 0.0)), device.get("uniform_hypervolume"))
    drawn["layout"]["showlegend"] = False
    return figure(plots, f"growth-{index}", drawn, f"Progress on {name}", "Lines and colours as above.")


def _growth_plot(search: Json, worth: Worth, scaled: float | None) -> Plot:
    seeds = [_curve(each["history"], worth) for each in search["searches"] if each["history"]]
    random = [_curve(each["history"], worth) for each in search["random"] if each["history"]]
    mean, by_chance = averaged(seeds), averaged(random)
    data = [_band(by_chance)] if len(random) > 1 else []
    data.append(_steps("Random search", [(x, y) for x, y, _ in by_chance], "@random", "linear"))
    if len(seeds) > 1:
        data += [_steps("One seed", each, "@seed", "hv", 1.5) | {"showlegend": i == 0} for i, each in enumerate(seeds)]
    data.append(_steps("Search", [(x, y) for x, y, _ in mean], "@front", "hv", 2.5))
    ends = [x for each in (*seeds, *random) for x, _ in each]
    if scaled is not None and ends:
        level = [(min(ends), scaled), (max(ends), scaled)]
        data.append(_steps("Uniform scaling", level, "@uniform", "linear", dash="dot"))
    return plot(data, axis("Evaluations"), axis("Hypervolume"))


def _curve(history: Sequence[Json], worth: Worth) -> Curve:
    return [(row["evaluations"], worth(row)) for row in history]


def averaged(curves: Sequence[Curve]) -> list[tuple[int, float, float]]:
    """(x, mean, standard deviation) of steps that hold their last value, from where the last of them begins."""
    if not curves:
        return []
    start = max(curve[0][0] for curve in curves)
    found = []
    for x in sorted({x for curve in curves for x, _ in curve if x >= start}):
        values = [next(y for at, y in reversed(curve) if at <= x) for curve in curves]
        found.append((x, statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0))
    return found


def _band(mean: Sequence[tuple[int, float, float]]) -> dict[str, Any]:
    edge = [(x, y + std) for x, y, std in mean] + [(x, y - std) for x, y, std in reversed(mean)]
    spread = line("Spread of random search", edge, [], "@chance", 0)
    return spread | {"fill": "toself", "fillcolor": "@chance", "showlegend": False}


def _steps(name: str, points: Curve, color: str, shape: str, width: float = 2, dash: str = "solid") -> dict[str, Any]:
    hover = [f"{name}<br>{x:,} evaluations<br>hypervolume {significant(y, 4)}" for x, y in points]
    drawn = line(name, points, hover, color, width)
    # One point alone is no line.
    mode = "lines" if len(points) > 1 else "markers"
    return drawn | {"mode": mode, "marker": {"color": color}, "line": {**drawn["line"], "shape": shape, "dash": dash}}


# What it was worth


def _worth(search: Json, devices: Sequence[Json]) -> str:
    one = search["hypervolume"]["seeds"] < 2
    spread = (
        "One seed tells no spread; <code>search.seeds</code> of 2 or more tells how much of a difference may be chance."
        if one
        else f"Mean and standard deviation over {search['hypervolume']['seeds']} seeds."
    )
    rows = [
        (
            f'<a href="#device-{index}">{escaped(device["name"])}</a>',
            spread_text(device["hypervolume"]),
            spread_text(device["hypervolume_random"]),
            significant(device.get("uniform_hypervolume")),
        )
        for index, device in enumerate(devices)
    ]
    whole = (spread_text(search["hypervolume"]), spread_text(search["hypervolume_random"]))
    rows.append(("All devices", *whole, significant(_scaled_mean(devices))))
    columns = ("Hypervolume", "#Search", "#Random search", "#Uniform scaling")
    found = table(
        "Hypervolume of the search and of what it is compared with", columns, rows, [False] * len(devices) + [True]
    )
    text = f"Hypervolume from 0 to 1, higher is better. {spread}"
    scaled = {len(device["uniform"]) for device in devices if device["uniform"]}
    if scaled:
        text += f" Uniform scaling has {max(scaled)} networks."
    return f"<p>{text}</p>{found}"


def _scaled_mean(devices: Sequence[Json]) -> float | None:
    """The mean over devices of the hypervolume of uniform scaling, where every device has one."""
    found = [finite(device.get("uniform_hypervolume")) for device in devices]
    known = [value for value in found if value is not None]
    return statistics.fmean(known) if known and len(known) == len(found) else None


# How it went


def _searches(search: Json) -> str:
    few = any(each["fidelity"] for each in search["searches"])
    rows = []
    for each in search["searches"]:
        sources = ", ".join(f"{count:,} {SOURCES.get(name, name)}" for name, count in each["sources"].items())
        last = each["history"][-1]["hypervolume"] if each["history"] else math.nan
        rows.append(
            (
                str(each["seed"]),
                f"{each['evaluations']:,}",
                f"{each['proposals']:,}",
                escaped(sources) or ABSENT,
                *(_fidelity_cells(each["fidelity"]) if few else ()),
                significant(last, 4),
                escaped(ENDED.get(each["ended"], each["ended"])),
                duration(each["seconds"]),
            )
        )
    columns = ("Seed", "#Evaluations", "#Proposals", "Where they came from")
    fidelity = ("#Spearman", "#Kendall", "#Promoted") if few else ()
    found = table("The searches", (*columns, *fidelity, "#Hypervolume", "Ended because", "#Time"), rows)
    return _fidelity_text(search) + found


def _fidelity_cells(fidelity: Json | None) -> tuple[str, str, str]:
    if fidelity is None:
        return (ABSENT, ABSENT, ABSENT)
    return (significant(fidelity["spearman"]), significant(fidelity["kendall"]), percent(fidelity["promoted"], 0))


def _fidelity_text(search: Json) -> str:
    fidelity = next((each["fidelity"] for each in search["searches"] if each["fidelity"]), None)
    if fidelity is None:
        return ""
    return (
        f"<p>Architectures were evaluated on {fidelity['first']:,} images first, and the promising ones on "
        f"{fidelity['images']:,}. The rank correlations are between the two scores of those that have both; promoted is "
        "the share that has.</p>"
    )


def _proxies(proxies: Json | None, score: str) -> str:
    if not proxies or not proxies["rows"]:
        return ""
    rows = [
        (escaped(row["name"]), significant(row["spearman"]), significant(row["kendall"])) for row in proxies["rows"]
    ]
    return (
        f"<h3>Proxies</h3><p>How far scores that need no training order {proxies['n']:,} architectures as their {score} "
        "does. What does not beat MACs tells nothing that the size did not.</p>"
        + table(f"Rank correlation of proxies with {score}", ("Score", "#Spearman", "#Kendall"), rows)
    )
