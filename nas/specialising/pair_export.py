"""The export of a pair of networks: chosen on the validation images, judged on the test images, written as a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from latency_tables.device import Device
from nas.errors import JobError
from nas.specialising.chain import Said
from nas.specialising.checks import Answers, Checked, compare
from nas.specialising.folders import replaced, write_json, write_told
from nas.specialising.model_file import metadata, write_model
from nas.specialising.numbers import tested_json, told_json
from nas.specialising.pair import Cascade, Outcome, chosen_pair, outcome
from nas.specialising.pair_card import pair_card
from nas.specialising.workshop import Exporting

Json = Any
Front = Sequence[Mapping[str, Json]]

FORMAT = "nas.pair/1"
PAIR = "pair"
MODELS = {"fast": "fast.onnx", "accurate": "accurate.onnx"}


def pair_folder(into: Path, device: Device) -> Path:
    return into / f"{device.name}-{PAIR}"


def export_pair(run: Exporting, device: Device, front: Front) -> dict[str, Json] | None:
    """Choose a pair among the measured networks of a front and write its folder; its entry, or None where none is worth it."""
    if device.batch != 1:
        run.display.note(
            "export", f"{device.name}: a pair answers image by image, and this device takes {device.batch}"
        )
        return None
    front, answers = _answers(run, front)
    said = [Said.of(each) for each in answers]
    latency_ms = [row["latency_ms_measured"] for row in front]
    chosen = chosen_pair(said, latency_ms)
    if chosen is None:
        run.display.note(
            "export", f"{device.name}: no pair of networks is as accurate as one alone in less time; none is written"
        )
        return None
    validation = outcome(
        said[chosen.fast],
        said[chosen.accurate],
        chosen.threshold,
        latency_ms[chosen.fast],
        latency_ms[chosen.accurate],
    )
    return _written(run, device, front, chosen, validation)


def _answers(run: Exporting, front: Front) -> tuple[Front, list[Answers]]:
    """The networks of a front that may be handed over, and what each says of the validation images."""
    found = []
    for row in front:
        try:
            found.append((row, run.workshop.validated(run.trained.searched.arch(row["arch"]))))
        except JobError as error:
            run.display.note("export", f"not for a pair: {error}")
    return [row for row, _ in found], [answers for _, answers in found]


def _written(run: Exporting, device: Device, front: Front, chosen: Cascade, validation: Outcome) -> dict[str, Json]:
    """The folder of a pair; its entry."""
    trained, job = run.trained, run.trained.job
    rows = {"fast": dict(front[chosen.fast]), "accurate": dict(front[chosen.accurate])}
    made = {name: run.workshop.checked(trained.searched.arch(row["arch"]), device.batch) for name, row in rows.items()}
    folder = pair_folder(run.into, device)
    with replaced(folder) as part:
        networks = {}
        for name, row in rows.items():
            row["test_accuracy"] = made[name].test_accuracy
            about = metadata(made[name], job, trained.searched, trained.dataset, device, PAIR, row)
            sha256 = write_model(part / MODELS[name], made[name].model, about)
            networks[name] = {**_network(row), "file": MODELS[name], "sha256": sha256}
        document = {
            "format": FORMAT,
            "threshold": chosen.threshold,
            **networks,
            "alone": _alone(run, device, front),
            **_judged(run, made, rows, chosen, validation),
            **told_json(job, run.told, device, validation.latency_ms),
        }
        write_json(part / "pair.json", document)
        write_told(part, pair_card(document))
    test = document["outcome"]["test"]
    return {
        "folder": run.shown(folder),
        "fast": networks["fast"]["arch_id"],
        "accurate": networks["accurate"]["arch_id"],
        "threshold": chosen.threshold,
        "share": test["share"],
        "test_accuracy": test["accuracy"],
        "latency_ms": test["latency_ms"],
    }


def _judged(
    run: Exporting,
    made: Mapping[str, Checked],
    rows: Mapping[str, Mapping[str, Json]],
    chosen: Cascade,
    validation: Outcome,
) -> dict[str, Json]:
    """The pair on the test images, by the answers of the two files."""
    fast, accurate = made["fast"].answers, made["accurate"].answers
    times = (rows[name]["latency_ms_measured"] for name in ("fast", "accurate"))
    test = outcome(Said.of(fast), Said.of(accurate), chosen.threshold, *times)
    sent_N = torch.from_numpy(Said.of(fast).sure_N < chosen.threshold)
    answers = Answers(torch.where(sent_N[:, None], accurate.logits_NK, fast.logits_NK), fast.labels)
    evaluation = answers.evaluated()
    return {
        "outcome": {"validation": asdict(validation), "test": asdict(test)},
        "val_accuracy": validation.accuracy,
        **tested_json(evaluation, compare(answers, evaluation, run.workshop.largest), run.told),
    }


def _alone(run: Exporting, device: Device, front: Front) -> dict[str, Json]:
    """The most accurate network of the front, which the pair is to stand in for."""
    row = max(front, key=lambda row: row["val_accuracy"])
    checked = run.workshop.checked(run.trained.searched.arch(row["arch"]), device.batch)
    return _network({**row, "test_accuracy": checked.test_accuracy})


def _network(row: Mapping[str, Json]) -> dict[str, Json]:
    return {
        "arch_id": row["arch_id"],
        "val_accuracy": row["val_accuracy"],
        "test_accuracy": row["test_accuracy"],
        "latency_ms": row["latency_ms_measured"],
        "macs": row["macs"],
        "params": row["params"],
    }
