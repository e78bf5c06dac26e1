"""Files by their content: each is named by its SHA-256, is never changed, and is checked whenever it is read."""

from __future__ import annotations

import hashlib
import io
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from nas.service.errors import ServiceError, Unavailable
from nas.service.places import Place, open_place

CHUNK_BYTES = 1 << 20
SHA256 = re.compile(r"[0-9a-f]{64}")

Content = bytes | Path | BinaryIO | Iterable[bytes]


class TooLarge(ServiceError):
    """More bytes came than may come."""


class BlobMissing(ServiceError):
    """There is no file of this content."""


class BlobDamaged(ServiceError):
    """What lies under a digest is not what was put there. It has been set aside: putting the content again heals it."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A file in the store."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Received:
    """Content that has come in and is not in the store yet."""

    blob: Blob
    path: Path


class Blobs:
    """The store of files, in a folder or under a URL as `s3://bucket/prefix`.

    A file is in it whole or not at all, whenever the process ends. What keeps it from being collected is a row that names it:
    see `refer` in blob_rows.py. Raises `Unavailable` where the store is away or full.
    """

    def __init__(self, url: str | Path) -> None:
        self._place: Place = open_place(str(url))

    def put(self, content: Content, limit_bytes: int | None = None) -> Blob:
        """Store content as it comes, in bounded memory; it may be there already. Raises `TooLarge`."""
        with self.receive(content, limit_bytes) as received:
            self.keep(received)
            return received.blob

    @contextmanager
    def receive(self, content: Content, limit_bytes: int | None = None) -> Iterator[Received]:
        """Content in a local file that is gone afterwards, for looking at it before it is kept."""
        with self.explained():
            descriptor, name = tempfile.mkstemp(suffix=".part", dir=self._place.incoming)
        path = Path(name)
        try:
            digest, size = hashlib.sha256(), 0
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                for chunk in _chunks(content):
                    size += len(chunk)
                    if limit_bytes is not None and size > limit_bytes:
                        raise TooLarge(f"it has more than {limit_bytes:,} bytes, which is the limit")
                    digest.update(chunk)
                    with self.explained():  # but not what goes wrong where the content comes from
                        _write(file, chunk)
            yield Received(Blob(digest.hexdigest(), size), path)
        finally:
            path.unlink(missing_ok=True)

    def keep(self, received: Received) -> None:
        """Put what was received into the store."""
        name, size = received.blob.sha256, received.blob.bytes
        with self.explained():
            # One of another size was damaged; it is replaced.
            if self._place.size(name) != size:
                self._place.adopt(received.path, name)

    def open(self, sha256: str) -> BinaryIO:
        """The content, to be read once from its beginning; the last read raises `BlobDamaged` where it is not what was put.

        After a seek nothing is compared. Raises `BlobMissing`.
        """
        if not SHA256.fullmatch(sha256):
            raise BlobMissing(f"{sha256[:80]!r} is not the SHA-256 of a file")
        with self.explained():
            try:
                content = self._place.open(sha256)
            except FileNotFoundError as error:
                raise BlobMissing(f"the store has no file with SHA-256 {sha256}") from error
        return cast(BinaryIO, io.BufferedReader(_Verified(self, sha256, content), CHUNK_BYTES))

    def read(self, sha256: str) -> bytes:
        """All of the content. Raises `BlobMissing` and `BlobDamaged`."""
        with self.open(sha256) as content:
            return content.read()

    def exists(self, sha256: str) -> bool:
        with self.explained():
            return SHA256.fullmatch(sha256) is not None and self._place.size(sha256) is not None

    def delete(self, sha256: str) -> None:
        """Remove a file, if it is there."""
        with self.explained():
            self._place.delete(sha256)

    def path(self, sha256: str) -> Path | None:
        """The local file, where the store is a folder and has it; its content is not checked."""
        with self.explained():
            return self._place.path(sha256) if self.exists(sha256) else None

    def walk(self) -> Iterator[Blob]:
        """All that is there, in no order."""
        with self.explained():
            for name, size in self._place.walk():
                if SHA256.fullmatch(name):
                    yield Blob(name, size)

    def sweep(self, older_than_s: float) -> int:
        """Remove what was left of puts that were killed, unless it was written to lately; the bytes."""
        with self.explained():
            return sum(map(_removed, self._place.abandoned(older_than_s)))

    def check(self) -> None:
        """Raises `Unavailable` where nothing can be stored."""
        with self.receive(b""), self.explained():
            self._place.check()

    def set_aside(self, sha256: str) -> None:
        """Read a file that seemed damaged once more, and take it away if it is. Raises `BlobDamaged` then."""
        with self.explained(), suppress(FileNotFoundError):
            # It may have been healed since, or be sound where the reader was not: only what lies there now counts.
            with self._place.open(sha256) as content:
                found = hashlib.file_digest(cast(Any, content), "sha256").hexdigest()
            if found != sha256:
                self._place.set_aside(sha256)
        raise BlobDamaged(f"the file with SHA-256 {sha256} was damaged; what was read of it is wrong")

    @contextmanager
    def explained(self) -> Iterator[None]:
        """What the place cannot do, in one line."""
        try:
            yield
        except self._place.failures as error:
            said = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
            raise Unavailable(f"{self._place.name}: the store of files cannot be used ({said})") from error


class _Verified(io.RawIOBase):
    """Content that is compared with its digest where it ends, if all of it was read."""

    def __init__(self, blobs: Blobs, sha256: str, content: BinaryIO) -> None:
        self._blobs = blobs
        self._sha256 = sha256
        self._content = content
        self._digest = hashlib.sha256()
        self._in_order = True

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        before = self._content.tell()
        after = self._content.seek(offset, whence)
        self._in_order = self._in_order and after == before
        return after

    def tell(self) -> int:
        return self._content.tell()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        with self._blobs.explained():
            chunk = self._content.read(len(buffer))
        buffer[: len(chunk)] = chunk
        if self._in_order:
            self._digest.update(chunk)
            if not chunk and len(buffer) and self._digest.hexdigest() != self._sha256:
                self._blobs.set_aside(self._sha256)
        return len(chunk)

    def close(self) -> None:
        self._content.close()
        super().close()


def _chunks(content: Content) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
    elif isinstance(content, Path):
        with content.open("rb") as file:
            yield from _chunks(file)
    elif isinstance(content, io.IOBase) or hasattr(content, "read"):
        yield from iter(lambda: content.read(CHUNK_BYTES), b"")
    else:
        yield from content


def _write(file: io.FileIO, chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) :]


def _removed(path: Path) -> int:
    try:
        size = path.stat().st_size
        path.unlink()
    except FileNotFoundError:
        return 0
    return size
