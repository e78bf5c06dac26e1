"""What `nas supernets` found, as JSON documents and as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from nas.progress import Progress
from nas.searching.evaluator import THREADS
from nas.tables import ABSENT, amount, percent, score_of, significant
from nas.trained import Split, Trained, archs_named
from search_spaces import arch_cost
from supernets.calibrate import calibrate
from supernets.conflicts import OTHER_IMAGES, OVERALL, PAIRS, Conflict, conflicts, training_batches
from supernets.datasource import TaskName
from supernets.evaluation import evaluate
from supernets.scores import CLASS_SCORES, SCORES
from supernets.threads import torch_threads

Json = Any

EVALUATION_FORMAT, CONFLICTS_FORMAT = "nas.evaluation/1", "nas.conflicts/1"
# Of many, the classes that are known worst, and the layers that agree least.
CLASSES_SHOWN, LAYERS_SHOWN = 10, 8


def evaluation_json(trained: Trained, words: Sequence[str], split: Split, progress: Progress) -> dict[str, Json]:
    """Networks by name on all images of a split, each with batch norm of its own; on one thread, as in a search."""
    archs, calibration, images = archs_named(trained, words), trained.calibration(), trained.images(split)
    rows = []
    with torch_threads(THREADS):
        for i, (arch, name) in enumerate(archs.items()):
            found = evaluate(trained.net, arch, calibrate(trained.net, arch, calibration), images)
            rows.append(
                {
                    "name": name,
                    "arch_id": arch.id,
                    "arch": arch.values,
                    "macs": arch_cost(trained.space, arch).macs,
                    "accuracy": found.accuracy,
                    "calibration_error": found.calibration_error,
                    "nll": found.nll,
                    _key(trained.dataset.task): list(found.by_class),
                }
            )
            progress(i + 1, len(archs), name or arch.id)
    return {
        "format": EVALUATION_FORMAT,
        "supernet": str(trained.file),
        "split": split,
        "images": found.images,
        "task": trained.dataset.task,
        "classes": list(trained.dataset.classes),
        "support": list(found.support),
        "networks": rows,
    }


def evaluation_tables(document: Mapping[str, Json]) -> Iterator[Table]:
    """The networks, and class by class their recall or average precision."""
    networks, task = document["networks"], document["task"]
    table = _table(
        f"{document['images']} {document['split']} images", "network", "id", "MACs", SCORES[task], "ECE", "NLL"
    )
    for row in networks:
        numbers = (percent(row["accuracy"]), percent(row["calibration_error"]), significant(row["nll"]))
        table.add_row(row["name"], row["arch_id"], amount(row["macs"]), *numbers)
    yield table
    found = [row[_key(task)] for row in networks]
    worst = sorted(range(len(document["classes"])), key=lambda k: _mean([each[k] for each in found]))
    shown = sorted(worst[:CLASSES_SHOWN])
    few = "" if len(shown) == len(worst) else f", the {len(shown)} worst of {len(worst)} classes"
    # Names of classes may look like markup.
    heads = (escape(f"{document['classes'][k]} ({document['support'][k]})") for k in shown)
    table = _table(f"{CLASS_SCORES[task]} of each class (images){few}", "network", "id", *heads)
    for row, each in zip(networks, found, strict=True):
        table.add_row(row["name"], row["arch_id"], *(percent(each[k]) for k in shown))
    yield table


def _key(task: TaskName) -> str:
    """Of a network's scores class by class."""
    return CLASS_SCORES[task].replace(" ", "_")


def _mean(found: Sequence[float | None]) -> float:
    """Over networks, of a class without images more than any."""
    known = [value for value in found if value is not None]
    return sum(known) / len(known) if known else 2.0


def conflicts_json(trained: Trained, networks: int, batches: int, progress: Progress) -> dict[str, Json]:
    """Cosines between gradients of sub-networks, over all weights and layer by layer."""
    settings = trained.job.train
    with torch_threads(settings.threads):
        found = conflicts(
            trained.net,
            training_batches(trained.dataset, settings, batches),
            networks,
            settings.seed,
            lambda done: progress(done, batches, "batches"),
        )
    return {
        "format": CONFLICTS_FORMAT,
        "supernet": str(trained.file),
        "networks": networks,
        "batches": batches,
        "batch": min(settings.batch, len(trained.dataset.train)),
        "overall": [_conflict_json(each) for each in found if each.layer == OVERALL],
        "layers": [{"layer": each.layer, **_conflict_json(each)} for each in found if each.layer != OVERALL],
    }


def conflict_table(document: Mapping[str, Json]) -> Table:
    """All weights, and below them the layers that conflict most, by the mean over pairs of sub-networks."""
    title = (
        f"cosine of gradients, mean ± deviation (share below 0); {document['batches']} batches of {document['batch']}"
    )
    table = _table(title, "", *PAIRS)
    table.add_row("all weights", *_cells(document["overall"]))
    by_layer: dict[str, list[Mapping[str, Json]]] = {}
    for row in document["layers"]:
        by_layer.setdefault(row["layer"], []).append(row)
    for layer in sorted(by_layer, key=lambda layer: _agreement(by_layer[layer]))[:LAYERS_SHOWN]:
        table.add_row(layer, *_cells(by_layer[layer]))
    return table


def study_table(document: Mapping[str, Json]) -> Table:
    """The networks, the most accurate alone first."""
    result = document["result"]
    passes = (result[f"{name}_passes"] for name in ("supernet", "alone", "tenth"))
    supernet, alone, tenth = (f"{name}, {n:.3g} passes" for name, n in zip(_TRAINED, passes, strict=True))
    title = f"{score_of(result)} on {result['images']} validation images"
    table = _table(title, "id", "MACs", supernet, alone, tenth)
    for row in sorted(result["networks"], key=lambda row: -row["alone_accuracy"]):
        found = (percent(row[f"{name}_accuracy"]) for name in ("supernet", "alone", "tenth"))
        table.add_row(row["arch_id"], amount(row["macs"]), *found)
    return table


def study_lines(document: Mapping[str, Json]) -> Iterator[str]:
    """The rank correlations with their intervals, of the supernet and of MACs, and what a tenth of the supernet's cost buys."""
    result = document["result"]
    for name, found in result["rank"].items():
        yield f"order by {name} against order alone: Kendall {_within(found['kendall'])}, Spearman {_within(found['spearman'])}"
    if result["ahead_of_tenth"] is None:
        yield "the budget did not pay for trainings at a tenth of the supernet's cost"
    else:
        ahead = 100 * result["ahead_of_tenth"]
        yield f"taken from the supernet against a tenth of its cost alone: {ahead:+.1f} points on average"


_TRAINED = ("supernet", "alone", "a tenth")


def _within(found: Mapping[str, float | None]) -> str:
    if found["low"] is None:
        return significant(found["value"], 2)
    return f"{significant(found['value'], 2)} ({found['low']:.2f} to {found['high']:.2f})"


def _conflict_json(conflict: Conflict) -> dict[str, Json]:
    return {
        "pair": conflict.pair,
        "cosines": len(conflict.cosines),
        "mean": conflict.mean,
        "std": conflict.std,
        "negative": conflict.negative,
    }


def _agreement(rows: Sequence[Mapping[str, Json]]) -> float:
    """The mean cosine of a layer over pairs of different sub-networks."""
    found = [row["mean"] for row in rows if row["pair"] != OTHER_IMAGES]
    return sum(found) / len(found) if found else 1.0


def _cells(rows: Sequence[Mapping[str, Json]]) -> list[str]:
    by_pair = {row["pair"]: f"{row['mean']:.2f} ± {row['std']:.2f} ({percent(row['negative'], 0)})" for row in rows}
    return [by_pair.get(pair, ABSENT) for pair in PAIRS]


def _table(title: str, *columns: str) -> Table:
    """The first column to the left, the others to the right."""
    table = Table(title=title, title_justify="left")
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left")
    return table
