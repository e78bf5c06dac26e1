"""Where blobs lie: a folder, or a bucket of an object store."""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from nas.service.errors import ServiceError, Unavailable

DAMAGED = ".damaged"


class Place(Protocol):
    """Files by name, each whole or not there. Names are digests; the first four characters spread them over folders."""

    name: str
    incoming: Path
    """A local folder for what is on its way."""
    failures: tuple[type[Exception], ...]
    """What is raised where the place is away or full; `FileNotFoundError`, where there is no such file, is one of them."""

    def adopt(self, file: Path, name: str) -> None:
        """Make a file of `incoming` durable under this name, in the place of what is there. The file stays."""

    def open(self, name: str) -> BinaryIO: ...

    def size(self, name: str) -> int | None:
        """In bytes; None where there is no such file."""

    def delete(self, name: str) -> None: ...

    def set_aside(self, name: str) -> None:
        """Rename a file, so that it is not found any more."""

    def path(self, name: str) -> Path | None: ...

    def walk(self) -> Iterator[tuple[str, int]]:
        """Names and bytes, and perhaps names of other things."""

    def abandoned(self, older_than_s: float) -> Iterator[Path]:
        """What has come in, was not adopted and has not been written to for so long."""

    def check(self) -> None:
        """Raise one of the failures where nothing can be written."""


class Folder:
    """A local folder. A file is written below it, synced, renamed, and its folder is synced."""

    failures: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, root: Path) -> None:
        self._root = root
        self.name = str(root)
        self.incoming = root / "incoming"
        try:
            self.incoming.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(f"{root}: the folder of files cannot be made: {error.strerror}") from error

    def adopt(self, file: Path, name: str) -> None:
        _sync(file)
        target = self._at(name)
        made = [folder for folder in (target.parent.parent, target.parent) if not folder.exists()]
        target.parent.mkdir(parents=True, exist_ok=True)
        # A second name for the same content: it may have to be adopted again, should the collector come in between.
        second = file.with_name(f"{secrets.token_hex(8)}.part")
        second.hardlink_to(file)
        second.replace(target)
        for folder in (target.parent, *(folder.parent for folder in reversed(made))):
            _sync(folder)

    def open(self, name: str) -> BinaryIO:
        return self._at(name).open("rb", buffering=0)

    def size(self, name: str) -> int | None:
        try:
            return self._at(name).stat().st_size
        except FileNotFoundError:
            return None

    def delete(self, name: str) -> None:
        self._at(name).unlink(missing_ok=True)

    def set_aside(self, name: str) -> None:
        self._at(name).replace(self._at(name).with_suffix(DAMAGED))

    def path(self, name: str) -> Path:
        return self._at(name)

    def walk(self) -> Iterator[tuple[str, int]]:
        for path in self._root.glob("??/??/*"):
            with suppress(FileNotFoundError):  # collected meanwhile
                yield path.name, path.stat().st_size

    def abandoned(self, older_than_s: float) -> Iterator[Path]:
        return _older(self.incoming, older_than_s)

    def check(self) -> None:
        return None

    def _at(self, name: str) -> Path:
        return self._root / name[:2] / name[2:4] / name


class Bucket:
    """An object store through fsspec. Content comes in locally; one upload then makes an object, whole or not at all."""

    def __init__(self, url: str) -> None:
        import fsspec

        try:
            # Listings are not remembered: other processes put and delete too.
            self._files, self._root = fsspec.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise ServiceError(f"the store of files cannot be opened: {error}") from error
        self.name = str(self._files.unstrip_protocol(self._root))
        self.failures: tuple[type[Exception], ...] = (OSError, *_client_failures())
        self.incoming = Path(tempfile.gettempdir()) / f"nas-incoming-{os.getuid()}"
        self.incoming.mkdir(mode=0o700, exist_ok=True)
        if self.incoming.stat().st_uid != os.getuid():
            raise ServiceError(f"{self.incoming}: belongs to someone else; remove it, or set TMPDIR")

    def adopt(self, file: Path, name: str) -> None:
        self._files.put_file(str(file), self._at(name))

    def open(self, name: str) -> BinaryIO:
        found: BinaryIO = self._files.open(self._at(name), "rb")
        return found

    def size(self, name: str) -> int | None:
        try:
            return int(self._files.info(self._at(name))["size"])
        except FileNotFoundError:
            return None

    def delete(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._files.rm_file(self._at(name))

    def set_aside(self, name: str) -> None:
        self._files.mv(self._at(name), self._at(name) + DAMAGED)

    def path(self, name: str) -> None:
        return None

    def walk(self) -> Iterator[tuple[str, int]]:
        for folder in self._listed(self._root):
            # One of up to 256 at a time: a listing of everything need not fit into memory.
            found: dict[str, Any] = self._files.find(folder, detail=True)
            for path, about in found.items():
                yield path.rpartition("/")[2], int(about["size"])

    def abandoned(self, older_than_s: float) -> Iterator[Path]:
        return _older(self.incoming, older_than_s)

    def check(self) -> None:
        self._files.pipe_file(f"{self._root}/writable", b"")

    def _at(self, name: str) -> str:
        return f"{self._root}/{name[:2]}/{name[2:4]}/{name}"

    def _listed(self, root: str) -> list[str]:
        try:
            return [entry["name"] for entry in self._files.ls(root, detail=True) if entry["type"] == "directory"]
        except FileNotFoundError:
            return []


# Protocols of which one upload appears whole or not at all; what else fsspec knows may leave a part.
_BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "memory")


def open_place(url: str) -> Place:
    """A path or file:// is a folder, which is made; s3:// and kin are buckets."""
    protocol, separator, rest = url.partition("://")
    if not separator:
        return Folder(Path(url))
    if protocol == "file":
        return Folder(Path(rest))
    if protocol in _BUCKETS:
        return Bucket(url)
    raise ServiceError(f"files can be kept in a folder or under {', '.join(_BUCKETS)}, not under {protocol[:20]!r}")


def _client_failures() -> tuple[type[Exception], ...]:
    """What S3's client raises besides `OSError`, where it is installed."""
    try:
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        return ()
    return (BotoCoreError, ClientError)


def _older(folder: Path, age_s: float) -> Iterator[Path]:
    # By the clock of this machine, which also gave the files their times.
    newest_s = time.time() - age_s
    for path in folder.glob("*.part"):
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < newest_s:
                yield path


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
