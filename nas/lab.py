"""Profiling a device over a space, without a run. Needs neither torch nor images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latency_tables.device import Device, fingerprint
from latency_tables.graphs.graph import profiling_model
from latency_tables.measuring.footprint import measure_footprints
from latency_tables.measuring.machine import Here
from latency_tables.measuring.measure import Protocol
from latency_tables.measuring.needs import ENERGY, needs_here
from latency_tables.measuring.peak import add_peak
from latency_tables.plan import plan
from latency_tables.predicting.judge import fitted, judge, judge_carried
from latency_tables.predicting.select import select
from latency_tables.predicting.transfer import KnownPredictors
from latency_tables.profile import CHUNK, FEWEST, profile
from latency_tables.profile import Progress as Round
from latency_tables.table import LatencyTable, load
from nas.device_report import device_report
from nas.errors import JobError
from nas.model_lab import LOCK_TIMEOUT_S, Effort
from nas.progress import Display, Progress
from search_spaces import Arch, Space

# Architectures that the ones to carry over with are chosen from.
CANDIDATES = 1000
# Networks of which a quarter is held out and the rest are enough to fit to.
MIN_ALONE, MIN_CARRIED = 12, 5
# Networks measured before the first look at the error of a carried-over predictor, and between two looks.
CARRIED_LOOKS = (12, 4)

Json = Any


def profile_space(
    space: Space, device: Device, folder: Path, effort: Effort, known: Sequence[Path], display: Display
) -> dict[str, Json]:
    """Measure networks of the space on this machine into a table in `folder`, fit a predictor, and report.

    A table that is there is gone on with. `known` are tables of other devices over the same space: their networks are
    measured first that tell most about this device, and its predictor is carried over from theirs.
    """
    fewest = MIN_ALONE if not known else MIN_CARRIED
    if effort.networks < fewest:
        raise JobError(
            f"a predictor needs {fewest} networks or more{'' if known else ' (5 with --from)'}, not {effort.networks}"
        )
    machine = Here(LOCK_TIMEOUT_S)
    machine.check(device)
    name = f"{device.full_name(fingerprint())}.{space.id}"
    path = folder / f"{name}.table.json"
    predictors = None if not known else known_predictors(space, known)
    archs = plan(space, effort.networks, seed=0) if predictors is None else _telling(predictors, effort.networks)
    first_look, look_every = (FEWEST, CHUNK) if predictors is None else CARRIED_LOOKS
    folder.mkdir(parents=True, exist_ok=True)
    with display.stage(f"profile {device.name}") as progress:
        table = profile(
            space,
            device,
            path=path,
            build=lambda arch: profiling_model(space, arch, device.batch, device.precision),
            archs=archs,
            protocol=Protocol(target_precision=effort.precision, budget_s=effort.budget_s),
            progress=lambda at: _show(progress, at),
            budget_s=effort.budget_s,
            target_error=effort.target_error,
            error_of=lambda so_far: _error(so_far, predictors),
            first_look=first_look,
            look_every=look_every,
            weigh=measure_footprints,
            gauge=needs_here().get(ENERGY),
            machine=machine,
        )
        table = add_peak(table, path, machine)
    judgement = judge(table) if predictors is None else judge_carried(table, predictors)
    fitted = folder / f"{name}.predictor.json"
    judgement.predictor.save(fitted)
    return {**device_report(table, judgement), "table": str(path), "predictor_file": str(fitted)}


def known_predictors(space: Space, tables: Sequence[Path]) -> KnownPredictors:
    """Predictors of known devices, one a table."""
    if len(tables) < 2:
        raise JobError("--from carries over from the tables of two or more other devices; give it once for each")
    return KnownPredictors.of(space, [fitted(load(path, space=space)) for path in tables])


def _telling(known: KnownPredictors, n: int) -> tuple[Arch, ...]:
    """The networks that tell most about a new device, best first, and then those that cover the space."""
    space = known.space
    pool = space.sample(np.random.default_rng(0), CANDIDATES)
    return tuple(space.decode(known.choose(pool, min(n, len(np.unique(pool, axis=0))))))


def _error(table: LatencyTable, known: KnownPredictors | None) -> float:
    """The mean relative error on networks left out of the fit."""
    if known is not None:
        return judge_carried(table, known).quality.mape
    found = select(table.space, table.codes(), table.latency_ms())
    return found.errors[found.kind]


def _show(progress: Progress, at: Round) -> None:
    error = "" if at.error is None else f", error {100 * at.error:.1f}%"
    progress(at.converged, at.networks, at.message or f"networks settled, round {at.round}{error}")
