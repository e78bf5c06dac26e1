"""The export stage: who is picked of each device's front, made deployable, checked, measured, and written as a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from latency_tables.device import Device
from latency_tables.graphs.fallbacks import in_floats
from latency_tables.measuring.machine import Machine
from latency_tables.measuring.measurement import Measurement
from latency_tables.measuring.sessions import CPU
from latency_tables.table import SHIFTED
from latency_tables.table import load as load_table
from nas.profiling import measured_front, shift_since
from nas.progress import Display, Progress
from nas.searching.inputs import target_of
from nas.searching.truth import with_measured
from nas.specialising.card import card
from nas.specialising.checks import Checked
from nas.specialising.companions import write_companion
from nas.specialising.early_exits import EarlyExits, early_exits, exits_entry, exits_json
from nas.specialising.folders import replaced, write_json, write_told
from nas.specialising.model_file import check_json, metadata, write_model
from nas.specialising.numbers import Network, Told, numbers
from nas.specialising.pair_export import export_pair, pair_folder
from nas.specialising.picks import Picked, check_picks, picked, slug
from nas.specialising.workshop import Exporting, Workshop
from nas.trained import Trained
from search_spaces import Space, precision_of
from search_spaces import network as layers_of

Json = Any

ARCH_FORMAT = "nas.arch/1"
MODEL = "model.onnx"


def exported(
    trained: Trained,
    into: Path,
    machine: Callable[[Device], Machine],
    display: Display,
    allowed: Callable[[Sequence[Path]], None] = lambda folders: None,
) -> list[dict[str, Json]]:
    """Export the picks of every front of a run into folders `DEVICE-PICK`, and pairs into `DEVICE-pair` where the job asks for
    them; what is to be recorded of each device.

    `allowed` is given all folders before anything is made, and may refuse them. `JobError` where a pick finds nobody.
    """
    told, devices = Told.of(trained.folder), trained.job.devices
    picks = [_picked(trained, device, told) for device in devices]
    check_picks(picks)
    for line in (line for each in picks for line in each.missed.values()):
        display.note("export", line)
    folders = [
        folder_of(into, device, pick) for device, each in zip(devices, picks, strict=True) for pick in each.indices
    ]
    allowed([*folders, *(pair_folder(into, device) for device in devices if trained.job.export.pair)])
    with display.stage("export") as progress:
        run = Exporting(Workshop(trained, partial(display.note, "export")), told, into, machine, display)
        _make(run, devices, picks, progress)
        made = [
            _device(run, device, each.indices, partial(_shown, progress, i, len(devices)))
            for i, (device, each) in enumerate(zip(devices, picks, strict=True))
        ]
    run.workshop.done()
    return made


def _make(run: Exporting, devices: Sequence[Device], picks: Sequence[Picked], progress: Progress) -> None:
    """All networks that are picked, before any is written: what one of them fails in leaves nothing half done."""
    space = run.trained.searched
    for device, each in zip(devices, picks, strict=True):
        front = run.told.search(device.name)["front"]
        for index in each.indices.values():
            progress(0, 3 * len(devices), f"making {front[index]['arch_id']}")
            run.workshop.checked(space.arch(front[index]["arch"]), device.batch)


def folder_of(into: Path, device: Device, pick: str) -> Path:
    return into / f"{device.name}-{slug(pick)}"


def _picked(trained: Trained, device: Device, told: Told) -> Picked:
    """The picks of one device; a target is made only where a limit asks for predictions."""
    job, front = trained.job, told.search(device.name)["front"]
    if not (front and job.export.limits):
        return picked(front, device.name, job.export.picks)
    asked = (*job.search.constraints, *(limit.text for limit in job.export.limits))
    search = replace(job.search, constraints=asked)
    target = target_of(trained.folder, replace(job, search=search), trained.searched, device)
    return picked(front, device.name, job.export.picks, target)


def _device(
    run: Exporting, device: Device, indices: Mapping[str, int], progress: Callable[[int, str], None]
) -> dict[str, Json]:
    """All exports of one device, with its front as it is measured now."""
    trained, space = run.trained, run.trained.searched
    front = [dict(row) for row in run.told.search(device.name)["front"]]
    models: dict[int, Checked] = {}
    for done, index in enumerate(dict.fromkeys(indices.values())):
        models[index] = run.workshop.checked(space.arch(front[index]["arch"]), device.batch)
        front[index]["test_accuracy"] = models[index].test_accuracy
        progress(done, f"checking {front[index]['arch_id']}")
    measured = measured_front(
        trained.job,
        space,
        device,
        run.machine(device),
        front,
        {index: each.model for index, each in models.items()},
        partial(progress, 0),
    )
    for index, found in measured.items():
        front[index] = with_measured(front[index], found)
    shift = _shift(run, device, measured)
    floats = {index: _in_floats(space, each, device) for index, each in models.items()}
    exits = {index: early_exits(run, device, each) for index, each in models.items()}
    exports = [
        write_export(run, Network(device, pick, front[i], models[i], measured[i], shift, floats[i]), exits[i])
        for pick, i in indices.items()
    ]
    pair = export_pair(run, device, front) if trained.job.export.pair and front else None
    for pick, index in indices.items():
        front[index]["picks"] = [*front[index]["picks"], pick]
    progress(3, device.name)
    return {"name": device.name, "canary_shift": shift, "front": front, "exports": exports, "pair": pair}


def _in_floats(space: Space, checked: Checked, device: Device) -> dict[str, int]:
    """By operation, how many layers in int8 the device computes in floats; told of this machine's processor alone."""
    if precision_of(checked.arch) == "fp32" or device.provider != CPU:
        return {}
    return dict(Counter(layer.op for layer in in_floats(layers_of(space, checked.arch), checked.model, device)))


def _shown(progress: Progress, device: int, devices: int, done: int, text: str) -> None:
    progress(3 * device + min(done, 3), 3 * devices, text)


def _shift(run: Exporting, device: Device, measured: Mapping[int, Measurement]) -> float:
    """How much slower the device is than when it was profiled; told where that is too much to compare."""
    table = load_table(run.trained.folder.table(device.name), space=run.trained.searched, device=device)
    shift = shift_since(table, measured)
    if abs(shift) > SHIFTED:
        run.display.note(
            "export",
            f"{device.name} is {abs(shift):.0%} {'slower' if shift > 0 else 'faster'} than when it was profiled: "
            "its predicted and measured latencies do not compare",
        )
    return shift


def write_export(run: Exporting, network: Network, exits: EarlyExits | None = None) -> dict[str, Json]:
    """The folder of one network: the model, its card and numbers, the architecture, and a script that runs it; its entry. With
    `exits` the graph that has them, too."""
    trained, folder = run.trained, folder_of(run.into, network.device, network.pick)
    job, space, checked = trained.job, trained.searched, network.checked
    about = metadata(checked, job, space, trained.dataset, network.device, network.pick, network.row)
    with replaced(folder) as part:
        sha256 = write_model(part / MODEL, checked.model, about)
        file = {"name": MODEL, "sha256": sha256, "bytes": (part / MODEL).stat().st_size}
        also = {str(kind): write_companion(part, kind, checked, trained.dataset) for kind in job.export.also}
        document = numbers(job, run.told, network, file, also) | exits_json(part, exits, about)
        arch = {"format": ARCH_FORMAT, "arch_id": checked.arch.id, "arch": checked.arch.to_json()}
        write_json(part / "arch.json", {**arch, "space": space.to_json()})
        write_json(part / "numbers.json", document)
        write_told(part, card(document))
    return {
        "arch_id": checked.arch.id,
        "pick": network.pick,
        "file": run.shown(folder / MODEL),
        "sha256": sha256,
        "bytes": file["bytes"],
        **check_json(checked),
        **{name: document["largest"][name] for name in ("disagreement", "forgotten")},
        "calibration_error": document["test"]["calibration_error"],
        **exits_entry(document),
    }
