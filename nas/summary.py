"""`summary.json`: what a run found, put together from what its stages wrote."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from latency_tables.predicting.predictor import load_predictor
from nas.compare import compare, picks_elsewhere
from nas.diagram import blocks
from nas.folder import STAGES, RunFolder, space_json, versions
from nas.job import job_to_json
from nas.report import SUMMARY_FORMAT
from nas.tables import KNEE, pick
from search_spaces import Space

Json = Any


def summarise(folder: RunFolder) -> dict[str, Any]:
    """The summary of a run whose stages are all finished."""
    trained, profiled, searched, exported = (folder.result(stage) for stage in STAGES)
    job, space = folder.job, folder.space
    devices = []
    for measured, found, made in zip(profiled["devices"], searched["devices"], exported["devices"], strict=True):
        front = [_drawn(space, row) for row in made["front"]]
        devices.append({**measured, **found, **made, "front": front})
    return {
        "format": SUMMARY_FORMAT,
        "name": job.name,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": job_to_json(job),
        "seed": job.seed,
        "space": space_json(space),
        "data": trained["data"],
        "supernet": trained["supernet"],
        "search": searched["search"],
        "devices": devices,
        "matrix": _matrix(folder, space, job.export.picks, devices),
        "stages": folder.stages(),
        "versions": versions(),
    }


def _drawn(space: Space, row: dict[str, Json]) -> dict[str, Json]:
    """A row of a front, with its blocks if it is a pick."""
    return {**row, "blocks": blocks(space, space.arch(row["arch"]))} if row["picks"] else row


def _matrix(
    folder: RunFolder, space: Space, picks: Sequence[str], devices: Sequence[dict[str, Json]]
) -> dict[str, Json] | None:
    """What fronts and picks are worth on the run's other devices; None for one device, or where no front has a network."""
    if len(devices) < 2 or not any(device["front"] for device in devices):
        return None
    predictors = {each["name"]: load_predictor(folder.predictor(each["name"]), space=space) for each in devices}
    found = compare(space, {each["name"]: each["front"] for each in devices}, predictors)
    name = KNEE if KNEE in picks else picks[0]
    picked = {each["name"]: one["arch_id"] for each in devices if (one := pick(each["front"], name))}
    kept = ("fronts", "devices", "hypervolume_share", "extra_latency", "rank_correlation")
    return {"pick": name, "picks": picks_elsewhere(found, picked), **{key: found[key] for key in kept}}
