"""The rows of blobs: what keeps the collector and those who name blobs out of each other's way."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection

from nas.database import clock, insert
from nas.service.blobs import Blob, BlobMissing, Blobs
from nas.service.schema import blobs

TRIES = 3
"""How often content is put again that was collected before it was named; once is rare."""


def refer(connection: Connection, store: Blobs, found: Iterable[Blob]) -> None:
    """Say, in the transaction that names blobs and before it does, that they are wanted.

    The collector removes a blob within a transaction that deletes its row. So it has done that before, and the
    blob is missing here, or it waits for this transaction, and finds a row that was just touched. Raises `BlobMissing`:
    put the content again, and repeat the transaction.
    """
    touched = {"touched_s": clock()}
    # Always in the same order: two transactions that touch the same blobs must not wait for each other.
    for blob in sorted(set(found), key=lambda blob: blob.sha256):
        row = {"sha256": blob.sha256, "bytes": blob.bytes, "created_s": clock(), **touched}
        connection.execute(
            insert(connection, blobs).values(row).on_conflict_do_update(index_elements=["sha256"], set_=touched)
        )
        if not store.exists(blob.sha256):
            raise BlobMissing(f"the file with SHA-256 {blob.sha256} has been collected since it was put")
