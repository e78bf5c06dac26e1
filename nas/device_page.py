"""A device report as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nas.page import figure, page, section
from nas.plots import Plot, agreement, dots, line
from nas.tables import (
    ABSENT,
    amount,
    code,
    escaped,
    facts_list,
    folded_table,
    hover_lines,
    interval,
    latency_lines,
    percent,
    plain,
    predictor_facts,
    significant,
    table,
)

Report = Mapping[str, Any]


def device_page(report: Report) -> str:
    """The page of what `device_report` made."""
    plots: dict[str, Plot] = {}
    sections = {
        "trust": ("How far to trust predictions", _trust(plots, report)),
        "time": ("Where the time goes", _time(report)),
        "device": ("The device as it was measured", _device(report)),
    }
    main = "".join(section(target, heading, content) for target, (heading, content) in sections.items())
    links = [(target, heading) for target, (heading, _) in sections.items()]
    return page(
        report["full_name"], "Device report", escaped(report["space"]["family"]), _verdict(report), links, main, plots
    )


def _verdict(report: Report) -> str:
    predictor, measured = report["predictor"], report["measured"]
    return (
        f"From {measured['networks']} measured networks, the latency of others is predicted with an error of "
        f"{percent(predictor['mape'])}; measuring one again moves it by {percent(predictor['noise_floor'])}."
    )


def _trust(plots: dict[str, Plot], report: Report) -> str:
    predictor, held_out = report["predictor"], report["held_out"]
    facts = predictor_facts(predictor, f"Inside their {percent(predictor['asked_coverage'], 0)} interval")
    caption = (
        "A network on the diagonal was predicted exactly, one inside the pale band within 10%. A bar is the interval in "
        "which the latency was expected. None of these networks was seen when the predictor was fitted."
    )
    rows = [
        (code(one["arch_id"]), significant(one["measured_ms"]), significant(one["predicted_ms"]), interval(_named(one)))
        for one in held_out
    ]
    columns = ("Network", "#Measured ms", "#Predicted ms", "#Interval ms")
    drawn = figure(plots, "trust-0", _trust_plot(report), "Predicted against measured latency", caption)
    numbers = folded_table("Held-out networks", columns, rows)
    return f'<div class="pair">{drawn}<div>{facts_list(facts)}{numbers}</div></div>{_kinds(report)}{_worst(report)}'


def _kinds(report: Report) -> str:
    errors = sorted(report["predictor"]["errors"].items(), key=lambda item: float(item[1]))
    rows = [(escaped(name), percent(error, 2)) for name, error in errors]
    return f"<h3>Kinds of predictors, cross-validated</h3>{table('Kinds', ('Kind', '#Error'), rows)}" if rows else ""


def _worst(report: Report) -> str:
    slots = [
        (escaped(row["slot"]), percent(row["error"]), percent(row["share"], 0), f"{row['networks']:,}")
        for row in report["worst_slots"]
    ]
    choices = [
        (
            escaped(row["choice"]),
            escaped(row["value"]),
            percent(row["error"], 2, sign=True),
            percent(row["standard_error"], 2),
            f"{row['networks']:,}",
        )
        for row in report["worst_choices"]
    ]
    if not slots:
        return ""
    return (
        "<h3>Predicted worst</h3><p>The error of a slot is relative to the slot's own cost; a slot that takes little time "
        "harms little.</p>"
        + table("Slots predicted worst", ("Slot", "#Error", "#Share of the latency", "#Networks"), slots)
        + table(
            "Choices that errors go with", ("Choice", "Value", "#Mean error", "#Standard error", "#Networks"), choices
        )
    )


def _time(report: Report) -> str:
    peak = report["peak_gmacs_per_s"]
    text = (
        "<p>The latency of a network as its slots share it, fitted to whole networks. A slot's time is its operations over "
        "the peak times its efficiency"
        + (
            f"; the peak, {significant(peak)} GMAC/s, is that of the fastest large convolution measured here.</p>"
            if peak
            else ".</p>"
        )
    )
    parts = [text]
    for entry in report["time"]:
        most = max((part["latency_ms"] for part in entry["parts"]), default=0.0) or 1.0
        rows = [
            (
                escaped(part["slot"]),
                significant(part["latency_ms"]),
                f'<div class="bar"><span style="width:{100 * part["latency_ms"] / most:.1f}%"></span></div>',
                percent(part["share"], 0),
                amount(part["macs"]),
                significant(part["gmacs_per_s"]),
                percent(part["efficiency"], 0),
            )
            for part in entry["parts"]
        ]
        outside = percent(entry["constant_ms"] / entry["latency_ms"], 0)
        rows.append(("outside the layers", significant(entry["constant_ms"]), "", outside, ABSENT, ABSENT, ABSENT))
        heading = (
            f"The {entry['network']} network measured, {code(entry['arch_id'])}: {significant(entry['latency_ms'])} ms"
        )
        columns = ("Slot", "#ms", "Time", "#Share", "#MACs", "#GMAC/s", "#Of the peak")
        parts += [
            f"<h3>{heading}</h3>",
            table(f"Time of the {entry['network']} network", columns, rows),
            _layers(entry),
        ]
    return "".join(parts)


def _layers(entry: Mapping[str, Any]) -> str:
    """The layers of a network, those that take most first."""
    layers = sorted(
        (layer for part in entry["parts"] for layer in part["layers"]), key=lambda layer: -layer["latency_ms"]
    )
    rows = [
        (
            escaped(layer["layer"]),
            escaped(layer["op"]),
            significant(layer["latency_ms"]),
            percent(layer["share"]),
            amount(layer["macs"]),
            significant(layer["gmacs_per_s"]),
            percent(layer["efficiency"], 0),
        )
        for layer in layers
    ]
    columns = ("Layer", "Kind", "#ms", "#Share", "#MACs", "#GMAC/s", "#Of the peak")
    return folded_table(f"Layers of the {entry['network']} network", columns, rows)


def _device(report: Report) -> str:
    measured = report["measured"]
    facts = [
        (
            "Networks",
            f"{measured['networks']:,}, {measured['converged']:,} settled, {measured['disturbed']:,} disturbed",
        ),
        ("Runs", f"{measured['runs']:,} timed; {measured['rejected_rounds']:,} rounds rejected"),
        ("Latencies", f"{significant(measured['fastest_ms'])} to {significant(measured['slowest_ms'])} ms"),
        ("Space", f"{escaped(report['space']['family'])} {code(report['space']['id'])}"),
    ]
    known = {**report["device"], **report["fingerprint"]}
    return facts_list([*facts, *((escaped(name), plain(value)) for name, value in known.items())], "listed")


def _trust_plot(report: Report) -> Plot:
    held_out = report["held_out"]
    points = [(one["measured_ms"], one["predicted_ms"]) for one in held_out]
    bars = [
        point
        for one in held_out
        for point in ((one["measured_ms"], one["low_ms"]), (one["measured_ms"], one["high_ms"]), (None, None))
    ]
    hover = [hover_lines(one["arch_id"], *latency_lines(_named(one))) for one in held_out]
    data = (line("Interval", bars, [], "@cloud", 2), dots("Held out", points, hover, "@front"))
    return agreement(data, "Measured latency (ms)", "Predicted latency (ms)")


def _named(one: Mapping[str, Any]) -> dict[str, Any]:
    """A held-out network with the names that networks of a front have."""
    return {
        "latency_ms_predicted": one["predicted_ms"],
        "latency_ms_measured": one["measured_ms"],
        "latency_ms_low": one["low_ms"],
        "latency_ms_high": one["high_ms"],
    }
