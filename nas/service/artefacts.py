"""The files of jobs: each job has its own paths, and what lies there never changes once the job has ended."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import Connection, select

from nas.database import Database, clock, insert
from nas.service import schema
from nas.service.blob_rows import TRIES, refer
from nas.service.blobs import Blob, BlobMissing, Blobs
from nas.service.errors import NotFound, ServiceError
from nas.service.events import add
from nas.service.leases import Lease, held

LONGEST_PATH = 200
_PART = re.compile(r"[A-Za-z0-9_+=,@-][A-Za-z0-9_.+=,@ -]*")
_ARTEFACTS = schema.artefacts


@dataclass(frozen=True, slots=True)
class Artefact:
    """A file of a job, at a path of ours below the job."""

    path: str
    sha256: str
    bytes: int
    created_s: float


class Artefacts:
    """The files of all jobs."""

    def __init__(self, db: Database, blobs: Blobs) -> None:
        self._db = db
        self._blobs = blobs

    def add(self, lease: Lease, files: Mapping[str, Path | bytes]) -> dict[str, Artefact]:
        """Give a job these files, all of them or none, on behalf of its holder; newer ones replace older ones.

        Raises `LeaseLost`. A path that is new is told of in an event.
        """
        for path in files:
            check_path(path)
        for attempt in range(TRIES):
            found = {path: self._blobs.put(content) for path, content in files.items()}
            try:
                return self._db.write(partial(self._record, lease=lease, found=found))
            except BlobMissing:
                if attempt == TRIES - 1:
                    raise
        raise AssertionError("unreachable")

    def of(self, job_id: str) -> dict[str, Artefact]:
        """The files of a job by their paths, in the order of these; none where there is no such job."""
        return self._db.read(lambda connection: _of(connection, job_id))

    def open(self, job_id: str, path: str) -> BinaryIO:
        """A file's content, checked as it is read. Raises `NotFound`."""
        found = self.of(job_id).get(path)
        if found is None:
            raise NotFound(f"{job_id} has no file {path[:LONGEST_PATH]!r}")
        return self._blobs.open(found.sha256)

    def _record(self, connection: Connection, lease: Lease, found: Mapping[str, Blob]) -> dict[str, Artefact]:
        held(connection, lease)
        before = _of(connection, lease.job_id)
        changed = {
            path: blob for path, blob in found.items() if path not in before or before[path].sha256 != blob.sha256
        }
        refer(connection, self._blobs, changed.values())
        for path, blob in changed.items():
            new = {"sha256": blob.sha256, "epoch": lease.epoch, "created_s": clock()}
            row = insert(connection, _ARTEFACTS).values(job_id=lease.job_id, path=path, **new)
            connection.execute(row.on_conflict_do_update(index_elements=["job_id", "path"], set_=new))
        news = [
            (None, "artefact", {"path": path, "sha256": blob.sha256, "bytes": blob.bytes})
            for path, blob in changed.items()
            if path not in before
        ]
        if news:
            add(connection, lease.job_id, lease.epoch, news, {})
        after = _of(connection, lease.job_id)
        return {path: after[path] for path in found}


def check_path(path: str) -> None:
    """A path below a job, as `models/phone-knee/model.onnx`; raises `ServiceError` for any other."""
    if len(path) > LONGEST_PATH or not all(_PART.fullmatch(part) for part in path.split("/")):
        raise ServiceError(
            f"{path[:LONGEST_PATH]!r} is no path of a file of a job: wanted at most {LONGEST_PATH} letters, digits and a few "
            "other characters, parts with '/' between them, none that begins with a dot"
        )


def _of(connection: Connection, job_id: str) -> dict[str, Artefact]:
    columns = (_ARTEFACTS.c.path, _ARTEFACTS.c.sha256, schema.blobs.c.bytes, _ARTEFACTS.c.created_s)
    wanted = select(*columns).join(schema.blobs).where(_ARTEFACTS.c.job_id == job_id).order_by(_ARTEFACTS.c.path)
    return {row.path: Artefact(*row) for row in connection.execute(wanted)}
