"""The result of a run on a terminal: a table a device, what the search was worth, and where the rest is."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from nas.folder import RunFolder
from nas.report import check_format
from nas.tables import computes_in, differ, score_of, spread_text


def print_result(summary: Mapping[str, Any], folder: RunFolder) -> None:
    """One table a device, what the search was worth, and where the rest is."""
    check_format(summary)
    console = Console(width=None if sys.stdout.isatty() else 140)
    for device in summary["devices"]:
        if device["closest"] is None:
            console.print(_front_table(device))
        else:
            console.print(_closest_line(device), highlight=False)
        if device.get("pair"):
            console.print(_pair_line(device["pair"]), highlight=False)
        for made in device["exports"]:
            for name, line in (("merged", _merged_line), ("exits", _exits_line)):
                if made.get(name):
                    console.print(line(made), highlight=False)
    supernet, total = summary["supernet"], sum(summary["stages"].values())
    console.print(_search_line(summary["search"]), highlight=False)
    console.print(
        f"{score_of(summary['data'])} of the supernet on test images: {100 * supernet['largest_test_accuracy']:.1f}% largest, "
        f"{100 * supernet['smallest_test_accuracy']:.1f}% smallest; {summary['search']['evaluations']} networks evaluated; "
        f"{total:.0f} s in all",
        highlight=False,
    )
    console.print(f"report: {folder.report}", highlight=False)


def _front_table(device: Mapping[str, Any]) -> Table:
    quality = device["predictor"]
    title = (
        f"{device['name']}: {len(device['front'])} networks on the front; predictor error {100 * quality['mape']:.1f}% "
        f"on {quality['n_test']} held-out networks"
    )
    table = Table(title=title, title_justify="left")
    in_others = ("in",) if differ(device["front"]) else ()
    for name in ("pick", *in_others, "val %", "test %", "predicted ms", "measured ms", "MACs", "params", "file"):
        table.add_column(name, justify="left" if name in ("pick", "in", "file") else "right", no_wrap=True)
    rows = {row["arch_id"]: row for row in device["front"]}
    for made in device["exports"]:
        row = rows[made["arch_id"]]
        table.add_row(
            made["pick"],
            *([computes_in(row)] if in_others else []),
            f"{100 * row['val_accuracy']:.1f}",
            f"{100 * row['test_accuracy']:.1f}",
            f"{row['latency_ms_predicted']:.3f}",
            f"{row['latency_ms_measured']:.3f}",
            f"{row['macs'] / 1e6:.2f} M",
            f"{row['params'] / 1e3:.1f} k",
            made["file"],
        )
    return table


def _pair_line(pair: Mapping[str, Any]) -> str:
    return (
        f"{pair['folder']}: {pair['fast']}, and {pair['accurate']} for {pair['share']:.1%} of the images: "
        f"test {pair['test_accuracy']:.1%} in {pair['latency_ms']:.3f} ms"
    )


def _merged_line(made: Mapping[str, Any]) -> str:
    merged, test = made["merged"], made["merged"]["test_accuracy"]
    return (
        f"{made['file']}: {made['arch_id']} with {merged['convolutions']['after']} instead of "
        f"{merged['convolutions']['before']} convolutions: test {test['after']:.1%} instead of {test['before']:.1%} in "
        f"{merged['latency_ms']['after']:.3f} instead of {merged['latency_ms']['before']:.3f} ms"
    )


def _exits_line(made: Mapping[str, Any]) -> str:
    exits, file = made["exits"], Path(made["file"]).with_name("exits.onnx")
    return (
        f"{file}: test {exits['test_accuracy']:.1%} in {exits['latency_ms']:.3f} ms, as is "
        "expected of images that may leave early"
    )


def _closest_line(device: Mapping[str, Any]) -> str:
    """Of a device whose constraints nothing meets."""
    closest = device["closest"]
    missed = "; ".join(f"'{each['text']}': it has {each['value']:.4g}" for each in closest["missed"])
    return f"{device['name']}: no architecture meets the constraints; closest is {closest['arch_id']} ({missed})"


def _search_line(search: Mapping[str, Any]) -> str:
    seeds, evaluations = len(search["searches"]), max(each["evaluations"] for each in search["searches"])
    found = f"hypervolume: search {spread_text(search['hypervolume'])}"
    if search["hypervolume_random"] is not None:
        found += f", random {spread_text(search['hypervolume_random'])}"
    return f"{found} ({seeds} {'seed' if seeds == 1 else 'seeds'}, {evaluations} evaluations{' each' * (seeds > 1)})"
