"""Files that users send: inspected before anything else reads them, then kept as blobs with what was found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Text, delete, select, type_coerce

from nas.database import Database, clock, insert
from nas.service import schema
from nas.service.blob_rows import TRIES, refer
from nas.service.blobs import BlobMissing, Blobs, Content, Received
from nas.service.errors import Conflict, NotFound
from nas.service.inspection import Inspectors
from nas.service.refusal import UploadRefused
from nas.service.schema import jobs, new_id

Json = Any

KINDS = ("onnx", "safetensors", "parquet")
LONGEST_NAME = 200
_UPLOADS = schema.uploads


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that a user sent. `name` is his label for it, and never a path; `facts` are what the inspection found."""

    id: str
    owner: str
    kind: str
    name: str
    sha256: str
    bytes: int
    facts: Mapping[str, Json]
    created_s: float


_COLUMNS = [_UPLOADS.c[each.name] for each in fields(Upload)]


class Uploads:
    """The uploads of all users. `inspect` says what a local file of a kind holds, or raises `UploadRefused`.

    The processes that look into files begin with the first one, and end with `close` or with this process.
    """

    def __init__(
        self, db: Database, blobs: Blobs, inspect: Callable[[str, Path], Mapping[str, Json]] | None = None
    ) -> None:
        self._db = db
        self._blobs = blobs
        self._inspectors = Inspectors()
        self._inspect = inspect or self._inspectors

    def add(self, owner: str, kind: str, name: str, stream: Content, limit_bytes: int | None = None) -> Upload:
        """Keep a file as it comes, if it is what its kind says. Raises `UploadRefused` and `TooLarge`."""
        if kind not in KINDS:
            raise UploadRefused(f"an upload is of kind {', '.join(KINDS)}; PyTorch's own files are not taken")
        upload_id = new_id("u")
        with self._blobs.receive(stream, limit_bytes) as received:
            row = {
                "id": upload_id,
                "owner": owner,
                "kind": kind,
                "name": label(name) or kind,
                "sha256": received.blob.sha256,
                "bytes": received.blob.bytes,
                "facts": dict(self._inspect(kind, received.path)),
            }
            return self._kept(received, row)

    def get(self, upload_id: str, owner: str | None = None) -> Upload:
        """One upload; with an owner, only of his. Raises `NotFound`."""
        return self._db.read(lambda connection: _get(connection, upload_id, owner))

    def page(self, owner: str | None = None, before: str | None = None, limit: int = 50) -> list[Upload]:
        """Uploads, newest first: the first so many whose id is smaller than `before`."""
        wanted = select(*_COLUMNS).order_by(_UPLOADS.c.id.desc()).limit(limit)
        if owner is not None:
            wanted = wanted.where(_UPLOADS.c.owner == owner)
        if before is not None:
            wanted = wanted.where(_UPLOADS.c.id < before)
        return self._db.read(lambda connection: [Upload(*row) for row in connection.execute(wanted)])

    def delete(self, upload_id: str, owner: str | None = None) -> None:
        """Forget an upload. Raises `NotFound`, and `Conflict` where a job that has not ended, or one that it goes on from,
        names it."""
        self.get(upload_id, owner)
        line = select(jobs.c.id, jobs.c.parent, jobs.c.spec).where(jobs.c.finished_s.is_(None)).cte(recursive=True)
        line = line.union_all(select(line.c.id, jobs.c.parent, jobs.c.spec).where(jobs.c.id == line.c.parent))
        naming = select(line.c.id).where(type_coerce(line.c.spec, Text).contains(upload_id))

        def work(connection: Connection) -> None:
            job_id = connection.execute(naming.limit(1)).scalar()
            if job_id is not None:
                raise Conflict(f"{upload_id}: job {job_id} needs it; wait until that has ended, or cancel it")
            connection.execute(delete(_UPLOADS).where(_UPLOADS.c.id == upload_id))

        self._db.write(work)

    def close(self) -> None:
        self._inspectors.close()

    def _kept(self, received: Received, row: Mapping[str, Json]) -> Upload:
        def work(connection: Connection) -> Upload:
            refer(connection, self._blobs, [received.blob])
            new = insert(connection, _UPLOADS).values(**row, created_s=clock())
            connection.execute(new.on_conflict_do_nothing())
            return _get(connection, row["id"])

        for attempt in range(TRIES):
            self._blobs.keep(received)
            try:
                return self._db.write(work)
            except BlobMissing:
                if attempt == TRIES - 1:
                    raise
        raise AssertionError("unreachable")


def label(text: str) -> str:
    """A name as a user gave it: what can be printed of it, on one line, not too long."""
    return "".join(letter for letter in text if letter.isprintable()).strip()[:LONGEST_NAME]


def _get(connection: Connection, upload_id: str, owner: str | None = None) -> Upload:
    row = connection.execute(select(*_COLUMNS).where(_UPLOADS.c.id == upload_id)).one_or_none()
    if row is None or owner not in (None, row.owner):
        raise NotFound(f"{upload_id}: there is no such upload")
    return Upload(*row)
