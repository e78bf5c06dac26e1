"""Where the service keeps what it has, and how patient it is."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from nas.service.errors import ServiceError

DAY_S = 86_400.0
GIB_BYTES = 2**30


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one service; all its processes have the same.

    `data` is the folder of the embedded default: what is left empty lies in it. `database` and `blobs` are URLs and may hold
    secrets, so they are not shown. `datasets` are paths on the server by the name that jobs use; `evaluators` work side by
    side in one search. A lease lasts `lease_s` and is renewed every `renew_s`. Blobs that nothing refers to, and what agents
    measured for a job that has ended, live `grace_s`.
    """

    data: Path
    database: str = field(default="", repr=False)
    blobs: str = field(default="", repr=False)
    work: Path | None = None
    evaluators: int = field(default_factory=cores)
    ray_address: str | None = None
    lease_s: float = 30.0
    renew_s: float = 10.0
    datasets: Mapping[str, str] = field(default_factory=dict)
    grace_s: float = DAY_S
    upload_limit_bytes: int = 2 * GIB_BYTES

    def __post_init__(self) -> None:
        if self.evaluators < 1:
            raise ServiceError(f"evaluators must be at least 1, not {self.evaluators}")
        if not 0 < 2 * self.renew_s <= self.lease_s:
            raise ServiceError(
                f"a lease must last at least twice as long as the time between renewals, not lease_s {self.lease_s:g} "
                f"and renew_s {self.renew_s:g}"
            )
        if self.grace_s < 0 or self.upload_limit_bytes < 1:
            raise ServiceError("grace_s must not be negative, and upload_limit_bytes at least 1")

    @property
    def database_url(self) -> str | Path:
        """What `Database` takes."""
        return self.database or self.data / "nas.sqlite"

    @property
    def blobs_url(self) -> str:
        return self.blobs or str(self.data / "blobs")

    @property
    def work_folder(self) -> Path:
        """Where workers run jobs."""
        return self.work or self.data / "work"

    def to_json(self) -> dict[str, Any]:
        plain = asdict(self)
        return {**plain, "data": str(self.data), "work": None if self.work is None else str(self.work)}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Settings:
        work = plain.get("work")
        return cls(**{**plain, "data": Path(plain["data"]), "work": None if work is None else Path(work)})

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Settings:
        """The settings that NAS_DATA, NAS_DATABASE, NAS_LEASE_S ... say; NAS_DATASETS is a JSON object of name to path."""
        given = {each.name: environment.get(f"NAS_{each.name.upper()}", "") for each in fields(cls)}
        plain = {name: _read(name, text) for name, text in given.items() if text}
        return cls.from_json({"data": "nas-data", **plain})


def _read(name: str, text: str) -> Any:
    """One variable's value; whoever sets it sees what it should have been."""
    try:
        return _READERS.get(name, str)(text)
    except ValueError as error:
        raise ServiceError(f"NAS_{name.upper()}: {text!r} cannot be used ({error})") from error


def _paths_by_name(text: str) -> dict[str, str]:
    found = json.loads(text)
    if not isinstance(found, dict) or not all(isinstance(path, str) for path in found.values()):
        raise ValueError('wanted a JSON object as {"photos": "/srv/photos"}')
    return found


_READERS: dict[str, Callable[[str], Any]] = {
    "evaluators": int,
    "lease_s": float,
    "renew_s": float,
    "grace_s": float,
    "upload_limit_bytes": int,
    "datasets": _paths_by_name,
}
