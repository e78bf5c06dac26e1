"""A job as its rows and pages show it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nas.folder import STAGES
from nas.service.jobs import Job

Json = Any

STAGES_OF = {"run": STAGES, "train": ("train",), "profile": ("profile",), "search": ("search",), "export": ("export",)}
"""The stages that a job of each kind has for certain; a search profiles devices first that have no table."""
WAITING = {"QUEUED", "RETRY_WAIT"}
FAULTS = {
    "user": "The job cannot run as it is.",
    "infrastructure": "Something around the job failed, again and again.",
    "memory": "There was not enough memory.",
    "bug": "This is a fault of the program.",
}
"""What each kind of error means, for who submitted the job."""


def job_view(job: Job, now_s: float, position: int | None, owner: str) -> dict[str, Json]:
    """What templates show of a job; `owner` is a name, `now_s` the database's clock."""
    ends_s = job.finished_s if job.ended else now_s
    return {
        "id": job.id,
        "name": job.name,
        "kind": job.kind,
        "state": job.state,
        "owner": owner,
        "parent": job.parent,
        "created_s": job.created_s,
        "seconds": ends_s - job.started_s if job.started_s and ends_s else None,
        "attempts": job.epoch,
        "ended": job.ended,
        "cancellable": not job.ended and job.state != "CANCELLING",
        "position": position,
        "doing": doing(job.progress) if job.state in ("RUNNING", "CANCELLING") else None,
        "error": job.error,
        "error_words": FAULTS.get((job.error or {}).get("kind", ""), "It failed."),
        "spec": dict(job.spec),
        "result": None if job.result is None else dict(job.result),
    }


def doing(progress: Mapping[str, Json] | None) -> dict[str, Json] | None:
    """What a job is at: the stage with words, and how much of it is done where that is known."""
    if not progress:
        return None
    words = [str(progress.get(part) or "") for part in ("stage", "text")]
    return {
        "stage": words[0],
        "words": ": ".join(word for word in words if word),
        "done": progress.get("done") or 0,
        "total": progress.get("total") or 0,
    }


def stage_views(job: Job) -> list[dict[str, Json]]:
    """The stages of a job with their state: finished, started or neither."""
    seconds = {stage["stage"]: stage["seconds"] for stage in job.stages or ()}
    at = str((job.progress or {}).get("stage", "")).partition(" ")[0] if job.state == "RUNNING" else ""
    names = dict.fromkeys([*seconds, *STAGES_OF[job.kind]])
    if at in STAGES:
        names[at] = None
    ordered = sorted(names, key=lambda name: STAGES.index(name) if name in STAGES else len(STAGES))
    return [
        {
            "name": name,
            "seconds": seconds.get(name),
            "state": "finished" if name in seconds else "started" * (name == at),
        }
        for name in ordered
    ]
