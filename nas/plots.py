"""Plots as plain `{data, layout}` dicts, as plotly.js takes them.

A colour names a custom property of report.css, as in `@front`, so that report.js can paint it for light, dark and paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from nas.tables import finite

LOG_ABOVE = 4.0  # an axis whose ends are further apart than this factor is logarithmic

Plot = dict[str, Any]


def plot(data: Iterable[dict[str, Any]], x: dict[str, Any], y: dict[str, Any], **layout: Any) -> Plot:
    """The traces that have points, on these axes."""
    shared = {
        "font": {"color": "@ink", "size": 13},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "closest",
        "hoverlabel": {"align": "left", "bgcolor": "@card", "bordercolor": "@muted", "font": {"color": "@ink"}},
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 1.02,
            "yanchor": "bottom",
            "bgcolor": "rgba(0,0,0,0)",
            "font": {"size": 12},
        },
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "@cloud", "activecolor": "@front"},
        "margin": {"l": 56, "r": 12, "t": 28, "b": 48},
    }
    return {"data": [trace for trace in data if trace["x"]], "layout": {**shared, "xaxis": x, "yaxis": y, **layout}}


def agreement(data: Sequence[dict[str, Any]], x: str, y: str) -> Plot:
    """Traces of which both coordinates mean the same, on one scale, with the diagonal and 10% to either side of it."""
    scale = axis(x, [value for trace in data for side in ("x", "y") for value in trace[side]])
    low, high = (10**end if scale["type"] == "log" else end for end in scale.get("range", (0.0, 1.0)))
    corners = [(low, 1.1 * low), (high, 1.1 * high), (high, 0.9 * high), (low, 0.9 * low)]
    behind = (
        line("Within 10%", corners, [], "@band", width=0) | {"fill": "toself", "fillcolor": "@band"},
        line("Exact", [(low, low), (high, high)], [], "@muted", width=1) | {"showlegend": False},
    )
    return plot((*behind, *data), scale, scale | {"title": {**scale["title"], "text": y}})


def axis(title: str, values: Iterable[Any] = (), log: bool = True, headroom: float = 0.05) -> dict[str, Any]:
    """An axis that holds the values with room at its ends, logarithmic where `log` allows it and they lie far apart.
    Without values Plotly chooses the range."""
    axis: dict[str, Any] = {
        "type": "linear",
        "title": {"text": title, "standoff": 12, "font": {"size": 13}},
        "color": "@muted",
        "gridcolor": "@grid",
        "linecolor": "@muted",
        "zeroline": False,
        "automargin": True,
    }
    known = [number for value in values if (number := finite(value)) is not None]
    if not known:
        return axis
    low, high = min(known), max(known)
    if log and 0 < low * LOG_ABOVE < high:
        axis |= {
            "type": "log",
            "tickvals": (ticks := _log_ticks(low, high)),
            "ticktext": [_tick_text(tick) for tick in ticks],
        }
        low, high = math.log10(low), math.log10(high)
    width = high - low or abs(high) or 1.0
    return axis | {"range": [low - 0.05 * width, high + headroom * width]}


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers in between, more of them in each decade where there are few decades."""
    per_decade = (1, 2, 3, 5, 7) if high < 20 * low else (1, 2, 5) if high < 1000 * low else (1,)
    ticks = [float(f"{step}e{decade}") for decade in range(-6, 13) for step in per_decade]
    return [tick for tick in ticks if 0.9 * low < tick < 1.1 * high]


def _tick_text(tick: float) -> str:
    """0.05, 2,000, 20 k, 5 M."""
    thousands = int(math.log10(tick)) // 3
    return f"{tick:,g}" if tick < 1e4 else f"{tick / 1000**thousands:g} {' kMGT'[thousands]}"


def _trace(name: str, points: Iterable[tuple[Any, Any]], hover: Sequence[str]) -> dict[str, Any]:
    xs, ys = zip(*points, strict=True) if points else ((), ())
    shown = {"hoverinfo": "text", "hovertext": hover} if hover else {"hoverinfo": "skip"}
    return {"type": "scatter", "name": name, "x": xs, "y": ys, **shown}


def dots(
    name: str,
    points: Iterable[tuple[Any, Any]],
    hover: Sequence[str],
    color: str,
    symbol: str | Sequence[str] = "circle",
    size: int = 9,
) -> dict[str, Any]:
    """A trace of points; `hover` has a text for each, or is empty; `symbol` is that of all, or one for each."""
    marker = {"color": color, "symbol": symbol, "size": size}
    return {**_trace(name, points, hover), "mode": "markers", "marker": marker}


def line(
    name: str, points: Iterable[tuple[Any, Any]], hover: Sequence[str], color: str, width: float = 2
) -> dict[str, Any]:
    """A trace of a line through the points, which a point of (None, None) interrupts."""
    return {**_trace(name, points, hover), "mode": "lines", "line": {"color": color, "width": width}}
