"""The folder of a job on the machine that runs it, and its files in the service: neither is needed where the other is.

Each attempt has a folder of its own, so that a process that lost the job and does not know yet cannot write into the files of
its successor. It begins with the folder of the attempt before where that was on this machine, else with the job's artefacts.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from nas.service.leases import Lease

if TYPE_CHECKING:
    from nas.service.artefacts import Artefacts

SYNC_S = 20.0
CHECKPOINT = "train.safetensors"
LOG = "log.txt"
RARELY_S = 300.0
"""Between two copies of the checkpoint, which is several times as large as its supernet and written every minute, and of the
log: on this machine they are at hand anyway."""

IMAGES = "data"
"""Decoded images, which all jobs of a machine share."""
_JOURNAL = ".rounds"
# Not for others: decoded images, the trial store of a run without a service.
_OWN = (IMAGES, "evaluations.sqlite")

Signature = tuple[int, int, int]


class Workspace:
    """One attempt's folder. Files in it are replaced whole, but for journals and the log, which grow."""

    def __init__(self, work: Path, artefacts: Artefacts, lease: Lease) -> None:
        self.root = folder_of(work, lease)
        self._artefacts = artefacts
        self._lease = lease
        self._known: dict[str, Signature] | None = None
        self._all_s = time.monotonic()
        self._turn = threading.Lock()

    def begin(self, images: Path, inherited: Callable[[], Mapping[str, str]]) -> None:
        """Make the folder, unless it is there. `images` is where decoded ones are kept; `inherited` says which artefacts of
        which other job a new job begins with, by their paths."""
        if self.root.exists():
            return
        images.mkdir(parents=True, exist_ok=True)
        filling = self.root.parent / f".{self._lease.epoch}"
        shutil.rmtree(filling, ignore_errors=True)
        before = self.root.parent / str(self._lease.epoch - 1)
        if before.exists():
            shutil.copytree(before, filling, symlinks=True, copy_function=_share)
        else:
            filling.mkdir(parents=True)
            own = dict.fromkeys(self._artefacts.of(self._lease.job_id), self._lease.job_id)
            for path, job_id in (own or inherited()).items():
                self._fetch(job_id, path, filling / path)
        with suppress(FileExistsError):
            (filling / IMAGES).symlink_to(images.absolute())
        filling.rename(self.root)  # a folder is whole, or it is not there
        for other in self.root.parent.iterdir():
            if other != self.root:
                shutil.rmtree(other, ignore_errors=True)

    def sync(self, final: bool = True) -> list[str]:
        """Make what has changed the job's artefacts; the paths. Not `final`: what changes all the time only now and then."""
        with self._turn:
            if self._known is None:
                self._known = self._recognised()
            # Listed first, and read then: a stage's own record is its last file, so whoever sees it sees all the others.
            there = {path: _signature(self.root / path) for path in sorted(self._paths())}
            changed = [path for path, found in there.items() if self._known.get(path) != found]
            if final or time.monotonic() - self._all_s >= RARELY_S:
                self._all_s = time.monotonic()
            else:
                changed = [path for path in changed if path not in (CHECKPOINT, LOG)]
            if changed:
                self._artefacts.add(self._lease, {path: self.root / path for path in changed})
                self._known.update({path: there[path] for path in changed})
            return changed

    @contextmanager
    def synced(self, fail: Callable[[BaseException], NoReturn], advanced: Callable[[], None]) -> Iterator[None]:
        """Sync now and then meanwhile; `advanced` is called when a checkpoint or a table is safe."""
        done = threading.Event()

        def run() -> None:
            try:
                while not done.wait(SYNC_S):
                    with suppress(FileNotFoundError):  # replaced in the middle of it; the next time, then
                        if any(path == CHECKPOINT or path.endswith(_JOURNAL) for path in self.sync(final=False)):
                            advanced()
            except BaseException as error:
                fail(error)

        thread = threading.Thread(target=run, name="sync", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _paths(self) -> Iterator[str]:
        """What is to be kept, relative to the folder. A checkpoint is of no use once the training has finished."""
        trained = (self.root / "train.json").exists()
        for folder, folders, names in os.walk(self.root):
            folders[:] = [name for name in folders if name not in _OWN and not name.startswith(".")]
            for name in names:
                path = str((Path(folder) / name).relative_to(self.root))
                if not (name.startswith((".", *_OWN)) or (trained and path == CHECKPOINT)):
                    yield path

    def _recognised(self) -> dict[str, Signature]:
        """Files that are the same as the job's artefacts."""
        found = {}
        for path, artefact in self._artefacts.of(self._lease.job_id).items():
            file = self.root / path
            with suppress(FileNotFoundError):
                signature = _signature(file)
                if file.stat().st_size == artefact.bytes and _sha256(file) == artefact.sha256:
                    found[path] = signature
        return found

    def _fetch(self, job_id: str, path: str, into: Path) -> None:
        into.parent.mkdir(parents=True, exist_ok=True)
        with self._artefacts.open(job_id, path) as content, into.open("wb") as file:
            shutil.copyfileobj(content, file, 2**20)


def folder_of(work: Path, lease: Lease) -> Path:
    return work / lease.job_id / str(lease.epoch)


def remove(work: Path, job_id: str) -> None:
    """The folders of a job that has ended."""
    shutil.rmtree(work / job_id, ignore_errors=True)


def _share(source: str, target: str) -> str:
    """One file under two names, as nobody writes into it; a copy of one that grows."""
    if source.endswith((_JOURNAL, LOG)):
        return shutil.copy2(source, target)
    os.link(source, target)
    return target


def _signature(path: Path) -> Signature:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
