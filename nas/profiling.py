"""What the pipeline measures: the networks that a device's predictor is fitted to, and the networks of a front."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latency_tables.device import Device
from latency_tables.graphs.graph import profiling_model
from latency_tables.measuring.machine import Machine
from latency_tables.measuring.measure import Protocol
from latency_tables.measuring.measurement import Measurement
from latency_tables.measuring.needs import AT_ONCE, ENERGY, FOOTPRINT
from latency_tables.measuring.peak import add_peak
from latency_tables.measuring.sessions import Graph
from latency_tables.predicting.judge import judge
from latency_tables.profile import profile
from latency_tables.table import Entry, LatencyTable
from latency_tables.table import load as load_table
from nas.folder import RunFolder
from nas.job import Job
from nas.progress import Progress
from nas.tables import finite
from search_spaces import Space

Json = Any


def needs_of(job: Job) -> tuple[str, ...]:
    """What a job's search needs of every network beside its times."""
    return (ENERGY,) if "energy_mj" in job.search.statistics else ()


def profiled(
    folder: RunFolder, job: Job, space: Space, device: Device, machine: Machine, progress: Progress
) -> dict[str, Json]:
    """Measure networks of the space on one device and fit its predictor, both into the folder; what is known of it."""
    table = profile(
        space,
        device,
        path=folder.table(device.name),
        build=lambda arch: profiling_model(space, arch, device.batch, device.precision),
        n_networks=job.profile.networks,
        seed=job.seed,
        protocol=protocol_of(job),
        progress=lambda at: progress(at.converged, at.networks, at.message or f"networks settled, round {at.round}"),
        machine=machine,
    )
    table = _completed(table, folder.table(device.name), machine, needs_of(job), progress)
    table = add_peak(table, folder.table(device.name), machine)
    judgement = judge(table, seed=job.seed)
    judgement.predictor.save(folder.predictor(device.name))
    return {
        "name": device.name,
        "id": device.id,
        "device": device.to_json(),
        "fingerprint": table.fingerprint.to_json(),
        "predictor": {
            "kind": judgement.kind,
            **dataclasses.asdict(judgement.quality),
            "spearman": finite(judgement.quality.spearman),
            "coverage": judgement.coverage,
            "errors": dict(judgement.errors),
            "noise_floor": finite(table.noise_floor),
            "disturbed": sum(each.disturbed for each in table.measurements.values()),
            "held_out": [dataclasses.asdict(row) for row in judgement.held_out],
        },
    }


def lacks(folder: RunFolder, job: Job, device: Device) -> bool:
    """Whether the search needs of networks of the device's table what nobody measured."""
    needs = needs_of(job)
    return bool(needs and _lacking(load_table(folder.table(device.name)), needs))


def _lacking(table: LatencyTable, needs: Sequence[str]) -> list[Entry]:
    return [entry for entry in table.entries if any(getattr(entry.measurement, need) is None for need in needs)]


def _completed(
    table: LatencyTable, path: Path, machine: Machine, needs: Sequence[str], progress: Progress
) -> LatencyTable:
    """The table with what its networks lack of `needs`, found one by one; `path` is its file."""
    lacking, device = _lacking(table, needs), table.device
    graphs = [
        Graph(entry.arch.id, profiling_model(table.space, entry.arch, device.batch, device.precision))
        for entry in lacking
    ]

    def keep(number: int, most: int, found: Mapping[str, Measurement]) -> None:
        nonlocal table
        for key, one in found.items():
            told = {need: getattr(one, need) for need in needs if getattr(one, need) is not None}
            if told:
                known = dataclasses.replace(table.measurements[key], **told)
                table = table.with_measured([entry.arch for entry in lacking], {key: known})
                # After each: it takes 1.5 s, and a table of 300 networks is written in 0.23 s.
                table.save(path)
                progress(number, most, ", ".join(told))

    if graphs:
        machine.check(device, needs)
        with machine.held(lambda line: progress(0, len(graphs), line)):
            machine.measure(graphs, device, protocol=AT_ONCE, on_round=keep, needs=needs)
    return table


def measured_front(
    job: Job,
    space: Space,
    device: Device,
    machine: Machine,
    front: Mapping[int, Mapping[str, Json]],
    models: Mapping[int, bytes],
    on_wait: Callable[[str], None],
) -> dict[int, Measurement]:
    """Rows of a front, measured: the exported file where there is one, and then its memory and loading, too."""
    graphs = [
        Graph(str(index), models.get(index) or profiling_model(space, space.arch(row["arch"]), device.batch))
        for index, row in front.items()
    ]
    with machine.held(on_wait):
        found = machine.measure(graphs, device, protocol=protocol_of(job), needs=needs_of(job))
        files = [graph for graph in graphs if int(graph.key) in models]
        taken = machine.measure(files, device, protocol=AT_ONCE, needs=(FOOTPRINT,)) if files else {}
    kept = {key: dataclasses.replace(found[key], footprint=each.footprint) for key, each in taken.items()}
    return {int(key): measurement for key, measurement in (found | kept).items()}


def shift_since(table: LatencyTable, measured: Mapping[int, Measurement]) -> float:
    """How much slower the machine is than when the table was measured: the canary's ratio, less one."""
    return float(np.median([table.shift(found) for found in measured.values()])) if measured else 0.0


def protocol_of(job: Job) -> Protocol:
    return Protocol(target_precision=job.profile.precision, budget_s=job.profile.budget_s, seed=job.seed)
