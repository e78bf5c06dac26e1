"""The numbers of a run as text: formatted for people, as HTML tables and as CSV.

Accuracies and errors come in as fractions. A number that is absent or not finite shows as a dash.
"""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

Network = Mapping[str, Any]  # one entry of a device's front

ABSENT = "–"
KNEE, MOST_ACCURATE = "knee", "most-accurate"
MOST_ROWS = 200  # of a table that holds the numbers behind a plot
FRONT_COLUMNS = (
    "arch_id",
    "val_accuracy",
    "test_accuracy",
    "latency_ms_predicted",
    "latency_ms_low",
    "latency_ms_high",
    "latency_ms_measured",
    "macs",
    "params",
    "picks",
    "arch",
)


def front_csv(device: Mapping[str, Any]) -> str:
    """A device's front as CSV with a header; absent values are empty, `picks` parted by `;`, `arch` is JSON."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(FRONT_COLUMNS)
    for network in device["front"]:
        row = {name: network.get(name) for name in FRONT_COLUMNS}
        row["picks"] = ";".join(network["picks"])
        row["arch"] = json.dumps(network["arch"])
        writer.writerow(row.values())
    return out.getvalue()


def escaped(value: object) -> str:
    """Text that is safe between tags and in quoted attributes."""
    return html.escape(str(value))


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
    for name, value in sorted(arch.items(), key=lambda item: (item[0].count("."), _natural(item[0]))):
        place, _, kind = name.rpartition(".")
        if name.count(".") <= deepest:
            kinds.setdefault(kind, {}).setdefault(place.rpartition(".")[0], []).append(str(value))
    lines = [f"{kind} {' | '.join('-'.join(values) for values in stages.values())}" for kind, stages in kinds.items()]
    return [line if len(line) <= longest else line[: longest - 1] + "…" for line in lines]


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts s2 before s10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


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


def verdict(devices: Sequence[Mapping[str, Any]]) -> str:
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
        f"network, for {span((lost for _, lost in gains), scale=100)} points of accuracy{trust}."
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
            f"{amount(network['macs'])} MACs, {amount(network['params'])} parameters",
            *compact_arch(network["arch"]),
        )
        for network in networks
    ]


def hover_lines(title: str, *lines: str) -> str:
    """Plotly's own markup, which knows no entity for a quote."""
    head, *rest = (html.escape(line, quote=False) for line in (title, *lines) if line)
    return "<br>".join([f"<b>{head}</b>", *rest])


def accuracy_lines(network: Mapping[str, Any]) -> list[str]:
    tested = finite(network.get("test_accuracy"))
    test = [] if tested is None else [f"{percent(tested, 2)} on the test images"]
    return [f"{percent(network['val_accuracy'], 2)} on the validation images", *test]


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


def picks_table(devices: Sequence[Mapping[str, Any]]) -> str:
    """The picks of every device, beside the files they became. Nothing where there are no picks."""
    rows, strong = [], []
    for index, device in enumerate(devices):
        best = pick(device["front"], MOST_ACCURATE)
        exported = {export["arch_id"]: code(export["file"]) for export in device["exports"]}
        for network in sorted(device["front"], key=lambda network: float(network["latency_ms_predicted"])):
            if not network["picks"]:
                continue
            times = speed(network, best) if best else None
            rows.append(
                (
                    f'<a href="#device-{index}">{escaped(device["name"])}</a>',
                    escaped(", ".join(network["picks"])),
                    percent(network["val_accuracy"], 2),
                    percent(network["test_accuracy"], 2),
                    significant(network["latency_ms_predicted"]),
                    significant(network["latency_ms_measured"]),
                    ABSENT if times is None else f"{times:.1f}×",
                    amount(network["macs"]),
                    amount(network["params"]),
                    exported.get(network["arch_id"], ABSENT),
                )
            )
            strong.append(KNEE in network["picks"])
    columns = ("Device", "Pick", "#Validation", "#Test", "#Predicted ms", "#Measured ms", "#Speed", "#MACs", "#Params")
    return table("The picks of every device", (*columns, "ONNX file"), rows, strong) if rows else ""


def front_table(name: str, front: Sequence[Network]) -> str:
    rows = [
        (
            code(network["arch_id"]),
            escaped(", ".join(network["picks"])),
            percent(network["val_accuracy"], 2),
            percent(network["test_accuracy"], 2),
            significant(network["latency_ms_predicted"]),
            interval(network),
            significant(network["latency_ms_measured"]),
            percent(off_by(network), sign=True),
            amount(network["macs"]),
            amount(network["params"]),
            escaped(" · ".join(compact_arch(network["arch"], 1) or compact_arch(network["arch"]))),
        )
        for network in front
    ]
    columns = ("Network", "Pick", "#Validation", "#Test", "#Predicted ms", "#Interval ms", "#Measured ms", "#Off by")
    strong = [bool(network["picks"]) for network in front]
    return table(f"The front of {name}", (*columns, "#MACs", "#Params", "Architecture"), rows, strong)


def exports_table(name: str, exports: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            code(export["file"]),
            escaped(export["pick"]),
            code(export["arch_id"]),
            f"{amount(export['bytes'])}B",
            code(export["sha256"][:12] + "…"),
            small(export["max_abs_diff"]),
            percent(export["top1_agreement"], 2),
        )
        for export in exports
    ]
    columns = ("File", "Pick", "Network", "#Size", "SHA-256", "#Max abs difference", "#Top-1 agreement")
    return table(f"Files exported for {name}", columns, rows)


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


def trust_list(predictor: Mapping[str, Any], again: Sequence[Network]) -> str:
    """How good a device's predictor is, with the networks of the front that were measured again."""
    facts = predictor_facts(predictor, "Held out inside their 90% interval")
    bounded = [network for network in again if interval(network) != ABSENT]
    if bounded:
        inside = [
            one for one in bounded if one["latency_ms_low"] <= one["latency_ms_measured"] <= one["latency_ms_high"]
        ]
        facts.append(("Front measured inside its interval", f"{len(inside)} of {len(bounded)}"))
    return facts_list(facts)


def devices_table(devices: Sequence[Mapping[str, Any]]) -> str:
    """What each device was when it was measured: one column a device."""
    known = [{"id": device["id"], **device["device"], **device["fingerprint"]} for device in devices]
    names = dict.fromkeys(name for values in known for name in values)
    rows = [(escaped(name), *(plain(values.get(name)) for values in known)) for name in names]
    columns = ("Property", *(escaped(device["name"]).lstrip("#") for device in devices))
    return table("The devices as they were measured", columns, rows)
