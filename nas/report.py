"""One run as one HTML page that opens anywhere, without a network: what was found, how far to trust it, what was run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from nas.errors import JobError
from nas.front_report import MOST_POINTS, device_section
from nas.page import figure, page, section
from nas.plots import Plot, axis, line, plot
from nas.run_tables import devices_table, picks_table
from nas.search_report import search_section
from nas.spreadsheet import evaluations_csv, front_csv
from nas.tables import (
    ABSENT,
    amount,
    code,
    duration,
    escaped,
    facts_list,
    finite,
    folded_table,
    mean_errors,
    moment,
    percent,
    scientific,
    score_of,
    significant,
    small,
    span,
    table,
    thinned,
    verdict,
)

__all__ = ["SUMMARY_FORMAT", "check_format", "evaluations_csv", "front_csv", "render"]

SUMMARY_FORMAT = "nas.summary/2"
ENDS = {"largest_val_accuracy": "Largest network", "smallest_val_accuracy": "Smallest network"}

Device = Mapping[str, Any]


def render(summary: Mapping[str, Any]) -> str:
    """The page of one run, from its summary.json. A JobError where the summary is of another format."""
    check_format(summary)
    plots: dict[str, Plot] = {}
    score = score_of(summary["data"])
    sections = (
        _at_a_glance(summary, score),
        _picks(summary["devices"], score),
        *(
            device_section(plots, index, device, summary["search"]["objectives"], score)
            for index, device in enumerate(summary["devices"])
        ),
        _across(summary.get("matrix")),
        _training(plots, summary["supernet"], score),
        search_section(plots, summary),
        _provenance(summary),
    )
    main = "".join(sections)
    links = [("picks", "Picks")] if 'id="picks"' in main else []
    links += [(f"device-{index}", device["name"]) for index, device in enumerate(summary["devices"])]
    links += [("across", "Across devices")] if 'id="across"' in main else []
    links += [("training", "Training"), ("search", "Search"), ("run", "What was run on what")]
    date = moment(summary["finished"])
    return page(summary["name"], "Architecture search", date, verdict(summary["devices"], score), links, main, plots)


def check_format(summary: Mapping[str, Any]) -> None:
    """A JobError where the summary is of another format."""
    if summary.get("format") != SUMMARY_FORMAT:
        raise JobError(
            f"a report needs a summary of format {SUMMARY_FORMAT}, not {summary.get('format')!r}; "
            "`nas export DIR --again` makes it anew"
        )


# What was found


def _at_a_glance(summary: Mapping[str, Any], score: str) -> str:
    supernet, search, errors = summary["supernet"], summary["search"], mean_errors(summary["devices"])
    facts = (
        ("Devices", len(summary["devices"]), "each with its own front"),
        ("Evaluations", f"{search['evaluations']:,}", f"architectures, of {search['proposals']:,} proposals"),
        ("Largest network", percent(supernet["largest_test_accuracy"]), f"test {score}"),
        ("Smallest network", percent(supernet["smallest_test_accuracy"]), f"test {score}"),
        ("Prediction error", f"{span(errors, scale=100)}%" if errors else ABSENT, "mean, held-out networks"),
        ("Total time", duration(sum(map(float, summary["stages"].values()))), "all stages"),
    )
    items = "".join(f"<div><dt>{name}</dt><dd>{value} <small>{note}</small></dd></div>" for name, value, note in facts)
    return f'<section aria-label="At a glance"><dl class="glance">{items}</dl></section>'


def _picks(devices: Sequence[Device], score: str) -> str:
    found = picks_table(devices)
    text = (
        "<p>From each front: the fastest network, the most accurate one, and the knee, beyond which a further point of "
        f"{score} costs much more time. Speed is relative to the most accurate network of the same device.</p>"
    )
    return section("picks", "Picks", text + found) if found else ""


# Across devices, training, provenance


def _across(matrix: Mapping[str, Any] | None) -> str:
    """What each device's pick costs on the others."""
    if not matrix or len(matrix["devices"]) < 2:
        return ""
    devices = matrix["devices"]
    rows = [
        (
            escaped(one["device"]),
            percent(one["val_accuracy"], 2),
            *(
                f"{_times(one['ratio'][name])} <small>{significant(one['latency_ms'][name])} ms</small>"
                for name in devices
            ),
        )
        for one in matrix["picks"]
    ]
    shares = [
        (escaped(name), *(percent(share) for share in row))
        for name, row in zip(matrix["fronts"], matrix["hypervolume_share"], strict=True)
    ]
    alike = [
        (escaped(name), *(significant(value) for value in row))
        for name, row in zip(devices, matrix["rank_correlation"], strict=True)
    ]
    columns = [f"#{escaped(name)}" for name in devices]
    parts = (
        "<p>A network that is best on one device need not be on another. Here is the "
        f"{escaped(matrix['pick'])} of each front with the latency that is predicted for it on every device, relative to the "
        "fastest network of that device's own front that is no less accurate: 1.00× loses nothing there. A dash stands "
        "where that front has none so accurate.</p>",
        table("Picks on other devices", (f"{escaped(matrix['pick'].capitalize())} of", "#Validation", *columns), rows),
        "<h3>Whole fronts</h3><p>What a front keeps, on each device, of the hypervolume of all fronts together.</p>",
        table("Hypervolume kept on other devices", ("Front of", *columns), shares),
        "<h3>How alike the devices are</h3><p>Spearman rank correlation of predicted latencies over random networks.</p>",
        table("Rank correlation of devices", ("", *columns), alike),
    )
    return section("across", "Across devices", "".join(parts))


def _times(ratio: Any) -> str:
    number = finite(ratio)
    return ABSENT if number is None else f"{number:.2f}×"


def _training(plots: dict[str, Plot], supernet: Mapping[str, Any], score: str) -> str:
    history = thinned(supernet["history"], MOST_POINTS)
    parts = [
        f"<p>All networks share the {amount(supernet['params'])} parameters of one supernet, trained with the recipe "
        f"{code(supernet['recipe'])} in {duration(supernet['train_seconds'])}. With its weights the largest network "
        f"reaches a {score} of {percent(supernet['largest_test_accuracy'], 2)} on the test images, the smallest "
        f"{percent(supernet['smallest_test_accuracy'], 2)}.</p>",
        '<div class="pair">',
    ]
    if any(finite(row["loss"]) is not None for row in history):
        parts.append(figure(plots, "loss", _loss_plot(history), "Training loss", "Lower is better."))
    if any(finite(row[key]) is not None for row in history for key in ENDS):
        caption = "On the validation images, for the largest and the smallest network of the space."
        title = f"{score.capitalize()} during training"
        parts.append(figure(plots, "accuracy", _score_plot(history, score), title, caption))
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
        ("Objectives", escaped(", ".join(summary["search"]["objectives"]))),
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


def _loss_plot(history: Sequence[Mapping[str, Any]]) -> Plot:
    rows = [row for row in history if finite(row["loss"]) is not None]
    hover = [f"step {row['step']:,}<br>loss {significant(row['loss'], 4)}" for row in rows]
    curve = line("Loss", [(row["epoch"], row["loss"]) for row in rows], hover, "@front")
    return plot((curve,), axis("Epoch"), axis("Loss"), showlegend=False)


def _score_plot(history: Sequence[Mapping[str, Any]], score: str) -> Plot:
    data = []
    for (key, name), color, symbol in zip(ENDS.items(), ("@front", "@measured"), ("circle", "diamond"), strict=True):
        rows = [row for row in history if finite(row[key]) is not None]
        hover = [f"{name}<br>epoch {significant(row['epoch'])}<br>{percent(row[key], 2)}" for row in rows]
        curve = line(name, [(row["epoch"], 100 * row[key]) for row in rows], hover, color)
        data.append(curve | {"mode": "lines+markers", "marker": {"color": color, "size": 7, "symbol": symbol}})
    return plot(data, axis("Epoch"), axis(f"Validation {score} (%)"))
