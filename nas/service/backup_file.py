"""The file of a backup: a tar that is written once, and read only after all of it has been checked.

It holds `rows/TABLE.jsonl` with a JSON list a row, `blobs/SHA256`, and `manifest.json` as the last member, with the columns and
the SHA-256 of each table's file.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

from nas.service.blobs import Blob, Blobs
from nas.service.errors import ServiceError

Json = Any

FORMAT = "nas.backup/1"
_MANIFEST = "manifest.json"
_MOST_MANIFEST_BYTES = 1 << 20


class BackupError(ServiceError):
    """A backup cannot be made, is damaged, or cannot be restored here."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one table in a backup."""

    columns: tuple[str, ...]
    rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """`tables` in the order in which they can be filled, and the version of the tables by who makes them."""

    versions: Mapping[str, str]
    tables: Mapping[str, Rows]


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup whose members are what its manifest says."""

    manifest: Manifest
    blobs: tuple[Blob, ...]
    _tar: tarfile.TarFile

    def rows(self, table: str) -> Iterator[dict[str, Json]]:
        """The rows of a table, by column."""
        columns = self.manifest.tables[table].columns
        with self._member(_rows_name(table)) as file:
            for line in io.TextIOWrapper(file, encoding="utf-8"):
                yield dict(zip(columns, json.loads(line), strict=True))

    def content(self, blob: Blob) -> BinaryIO:
        return self._member(_blob_name(blob.sha256))

    def _member(self, name: str) -> BinaryIO:
        return cast(BinaryIO, self._tar.extractfile(name))


def write_backup(file: Path, manifest: Manifest, tables: Path, blobs: Iterable[Blob], store: Blobs) -> None:
    """Write all of it beside its place, then name it. `tables` is a folder with the rows of each, as `TABLE.jsonl`."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        # For its owner alone: there are digests of tokens in it, and all models.
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            with tarfile.open(fileobj=out, mode="w") as tar:
                for table in manifest.tables:
                    path = tables / f"{table}.jsonl"
                    with path.open("rb") as rows:
                        _add(tar, _rows_name(table), rows, path.stat().st_size)
                for blob in blobs:
                    with store.open(blob.sha256) as content:
                        _add(tar, _blob_name(blob.sha256), content, blob.bytes)
                        content.read(1)  # to the end, where it is compared with its digest
                text = json.dumps({"format": FORMAT, **asdict(manifest)}, indent=1).encode()
                _add(tar, _MANIFEST, io.BytesIO(text), len(text))
            out.flush()
            os.fsync(out.fileno())
        partial.replace(file)
    except OSError as error:
        raise BackupError(f"{file}: cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def read_backup(file: Path) -> Iterator[Backup]:
    """A backup, after all of it has been read and compared with its manifest. Raises `BackupError`."""
    try:
        with tarfile.open(file, "r:") as tar:
            digests = {member.name: _digest(tar, member) for member in tar}
            yield _checked(Backup(_manifest(tar, file), (), tar), digests, file)
    except (tarfile.TarError, EOFError) as error:
        raise BackupError(f"{file}: is not a backup, or is cut off ({error})") from error
    except OSError as error:
        raise BackupError(f"{file}: cannot be read: {error.strerror or error}") from error


def _checked(found: Backup, digests: Mapping[str, str], file: Path) -> Backup:
    """The backup with its blobs, in which nothing is damaged, missing or too much."""
    wanted = {_rows_name(table): rows.sha256 for table, rows in found.manifest.tables.items()}
    _compare(wanted, {name: digest for name, digest in digests.items() if name in wanted}, file)
    blobs = tuple(Blob(row["sha256"], row["bytes"]) for row in found.rows("blobs"))
    wanted |= {_blob_name(blob.sha256): blob.sha256 for blob in blobs} | {_MANIFEST: digests[_MANIFEST]}
    _compare(wanted, digests, file)
    return replace(found, blobs=blobs)


def _compare(wanted: Mapping[str, str], digests: Mapping[str, str], file: Path) -> None:
    for name in sorted(wanted.keys() | digests.keys()):
        if wanted.get(name) != digests.get(name):
            raise BackupError(
                f"{file}: {name[:100]!r} is missing, damaged, or does not belong there; take another backup"
            )


def _manifest(tar: tarfile.TarFile, file: Path) -> Manifest:
    try:
        member = tar.getmember(_MANIFEST)
        content = tar.extractfile(member)
        assert content is not None  # `_digest` has read it
        found = json.loads(content.read(_MOST_MANIFEST_BYTES))
        if found["format"] != FORMAT:
            raise BackupError(f"{file}: wanted a backup of format {FORMAT}, found {str(found['format'])[:50]!r}")
        if not {"blobs", "jobs"} <= found["tables"].keys():
            raise KeyError("tables")
        tables = {
            str(table): Rows(tuple(map(str, rows["columns"])), int(rows["rows"]), str(rows["sha256"]))
            for table, rows in found["tables"].items()
        }
        return Manifest({str(name): str(version) for name, version in found["versions"].items()}, tables)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BackupError(f"{file}: is not a backup: its manifest cannot be read") from error


def _digest(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    content = tar.extractfile(member) if member.isfile() else None
    if content is None:
        raise tarfile.TarError(f"{member.name[:100]!r} is no file")
    return hashlib.file_digest(cast(Any, content), "sha256").hexdigest()


def _add(tar: tarfile.TarFile, name: str, content: BinaryIO, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    tar.addfile(info, content)


def _rows_name(table: str) -> str:
    return f"rows/{table}.jsonl"


def _blob_name(sha256: str) -> str:
    return f"blobs/{sha256}"
