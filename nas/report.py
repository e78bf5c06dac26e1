"""One run as one HTML page that opens anywhere, without a network: what was found, how far to trust it, what was run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from nas.errors import JobError
from nas.page import figure, page, section
from nas.plots import Plot, agreement, axis, dots, line, plot
from nas.tables import (
    ABSENT,
    Network,
    accuracy_lines,
    amount,
    code,
    devices_table,
    duration,
    escaped,
    exports_table,
    facts_list,
    finite,
    folded_table,
    front_csv,
    front_table,
    hover_lines,
    hovers,
    interval,
    latency_lines,
    mean_errors,
    moment,
    percent,
    picks_table,
    plain,
    scientific,
    significant,
    small,
    span,
    table,
    thinned,
    trust_list,
    verdict,
)

__all__ = ["SUMMARY_FORMAT", "front_csv", "render"]

SUMMARY_FORMAT = "nas.summary/1"
MOST_POINTS = 4000  # of one trace: more only make the page slow
ENDS = {"largest_val_accuracy": "Largest network", "smallest_val_accuracy": "Smallest network"}

Device = Mapping[str, Any]


def render(summary: Mapping[str, Any]) -> str:
    """The page of one run, from its summary.json. A JobError where the summary is of another format."""
    if summary.get("format") != SUMMARY_FORMAT:
        raise JobError(f"a report needs a summary of format {SUMMARY_FORMAT}, not {summary.get('format')!r}")
    plots: dict[str, Plot] = {}
    sections = (
        _at_a_glance(summary),
        _picks(summary["devices"]),
        *(_device(plots, index, device) for index, device in enumerate(summary["devices"])),
        _training(plots, summary["supernet"]),
        _search(plots, summary["search"]),
        _provenance(summary),
    )
    main = "".join(sections)
    links = [("picks", "Picks")] if 'id="picks"' in main else []
    links += [(f"device-{index}", device["name"]) for index, device in enumerate(summary["devices"])]
    links += [("training", "Training"), ("search", "Search"), ("run", "What was run on what")]
    date = moment(summary["finished"])
    return page(summary["name"], "Architecture search", date, verdict(summary["devices"]), links, main, plots)


# What was found


def _at_a_glance(summary: Mapping[str, Any]) -> str:
    supernet, search, errors = summary["supernet"], summary["search"], mean_errors(summary["devices"])
    facts = (
        ("Devices", len(summary["devices"]), "each with its own front"),
        ("Evaluations", f"{search['evaluations']:,}", f"{search['unique']:,} different networks"),
        ("Largest network", percent(supernet["largest_test_accuracy"]), "test accuracy"),
        ("Smallest network", percent(supernet["smallest_test_accuracy"]), "test accuracy"),
        ("Prediction error", f"{span(errors, scale=100)}%" if errors else ABSENT, "mean, held-out networks"),
        ("Total time", duration(sum(map(float, summary["stages"].values()))), "all stages"),
    )
    items = "".join(f"<div><dt>{name}</dt><dd>{value} <small>{note}</small></dd></div>" for name, value, note in facts)
    return f'<section aria-label="At a glance"><dl class="glance">{items}</dl></section>'


def _picks(devices: Sequence[Device]) -> str:
    found = picks_table(devices)
    text = (
        "<p>From each front: the fastest network, the most accurate one, and the knee, beyond which a further point of "
        "accuracy costs much more time. Speed is relative to the most accurate network of the same device.</p>"
    )
    return section("picks", "Picks", text + found) if found else ""


# A device


def _device(plots: dict[str, Plot], index: int, device: Device) -> str:
    name, evaluated = device["name"], device["evaluated"]
    front = sorted(device["front"], key=lambda network: float(network["latency_ms_predicted"]))
    facts = "".join(
        f"<li>{escaped(key)} <b>{plain(value)}</b></li>"
        for key, value in device["device"].items()
        if value not in (None, "", [], {}, name)
    )
    parts = [f'<ul class="inline">{facts}</ul>']
    if front or evaluated:
        shown = thinned(evaluated, MOST_POINTS)
        caption = (
            "Each grey dot is a network that the search evaluated. The steps are the front: by predicted latency, no "
            "evaluated network is both faster and more accurate than one on it. A pale bar is the interval in which "
            "the predictor expects the latency; a diamond is what the device measured, with a line to its prediction. "
            "Accuracy is on the validation images."
        )
        if len(shown) < len(evaluated):
            caption += f" {len(shown):,} of {len(evaluated):,} evaluated networks are drawn."
        title = f"Accuracy against latency on {name}"
        parts.append(figure(plots, f"pareto-{index}", _pareto_plot(shown, front), title, caption))
    parts.append(f"<h3>The front</h3>{front_table(name, front)}" if front else "<p>The front is empty.</p>")
    parts.append(f"<h3>How far to trust the predictions</h3>{_trust(plots, index, device)}")
    if device["exports"]:
        parts.append(
            "<h3>Exported files</h3><p>Each file was run beside the network it was made from: the largest absolute "
            "difference between their outputs, and how often both name the same class.</p>"
            + exports_table(name, device["exports"])
        )
    return section(f"device-{index}", name, "".join(parts))


def _trust(plots: dict[str, Plot], index: int, device: Device) -> str:
    name, predictor, held_out = device["name"], device["predictor"], device["predictor"]["held_out"]
    again = [network for network in device["front"] if finite(network["latency_ms_measured"])]
    text = (
        f"<p>On networks that it had not seen, the predictor is off by {percent(predictor['mape'])} on average. "
        f"Measuring the same network again moves it by {percent(predictor['noise_floor'])}; no predictor can beat this "
        f"noise floor.</p>{trust_list(predictor, again)}"
    )
    if not held_out and not again:
        return f"{text}<p>There are no measured networks to compare with.</p>"
    caption = (
        "A network on the diagonal was predicted exactly, one inside the pale band within 10%. Circles are networks "
        "held out when the predictor was fitted; diamonds are networks of the front, measured after the search."
    )
    title = f"Predicted against measured latency on {name}"
    drawn = figure(plots, f"trust-{index}", _trust_plot(thinned(held_out, MOST_POINTS), again), title, caption)
    rows = [
        (code(one["arch_id"]), significant(one["measured_ms"]), significant(one["predicted_ms"])) for one in held_out
    ]
    numbers = folded_table(f"Held-out networks of {name}", ("Network", "#Measured ms", "#Predicted ms"), rows)
    return f'<div class="pair">{drawn}<div>{text}{numbers}</div></div>'


# Training, search, provenance


def _training(plots: dict[str, Plot], supernet: Mapping[str, Any]) -> str:
    history = thinned(supernet["history"], MOST_POINTS)
    parts = [
        f"<p>All networks share the {amount(supernet['params'])} parameters of one supernet, trained with the recipe "
        f"{code(supernet['recipe'])} in {duration(supernet['train_seconds'])}. With its weights the largest network "
        f"reaches {percent(supernet['largest_test_accuracy'], 2)} on the test images, the smallest "
        f"{percent(supernet['smallest_test_accuracy'], 2)}.</p>",
        '<div class="pair">',
    ]
    if any(finite(row["loss"]) is not None for row in history):
        parts.append(figure(plots, "loss", _loss_plot(history), "Training loss", "Lower is better."))
    if any(finite(row[key]) is not None for row in history for key in ENDS):
        caption = "On the validation images, for the largest and the smallest network of the space."
        parts.append(figure(plots, "accuracy", _accuracy_plot(history), "Accuracy during training", caption))
    rows = [
        (
            f"{row['step']:,}",
            significant(row["epoch"]),
            significant(row["loss"], 4),
            small(row["learning_rate"]),
            *(percent(row[key], 2) for key in ENDS),
        )
        for row in supernet["history"]
    ]
    columns = ("#Step", "#Epoch", "#Loss", "#Learning rate", *(f"#{name}" for name in ENDS.values()))
    parts += ["</div>", folded_table("Training history", columns, rows)]
    return section("training", "Training the supernet", "".join(parts))


def _search(plots: dict[str, Plot], search: Mapping[str, Any]) -> str:
    facts = (
        ("Sampler", escaped(search["sampler"])),
        ("Population", f"{search['population']:,}"),
        ("Evaluations", f"{search['evaluations']:,}"),
        ("Different networks", f"{search['unique']:,}"),
        ("Hypervolume", significant(search["hypervolume"], 4)),
        ("Time", duration(search["seconds"])),
    )
    parts = [facts_list(facts)]
    history = search["hypervolume_history"]
    if history:
        caption = (
            "The hypervolume is the area that the front dominates. It grows when a network is found that is faster, "
            "more accurate or both; once it is flat, a longer search would find little more."
        )
        plot = _hypervolume_plot(thinned(history, MOST_POINTS))
        parts.append(figure(plots, "hypervolume", plot, "Progress of the search", caption))
    rows = [(f"{row['evaluations']:,}", significant(row["hypervolume"], 4)) for row in history]
    parts.append(folded_table("Hypervolume over evaluations", ("#Evaluations", "#Hypervolume"), rows))
    return section("search", "Search", "".join(parts))


def _provenance(summary: Mapping[str, Any]) -> str:
    space, data, stages = summary["space"], summary["data"], summary["stages"]
    total = sum(map(float, stages.values())) or 1.0
    rows = [
        (
            escaped(name),
            f"{seconds:,.1f}",
            duration(seconds),
            f'<div class="bar"><span style="width:{100 * seconds / total:.1f}%"></span></div>',
        )
        for name, seconds in stages.items()
    ]
    facts = (
        ("Data", f"{escaped(data['name'])} {code(data['id'])}"),
        ("Images", f"{data['train']:,} to train, {data['validation']:,} to validate, {data['test']:,} to test"),
        ("Files skipped", f"{data['skipped']:,}"),
        ("Classes", f"{len(data['classes']):,}: {', '.join(map(escaped, data['classes']))}"),
        ("Space", f"{escaped(space['family'])} {code(space['id'])}"),
        ("Architectures", f"{scientific(space['size'])} from {space['choices']:,} choices"),
        ("Constraints", "<br>".join(map(escaped, summary["search"]["constraints"])) or "none"),
        ("Seed", escaped(summary["seed"])),
        ("Versions", ", ".join(f"{escaped(name)} {code(version)}" for name, version in summary["versions"].items())),
    )
    config = yaml.safe_dump(json.loads(json.dumps(summary["config"])), sort_keys=False, allow_unicode=True, width=100)
    devices = summary["devices"]
    parts = (
        facts_list(facts, "listed"),
        f"<h3>Stages</h3>{table('Stages and their time', ('Stage', '#Seconds', '#Time', 'Share'), rows)}",
        f"<h3>Devices as they were measured</h3>{devices_table(devices)}" if devices else "",
        f'<details><summary>Resolved job file</summary><pre tabindex="0">{escaped(config)}</pre></details>',
    )
    return section("run", "What was run on what", "".join(parts))


# Plots


def _pareto_plot(evaluated: Sequence[Mapping[str, Any]], front: Sequence[Network]) -> Plot:
    again = [network for network in front if finite(network["latency_ms_measured"])]
    bounded = [network for network in front if interval(network) != ABSENT]
    cloud = [(one["latency_ms_predicted"], 100 * one["val_accuracy"]) for one in evaluated]
    cloud_hover = [hover_lines(one["arch_id"], *accuracy_lines(one), *latency_lines(one)) for one in evaluated]
    predicted, measured = _points(front, "latency_ms_predicted"), _points(again, "latency_ms_measured")
    front_line = {"color": "@front", "width": 1.5, "shape": "hv"}
    data = (
        dots("Evaluated", cloud, cloud_hover, "@cloud", size=5),
        _strokes("Interval", bounded, "latency_ms_low", "latency_ms_high", "@band", 9),
        _strokes("Error", again, "latency_ms_predicted", "latency_ms_measured", "@measured", 2) | {"showlegend": False},
        dots("Predicted", predicted, hovers(front), "@front") | {"mode": "lines+markers", "line": front_line},
        dots("Measured", measured, hovers(again), "@measured", "diamond"),
    )
    ends = [network[end] for network in bounded for end in ("latency_ms_low", "latency_ms_high")]
    x = axis("Latency (ms)", [*(point[0] for point in cloud + predicted + measured), *ends])
    y = axis("Validation accuracy (%)", [point[1] for point in cloud + predicted], log=False, headroom=0.14)
    labels = [_label(network, x["type"] == "log") for network in front if network["picks"]]
    return plot(data, x, y, annotations=labels)


def _label(network: Network, log: bool) -> dict[str, Any]:
    """The picks of a network, up and to the left of it: there the front leaves room."""
    x = float(network["latency_ms_predicted"])
    return {
        "text": f"<b>{escaped(', '.join(network['picks']))}</b>",
        "x": math.log10(x) if log else x,
        "y": 100 * network["val_accuracy"],
        "ax": -10,
        "ay": -24,
        "xanchor": "center",
        "arrowhead": 0,
        "arrowwidth": 1,
        "arrowcolor": "@muted",
        "standoff": 5,
        "font": {"color": "@ink", "size": 13},
    }


def _trust_plot(held_out: Sequence[Mapping[str, Any]], again: Sequence[Network]) -> Plot:
    """Measured latency across and predicted up."""
    apart = [(one["measured_ms"], one["predicted_ms"]) for one in held_out]
    front = [(network["latency_ms_measured"], network["latency_ms_predicted"]) for network in again]
    hover = [hover_lines(one["arch_id"], *latency_lines(one, "predicted_ms", "measured_ms")) for one in held_out]
    data = (
        dots("Held out", apart, hover, "@front", "circle-open"),
        dots("Front", front, hovers(again), "@measured", "diamond"),
    )
    return agreement(data, "Measured latency (ms)", "Predicted latency (ms)")


def _loss_plot(history: Sequence[Mapping[str, Any]]) -> Plot:
    rows = [row for row in history if finite(row["loss"]) is not None]
    hover = [f"step {row['step']:,}<br>loss {significant(row['loss'], 4)}" for row in rows]
    curve = line("Loss", [(row["epoch"], row["loss"]) for row in rows], hover, "@front")
    return plot((curve,), axis("Epoch"), axis("Loss"), showlegend=False)


def _accuracy_plot(history: Sequence[Mapping[str, Any]]) -> Plot:
    data = []
    for (key, name), color, symbol in zip(ENDS.items(), ("@front", "@measured"), ("circle", "diamond"), strict=True):
        rows = [row for row in history if finite(row[key]) is not None]
        hover = [f"{name}<br>epoch {significant(row['epoch'])}<br>{percent(row[key], 2)}" for row in rows]
        curve = line(name, [(row["epoch"], 100 * row[key]) for row in rows], hover, color)
        data.append(curve | {"mode": "lines+markers", "marker": {"color": color, "size": 7, "symbol": symbol}})
    return plot(data, axis("Epoch"), axis("Validation accuracy (%)"))


def _hypervolume_plot(history: Sequence[Mapping[str, Any]]) -> Plot:
    points = [(row["evaluations"], row["hypervolume"]) for row in history]
    hover = [f"{x:,} evaluations<br>hypervolume {significant(y, 4)}" for x, y in points]
    steps = line("Hypervolume", points, hover, "@front")
    steps["line"]["shape"] = "hv"
    return plot((steps,), axis("Evaluations"), axis("Hypervolume"), showlegend=False)


def _strokes(name: str, networks: Iterable[Network], start: str, end: str, color: str, width: float) -> dict[str, Any]:
    """A level stroke for each network, from one of its latencies to another."""
    gap = (None, None)
    points = [
        point
        for network in networks
        for point in (
            (network[start], 100 * network["val_accuracy"]),
            (network[end], 100 * network["val_accuracy"]),
            gap,
        )
    ]
    return line(name, points, [], color, width)


def _points(networks: Iterable[Network], latency: str) -> list[tuple[Any, Any]]:
    return [(network[latency], 100 * network["val_accuracy"]) for network in networks]
