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
from nas.specialising.companions import write_companions
from nas.specialising.early_exits import EarlyExits, early_exits, exits_entry, exits_json
from nas.specialising.folders import replaced, write_json, write_told
from nas.specialising.model_file import check_json, metadata, write_model
from nas.specialising.numbers import Network, Told, numbers
from nas.specialising.pair_export import export_pair, pair_folder
from nas.specialising.picks import Picked, check_picks, picked, slug
from nas.specialising.shallow import Shallow, check_mergeable, made_shallow, shallow_network
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
    *,
    fronts: bool = True,
) -> list[dict[str, Json]]:
    """Export the picks of every front of a run into folders `DEVICE-PICK`, and pairs into `DEVICE-pair` where the job asks for
    them; what is to be recorded of each device.

    `allowed` is given all folders before anything is made, and may refuse them. `fronts`: whether fronts are measured whole,
    not their picks alone. `JobError` where a pick finds nobody.
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
        run = Exporting(Workshop(trained, partial(display.note, "export")), told, into, machine, display, fronts)
        _make(run, devices, picks, progress)
        shallow = [_make_shallow(run, device, each, progress) for device, each in zip(devices, picks, strict=True)]
        made = [
            _device(run, device, each.indices, shallow[i], partial(_shown, progress, i, len(devices)))
            for i, (device, each) in enumerate(zip(devices, picks, strict=True))
        ]
    run.workshop.done()
    return made


def _make(run: Exporting, devices: Sequence[Device], picks: Sequence[Picked], progress: Progress) -> None:
    """All networks that are picked, before any is written: what one of them fails in leaves nothing half done."""
    fronts = [run.told.search(device.name)["front"] for device in devices]
    wanted = [
        (run.trained.searched.arch(front[index]["arch"]), device.batch)
        for device, front, each in zip(devices, fronts, picks, strict=True)
        for index in each.indices.values()
    ]
    if run.trained.job.export.merge is not None:
        check_mergeable(arch for arch, _ in wanted)
    for arch, batch in wanted:
        progress(0, 3 * len(devices), f"making {arch.id}")
        run.workshop.checked(arch, batch)


def _make_shallow(run: Exporting, device: Device, picks: Picked, progress: Progress) -> dict[int, Shallow]:
    """By their number in a device's front, the networks that are picked with convolutions merged, if the job asks for it."""
    if run.trained.job.export.merge is None:
        return {}
    front, steps = run.told.search(device.name)["front"], 3 * len(run.trained.job.devices)
    archs = {index: run.trained.searched.arch(front[index]["arch"]) for index in picks.indices.values()}
    machine = run.machine(device)
    return {
        i: made_shallow(run.workshop, arch, device, machine, partial(progress, 0, steps)) for i, arch in archs.items()
    }


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
    run: Exporting,
    device: Device,
    indices: Mapping[str, int],
    shallow: Mapping[int, Shallow],
    progress: Callable[[int, str], None],
) -> dict[str, Json]:
    """All exports of one device, with its front as it is measured now."""
    job, space = run.trained.job, run.trained.searched
    front = [dict(row) for row in run.told.search(device.name)["front"]]
    models: dict[int, Checked] = {}
    for done, index in enumerate(dict.fromkeys(indices.values())):
        models[index] = run.workshop.checked(space.arch(front[index]["arch"]), device.batch)
        front[index]["test_accuracy"] = models[index].test_accuracy
        progress(done, f"checking {front[index]['arch_id']}")
    measured, of_shallow = _measured(run, device, front, models, shallow, partial(progress, 0))
    front = [with_measured(row, measured[i]) if i in measured else row for i, row in enumerate(front)]
    shift = _shift(run, device, measured)
    networks = {
        i: shallow_network(device, front[i], shallow[i], of_shallow[i], shift)
        if i in shallow
        else Network(device, front[i], each, measured[i], shift, _in_floats(space, each, device))
        for i, each in models.items()
    }
    exits = {index: early_exits(run, device, each) for index, each in models.items()}
    exports = [write_export(run, pick, networks[i], exits[i]) for pick, i in indices.items()]
    pair = export_pair(run, device, front) if job.export.pair and front else None
    for pick, index in indices.items():
        front[index]["picks"] = [*front[index]["picks"], pick]
    progress(3, device.name)
    return {"name": device.name, "canary_shift": shift, "front": front, "exports": exports, "pair": pair}


def _measured(
    run: Exporting,
    device: Device,
    front: Sequence[Mapping[str, Json]],
    models: Mapping[int, Checked],
    shallow: Mapping[int, Shallow],
    on_wait: Callable[[str], None],
) -> tuple[dict[int, Measurement], dict[int, Measurement]]:
    """Networks of a front, and side by side with them those that were made of some of them, by the same numbers."""
    # A pair is chosen by the measured latencies of all.
    whole = run.fronts or run.trained.job.export.pair
    rows = {i: row for i, row in enumerate(front) if whole or i in models}
    after = {i: len(front) + i for i in shallow}
    files = {i: each.model for i, each in models.items()}
    found = measured_front(
        run.trained.job,
        run.trained.searched,
        device,
        run.machine(device),
        rows | {after[i]: front[i] for i in shallow},
        files | {after[i]: each.checked.model for i, each in shallow.items()},
        on_wait,
    )
    return {i: found[i] for i in rows}, {i: found[after[i]] for i in shallow}


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


def write_export(run: Exporting, pick: str, network: Network, exits: EarlyExits | None) -> dict[str, Json]:
    """The folder of one network: the model, its card and numbers, the architecture, and a script that runs it; its entry. With
    `exits` the graph that has them, too."""
    trained, folder = run.trained, folder_of(run.into, network.device, pick)
    job, space, checked = trained.job, network.space or trained.searched, network.checked
    made_of = {} if network.merged is None else {"made_of": network.merged["made_of"]}
    about = metadata(checked, job, space, trained.dataset, network.device, pick, network.row)
    with replaced(folder) as part:
        sha256 = write_model(part / MODEL, checked.model, about)
        file = {"name": MODEL, "sha256": sha256, "bytes": (part / MODEL).stat().st_size}
        also = write_companions(part, job.export.also, checked, trained.dataset)
        if len(also) < len(set(job.export.also)):
            run.display.note("export", f"{folder.name}: no model.fp16.onnx, since it has 8-bit integers")
        document = numbers(job, run.told, pick, network, file, also) | exits_json(part, exits, about)
        arch = {"format": ARCH_FORMAT, "arch_id": checked.arch.id, "arch": checked.arch.to_json(), **made_of}
        write_json(part / "arch.json", {**arch, "space": space.to_json()})
        write_json(part / "numbers.json", document)
        write_told(part, card(document))
    return {
        "arch_id": made_of.get("made_of", checked.arch.id),
        "pick": pick,
        "file": run.shown(folder / MODEL),
        "sha256": sha256,
        "bytes": file["bytes"],
        **check_json(checked),
        **{name: document["largest"][name] for name in ("disagreement", "forgotten")},
        "calibration_error": document["test"]["calibration_error"],
        "merged": network.merged,
        **exits_entry(document),
    }
