"""Images of jobs on the machine that runs them: uploads by their content, and what whoever runs the service has registered."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from nas.errors import JobError
from nas.service.blobs import Blobs
from nas.service.specs import DATA, UPLOAD
from nas.service.uploads import Uploads
from supernets.datasource import DataSource

IMAGES, FILES = "images", "files"
"""In the folder of work: decoded images, and uploaded files."""
DAY_S = 86_400.0
UNUSED_S = 14 * DAY_S


def local(source: DataSource, uploads: Uploads, blobs: Blobs, work: Path, named: Mapping[str, str]) -> DataSource:
    """The source with paths of this machine. `JobError` or `NotFound` where there are no such images.

    Whether the owner of the job may read them was found out when it was submitted.
    """

    def path_of(word: str | None) -> str | None:
        if word is None:
            return None
        if word.startswith(UPLOAD):
            sha256 = uploads.get(word.removeprefix(UPLOAD)).sha256
            return str(file_of(sha256, blobs, work / FILES, ".parquet"))
        return registered(word, named)

    return replace(source, path=path_of(source.path), test_path=path_of(source.test_path))


def registered(word: str, named: Mapping[str, str]) -> str:
    """The path that whoever runs the service has given such a name."""
    name = word.removeprefix(DATA)
    if not word.startswith(DATA) or name not in named:
        known = ", ".join(sorted(named)) or "none"
        raise JobError(f"data: the service has no images {word[:80]!r}; it has {known}, or upload your own")
    return named[name]


def file_of(sha256: str, blobs: Blobs, folder: Path, suffix: str) -> Path:
    """A blob as a file of this machine, verified; it is there already where another job has used it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{sha256}{suffix}"
    if not path.exists():
        with _replacing(path) as partial, blobs.open(sha256) as content, partial.open("wb") as file:
            shutil.copyfileobj(content, file, 2**20)
    return path


def forget_unused(work: Path, older_s: float = UNUSED_S) -> None:
    """Remove uploaded files and decoded images that nobody has read for long; they can be made again."""
    for folder in (work / IMAGES, work / FILES):
        for path in folder.iterdir() if folder.exists() else ():
            with suppress(OSError):
                files = path.iterdir() if path.is_dir() else [path]
                used_s = max([path.stat().st_mtime, *(file.stat().st_atime for file in files)])
                if time.time() - used_s > older_s:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
