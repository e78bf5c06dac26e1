"""`summary.json`: what a run found, put together from what its stages wrote."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from nas.folder import STAGES, RunFolder, versions
from nas.job import job_to_json
from nas.report import SUMMARY_FORMAT


def summarise(folder: RunFolder) -> dict[str, Any]:
    """The summary of a run whose stages are all finished."""
    trained, profiled, searched, exported = (folder.result(stage) for stage in STAGES)
    job = folder.job
    devices = []
    for measured, found, made in zip(profiled["devices"], searched["devices"], exported["devices"], strict=True):
        devices.append({**measured, "evaluated": found["evaluated"], **made})
    return {
        "format": SUMMARY_FORMAT,
        "name": job.name,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": job_to_json(job),
        "seed": job.seed,
        "space": trained["space"],
        "data": trained["data"],
        "supernet": trained["supernet"],
        "search": searched["search"],
        "devices": devices,
        "stages": folder.stages(),
        "versions": versions(),
    }
