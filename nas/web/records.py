"""What the pages read of a job beside its row: its events by kind, and the JSON documents that its stages left."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

from sqlalchemy import Text, or_, select, type_coerce

from nas.database import Database
from nas.service.artefacts import Artefact
from nas.service.blobs import Blobs
from nas.service.events import Event
from nas.service.schema import artefacts as files
from nas.service.schema import events, jobs

Json = Any

MOST_EVENTS = 5000
LARGEST_BYTES = 16 * 2**20
"""Of a document that a page reads; one that is larger can be downloaded."""
KEPT_BYTES = 32 * 2**20
"""Of documents that stay parsed, in files; in memory they take some five times that."""


MOST_NAMING = 500
"""Jobs that name uploads, of which it is told; the newest."""
_UPLOAD_ID = re.compile(r"\bu[0-9a-z]{26}\b")


@dataclass(frozen=True, slots=True)
class Naming:
    """A job that names an upload."""

    id: str
    name: str
    ended: bool


class Records:
    """Reads events and documents. A document's name is the digest of its content, so what was parsed once stays right."""

    def __init__(self, db: Database, blobs: Blobs) -> None:
        self._db = db
        self._blobs = blobs
        self._parsed: OrderedDict[str, tuple[int, dict[str, Json] | None]] = OrderedDict()
        self._lock = Lock()

    def events(self, job_id: str, kinds: Sequence[str], until_seq: int, most: int = MOST_EVENTS) -> list[Event]:
        """The newest events of these kinds up to a number, the oldest of them first."""
        table = events.c
        query = (
            select(table.job_id, table.seq, table.at_s, table.kind, table.data)
            .where(table.job_id == job_id, table.kind.in_(kinds), table.seq <= until_seq)
            .order_by(table.seq.desc())
            .limit(most)
        )
        rows = self._db.read(lambda connection: connection.execute(query).all())
        return [Event(row.job_id, row.seq, row.at_s, row.kind, row.data) for row in reversed(rows)]

    def jobs_with(self, path: str, owner: str | None, kinds: Sequence[str], before: str, most: int) -> list[str]:
        """Ids of the jobs of these kinds that have a file of this path, newest first; `owner` None: anybody's."""
        query = select(files.c.job_id).join(jobs, jobs.c.id == files.c.job_id)
        query = query.where(files.c.path == path, jobs.c.kind.in_(kinds)).order_by(files.c.job_id.desc()).limit(most)
        if owner is not None:
            query = query.where(jobs.c.owner == owner)
        if before:
            query = query.where(files.c.job_id < before)
        return self._db.read(lambda connection: list(connection.execute(query).scalars()))

    def jobs_naming(self, uploads: Sequence[str], owner: str | None) -> dict[str, list[Naming]]:
        """Upload -> the jobs whose spec names it, newest first; `owner` None: anybody's."""
        spec = type_coerce(jobs.c.spec, Text)
        query = (
            select(jobs.c.id, jobs.c.name, jobs.c.finished_s, spec.label("spec_text"))
            .where(or_(spec.contains('"upload:u'), spec.contains('"model":"u')))
            .order_by(jobs.c.id.desc())
            .limit(MOST_NAMING)
        )
        if owner is not None:
            query = query.where(jobs.c.owner == owner)
        found: dict[str, list[Naming]] = {upload: [] for upload in uploads}
        for row in self._db.read(lambda connection: connection.execute(query).all()) if uploads else ():
            for upload in found.keys() & set(_UPLOAD_ID.findall(row.spec_text)):
                found[upload].append(Naming(row.id, row.name, row.finished_s is not None))
        return found

    def document(self, artefacts: Mapping[str, Artefact], path: str) -> dict[str, Json] | None:
        """A JSON object among a job's files; None where it is not there, too large, or no such thing."""
        found = artefacts.get(path)
        if found is None or found.bytes > LARGEST_BYTES:
            return None
        with self._lock:
            if found.sha256 in self._parsed:
                self._parsed.move_to_end(found.sha256)
                return self._parsed[found.sha256][1]
        try:
            parsed = json.loads(self._blobs.read(found.sha256))
        except ValueError:
            parsed = None
        document = parsed if isinstance(parsed, dict) else None
        self._keep(found, document)
        return document

    def _keep(self, artefact: Artefact, document: dict[str, Json] | None) -> None:
        with self._lock:
            self._parsed[artefact.sha256] = (artefact.bytes, document)
            while sum(size for size, _ in self._parsed.values()) > KEPT_BYTES:
                self._parsed.popitem(last=False)
