"""The numbers of a run as text: formatted for people, and as HTML tables.

Accuracies and errors come in as fractions. A number that is absent or not finite shows as a dash.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from nas.searching.quantities import QUANTITIES
from supernets.scores import SCORES

Network = Mapping[str, Any]  # one entry of a device's front

ABSENT = "–"
KNEE, MOST_ACCURATE = "knee", "most-accurate"
MOST_ROWS = 200  # of a table that holds the numbers behind a plot


def escaped(value: object) -> str:
    """Text that is safe between tags and in quoted attributes."""
    return html.escape(str(value))


def score_of(data: Mapping[str, Any]) -> str:
    """What the score of a run is called, by the part of a document that tells of its images; old ones have no task."""
    return SCORES[data.get("task", "single_label")]


def finite(value: Any) -> float | None:
    """The number, or None where it is absent or not finite."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def percent(fraction: Any, digits: int = 1, sign: bool = False) -> str:
    number = finite(fraction)
    return ABSENT if number is None else f"{100 * number:{'+' if sign else ''}.{digits}f}%".replace("-", "−")


def significant(value: Any, digits: int = 3) -> str:
    """0.0412, 0.41, 4.12, 41.2, 412."""
    number = finite(value)
    if number is None:
        return ABSENT
    whole = math.floor(math.log10(abs(number))) + 1 if number else 1
    return f"{number:,.{min(max(digits - whole, 0), 6)}f}"


def amount(value: Any) -> str:
    """23.4 M, 1.20 G."""
    number = finite(value)
    if number is None:
        return ABSENT
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= size:
            return f"{significant(number / size)} {unit}"
    return f"{number:g}"


def quantity_text(name: str, value: Any) -> str:
    """A quantity with its unit: 4.12 ms, 23.4 MB, 81.2%."""
    unit = QUANTITIES[name].unit if name in QUANTITIES else ""
    if finite(value) is None:
        return ABSENT
    if unit in ("ms", "mJ"):
        return f"{significant(value)} {unit}"
    if unit == "share":
        return percent(value, 2)
    return f"{amount(value)}B" if unit == "bytes" else amount(value)


def exact(name: str) -> bool:
    """Whether a quantity is known of an architecture, so that there is nothing to predict or to measure."""
    return name in QUANTITIES and QUANTITIES[name].cost is not None


def quantity_label(name: str) -> str:
    """What heads a column or an axis: Latency p90 (ms), Peak memory (bytes), MACs."""
    unit = QUANTITIES[name].unit if name in QUANTITIES else ""
    if unit in ("", "share", "MACs"):
        return "MACs" if name == "macs" else name.replace("_", " ").capitalize()
    return f"{name.removesuffix(f'_{unit.lower()}').replace('_', ' ').capitalize()} ({unit})"


def spread_text(found: Mapping[str, Any] | None) -> str:
    """A mean over seeds with its standard deviation, where there are several: 0.712 ± 0.003."""
    if found is None:
        return ABSENT
    std = finite(found["std"])
    return f"{significant(found['mean'])}" + ("" if std is None else f" ± {std:.3f}")


def small(value: Any) -> str:
    """1.2e−06."""
    number = finite(value)
    return ABSENT if number is None else f"{number:.1e}".replace("-", "−")


def plain(value: object) -> str:
    """HTML of any value of a flat or nested document."""
    if value in (None, "", [], {}):
        return ABSENT
    return escaped(value if isinstance(value, str | int | float) else json.dumps(value))


def duration(seconds: Any) -> str:
    """4.2 s, 3 min 5 s, 2 h 10 min."""
    number = finite(seconds)
    if number is None:
        return ABSENT
    if number < 59.5:
        return f"{number:.0f} s" if number >= 9.95 else f"{number:.1f} s"
    if number < 3570:
        return f"{round(number) // 60} min {round(number) % 60} s".removesuffix(" 0 s")
    minutes = round(number / 60)
    return f"{minutes // 60} h {minutes % 60} min".removesuffix(" 0 min")


def moment(iso: str) -> str:
    """HTML of an ISO time: 21 November 2026, 20:41 UTC."""
    try:
        when = datetime.fromisoformat(iso)
    except ValueError:
        return escaped(iso)
    zone = escaped(f" {when.tzname()}") if when.tzname() else ""
    return f'<time datetime="{escaped(iso)}">{when.day} {when:%B %Y, %H:%M}{zone}</time>'


def scientific(value: int) -> str:
    """HTML: 12,345 or 2.0 × 10<sup>19</sup>. A space may have more architectures than a float can count."""
    if value < 1_000_000:
        return f"{value:,}"
    exponent = math.floor(math.log10(value))
    mantissa = f"{10 ** (math.log10(value) - exponent):.1f}"
    if mantissa == "10.0":
        mantissa, exponent = "1.0", exponent + 1
    return f"{mantissa} × 10<sup>{exponent}</sup>"


def span(values: Iterable[float], digits: int = 1, scale: float = 1.0) -> str:
    """The range of some values, `1.9–2.6`, or the one value where the two ends print alike."""
    numbers = sorted(values)
    low, high = (f"{scale * number:.{digits}f}".replace("-", "−") for number in (numbers[0], numbers[-1]))
    dash = " to " if numbers[0] < 0 else "–"
    return low if low == high else f"{low}{dash}{high}"


def compact_arch(arch: Mapping[str, Any], deepest: int = 99, longest: int = 64) -> list[str]:
    """One line for each kind of choice, those of the whole network first: `resolution 28`, `depth 2-1-2`,
    `kernel 3-1 | 3 | 3-3`, where bars part the stages. `deepest` leaves out choices with more dots in their name."""
    kinds: dict[str, dict[str, list[str]]] = {}
    for name, value in sorted(arch.items(), key=lambda item: choice_order(item[0])):
        place, _, kind = name.rpartition(".")
        if name.count(".") <= deepest:
            kinds.setdefault(kind, {}).setdefault(place.rpartition(".")[0], []).append(str(value))
    lines = [f"{kind} {' | '.join('-'.join(values) for values in stages.values())}" for kind, stages in kinds.items()]
    return [line if len(line) <= longest else line[: longest - 1] + "…" for line in lines]


def choice_order(name: str) -> tuple[int, list[tuple[int, str]]]:
    """Sorts choices of the whole network before those of stages and blocks, and s2 before s10."""
    parts = re.split(r"(\d+)", name)
    return name.count("."), [(int(part), "") if part.isdecimal() else (0, part) for part in parts]


def code(value: object) -> str:
    return f"<code>{escaped(value)}</code>"


# Networks, compared and described


def pick(front: Iterable[Network], name: str) -> Network | None:
    return next((network for network in front if name in network["picks"]), None)


def speed(network: Network, other: Network) -> float | None:
    """How many times as fast as the other, by measured latency where both have one."""
    for key in ("latency_ms_measured", "latency_ms_predicted"):
        mine, its = finite(network[key]), finite(other[key])
        if mine and its:
            return its / mine
    return None


def off_by(network: Network) -> float | None:
    """Predicted minus measured latency, as a fraction of the measured one."""
    predicted, measured = finite(network["latency_ms_predicted"]), finite(network["latency_ms_measured"])
    return predicted / measured - 1 if predicted is not None and measured else None


def interval(network: Network) -> str:
    low, high = finite(network.get("latency_ms_low")), finite(network.get("latency_ms_high"))
    return ABSENT if low is None or high is None else f"{significant(low)}–{significant(high)}"


def verdict(devices: Sequence[Mapping[str, Any]], score: str) -> str:
    """One sentence: what the knee buys on each device, and how far off the predictions were."""
    found = [device for device in devices if device["front"]]
    if not found:
        return "The search found no network that meets its constraints."
    where = f"{len(found)} devices" if len(found) > 1 else escaped(found[0]["name"])
    errors = mean_errors(found)
    trust = f"; predicted latency is off by {span(errors, scale=100)}% on average" if errors else ""
    pairs = [(pick(device["front"], KNEE), pick(device["front"], MOST_ACCURATE)) for device in found]
    gains = [
        (times, accuracy_lost(knee, best))
        for knee, best in pairs
        if knee and best and knee["arch_id"] != best["arch_id"] and (times := speed(knee, best)) is not None
    ]
    if not gains:
        count = sum(len(device["front"]) for device in found)
        return f"The search found {count} {'network' if count == 1 else 'networks'} for {where}{trust}."
    return (
        f"On {where}, the knee of the front is {span(times for times, _ in gains)}× as fast as the most accurate "
        f"network, for {span((lost for _, lost in gains), scale=100)} points of {score}{trust}."
    )


def mean_errors(devices: Sequence[Mapping[str, Any]]) -> list[float]:
    """The mean prediction error of every device that knows its own."""
    return [error for device in devices if (error := finite(device["predictor"]["mape"])) is not None]


def accuracy_lost(network: Network, other: Network) -> float:
    """On the test images where both were tested."""
    mine, its = finite(network["test_accuracy"]), finite(other["test_accuracy"])
    if mine is None or its is None:
        return float(other["val_accuracy"] - network["val_accuracy"])
    return its - mine


def hovers(networks: Iterable[Network]) -> list[str]:
    """Everything that is known of a network of the front."""
    return [
        hover_lines(
            network["arch_id"],
            ", ".join(network["picks"]),
            *accuracy_lines(network),
            *latency_lines(network),
            *value_lines(network),
            *constraint_lines(network),
            f"{amount(network['macs'])} MACs, {amount(network['params'])} parameters",
            *([computes_in(network)] if computes_in(network) != "fp32" else []),
            *compact_arch(network["arch"]),
        )
        for network in networks
    ]


def computes_in(network: Network) -> str:
    """`fp32`, `int8` or `mixed`; summaries from before there were others do not say."""
    return str(network.get("precision", "fp32"))


def differ(networks: Iterable[Network]) -> bool:
    """Whether some do not compute in fp32."""
    return any(computes_in(network) != "fp32" for network in networks)


def hover_lines(title: str, *lines: str) -> str:
    """Plotly's own markup, which knows no entity for a quote."""
    head, *rest = (html.escape(line, quote=False) for line in (title, *lines) if line)
    return "<br>".join([f"<b>{head}</b>", *rest])


def accuracy_lines(network: Mapping[str, Any]) -> list[str]:
    tested = finite(network.get("test_accuracy"))
    lines = [f"{percent(network['val_accuracy'], 2)} on the validation images"]
    if reread(network):
        lines.append(f"{percent(network['search_accuracy'], 2)} in the search, on fewer of them")
    return lines if tested is None else [*lines, f"{percent(tested, 2)} on the test images"]


def reread(network: Mapping[str, Any]) -> bool:
    """Whether the search knew another accuracy than was found on all validation images."""
    return finite(network.get("search_accuracy")) not in (None, finite(network["val_accuracy"]))


def value_lines(network: Network) -> list[str]:
    """Every quantity but the latency, which has lines of its own."""
    return [
        f"{quantity_label(name).partition(' (')[0]}: {_value_text(name, value)}"
        for name, value in network.get("values", {}).items()
        if name != "latency_ms"
    ]


def _value_text(name: str, value: Mapping[str, Any]) -> str:
    """Predicted, with its interval unless it is known exactly, and measured where it was."""
    text = quantity_text(name, value["predicted"])
    if exact(name):
        return text
    text = f"predicted {text} [{significant(value['low'])}–{significant(value['high'])}]"
    return text if value.get("measured") is None else f"{text}, measured {quantity_text(name, value['measured'])}"


def constraint_lines(network: Network) -> list[str]:
    return [
        f"{limit['text']}: {held(limit['predicted'])} as predicted"
        + ("" if limit["measured"] is None else f", {held(limit['measured'])} as measured")
        for limit in network.get("constraints", ())
    ]


def held(met: bool | None) -> str:
    """Whether a constraint holds, in a word."""
    return ABSENT if met is None else "met" if met else "missed"


def constraints_text(network: Network) -> str:
    """How many of a network's constraints hold, by what was measured where that is known."""
    limits = network.get("constraints", ())
    truths = [limit["predicted"] if limit["measured"] is None else limit["measured"] for limit in limits]
    if not truths:
        return ABSENT
    by = "measured" if all(limit["measured"] is not None for limit in limits) else "predicted in part"
    by = "predicted" if all(limit["measured"] is None for limit in limits) else by
    return f"{sum(truths)} of {len(truths)} met, {by}"


def latency_lines(
    network: Mapping[str, Any], predicted: str = "latency_ms_predicted", measured: str = "latency_ms_measured"
) -> list[str]:
    expected, found = finite(network[predicted]), finite(network.get(measured))
    bounds = interval(network)
    line = f"predicted {significant(expected)} ms" + (f" [{bounds}]" if bounds != ABSENT else "")
    if expected is None or not found:
        return [line]
    return [line, f"measured {significant(found)} ms, prediction off by {percent(expected / found - 1, sign=True)}"]


# Tables


def table(label: str, columns: Sequence[str], rows: Iterable[Sequence[str]], strong: Sequence[bool] = ()) -> str:
    """An HTML table in a box of its own that scrolls. Columns and cells are HTML; a column that begins with `#` holds
    numbers. The first cell of a row names it; the rows marked in `strong` stand out."""
    kinds = [' class="number"' if column.startswith("#") else "" for column in columns]
    head = "".join(
        f'<th scope="col"{kind}>{column.removeprefix("#")}</th>' for column, kind in zip(columns, kinds, strict=True)
    )
    body = []
    for index, row in enumerate(rows):
        first, *rest = (f"{kind}>{cell}" for cell, kind in zip(row, kinds, strict=True))
        cells = f'<th scope="row"{first}</th>' + "".join(f"<td{cell}</td>" for cell in rest)
        mark = ' class="strong"' if index < len(strong) and strong[index] else ""
        body.append(f"<tr{mark}>{cells}</tr>")
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escaped(label)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def facts_list(named: Iterable[tuple[str, str]], kind: str = "facts") -> str:
    """An HTML list of names and values, both of them HTML."""
    items = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in named)
    return f'<dl class="{kind}">{items}</dl>'


def folded_table(label: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """At most `MOST_ROWS` rows of numbers behind a plot, folded under their label. Nothing where there are none."""
    if not rows:
        return ""
    kept = thinned(rows, MOST_ROWS)
    note = "" if len(kept) == len(rows) else f", {len(kept)} of {len(rows):,} rows"
    return f"<details><summary>{escaped(label)}{note}</summary>{table(label, columns, kept)}</details>"


def thinned(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(index * (len(items) - 1) / (most - 1))] for index in range(most)]


def predictor_facts(predictor: Mapping[str, Any], inside: str) -> list[tuple[str, str]]:
    """How good a predictor is, as names and HTML; `inside` names the share of held-out networks in their intervals."""
    return [
        ("Predictor", escaped(predictor["kind"])),
        ("Mean error (MAPE)", percent(predictor["mape"])),
        ("Within 5%", percent(predictor["within_5"], 0)),
        ("Within 10%", percent(predictor["within_10"], 0)),
        ("Rank correlation (Spearman)", significant(predictor["spearman"])),
        ("Noise floor", percent(predictor["noise_floor"])),
        (inside, percent(predictor["coverage"], 0)),
        ("Networks fitted on", f"{predictor['n_train']:,}"),
        ("Networks held out", f"{predictor['n_test']:,}"),
    ]
