"""A run's folder: its job, what each stage left, and which stages are finished."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from nas.errors import JobError
from nas.job import Job, job_from_json, job_to_json
from search_spaces import Space, SpaceError
from search_spaces.files import write_bytes

FORMAT = "nas.run/1"
STAGES = ("train", "profile", "search", "export")
PACKAGES = ("hwnas", "torch", "numpy", "onnx", "onnxruntime", "optuna", "ray", "moocore", "scikit-learn")


class RunFolder:
    """Paths and records of one run. Files are replaced whole, so that a kill leaves the old one or the new one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._was_there = root.exists()
        self.checkpoint = root / "train.safetensors"
        self.supernet = root / "supernet.safetensors"
        self.cache = root / "data"
        self.models = root / "models"
        self.evaluations = root / "evaluations.sqlite"
        self.summary = root / "summary.json"
        self.report = root / "report.html"

    @staticmethod
    def create(root: Path, job: Job) -> RunFolder:
        """A new folder for a job; one that exists and is not empty is refused."""
        try:
            if root.exists() and (not root.is_dir() or any(root.iterdir())):
                raise JobError(
                    f"{root}: is there already; go on with `nas run --resume {root}`, or choose another --out"
                )
            folder = RunFolder(root)
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise JobError(f"{root}: the folder cannot be made: {error.strerror}") from error
        try:
            folder.change(job)
        except OSError:
            folder.discard_if_barren()
            raise
        return folder

    @staticmethod
    def open(root: Path) -> RunFolder:
        """The folder of an earlier run."""
        if not (root / "job.json").is_file():
            raise JobError(f"{root}: is not the folder of a run (it has no job.json)")
        return RunFolder(root)

    @property
    def job(self) -> Job:
        document = self.read_json("job.json")
        if document.get("format") != FORMAT:
            raise JobError(f"{self.root / 'job.json'}: wanted format {FORMAT!r}, found {document.get('format')!r}")
        try:
            return job_from_json(document.get("job"))
        except JobError as error:
            raise JobError(f"{self.root / 'job.json'}: {error}") from error

    def change(self, job: Job) -> None:
        """Go on under another job."""
        self.write_json("job.json", {"format": FORMAT, "job": job_to_json(job)})

    @property
    def space(self) -> Space:
        """The space that the train stage wrote."""
        try:
            return Space.from_json(self.read_json("space.json"))
        except SpaceError as error:
            raise JobError(f"{self.root / 'space.json'}: {error}") from error

    def enter(self, space: Space) -> None:
        """Go on in this space: what was measured in another one is forgotten."""
        if space != self.space:
            self.reopen("profile")
            for measured in (*self.root.glob("tables/*"), *self.root.glob("predictors/*")):
                measured.unlink()
            self.write_json("space.json", space.to_json())

    def table(self, device: str) -> Path:
        return self._in("tables", f"{device}.json")

    def predictor(self, device: str) -> Path:
        return self._in("predictors", f"{device}.json")

    def front(self, device: str) -> Path:
        return self._in("fronts", f"{device}.csv")

    def mergers(self, device: str, arch_id: str) -> Path:
        """What mergers of a network's convolutions save on a device."""
        return self._in("mergers", f"{device}-{arch_id}.json")

    def stages(self) -> dict[str, float]:
        """Seconds of each finished stage, in order."""
        return {name: self.result(name)["seconds"] for name in STAGES if (self.root / f"{name}.json").is_file()}

    def result(self, stage: str) -> dict[str, Any]:
        """What a finished stage wrote about itself."""
        path = self.root / f"{stage}.json"
        if not path.is_file():
            command = f"run --resume {self.root}" if stage == "train" else f"{stage} {self.root}"
            raise JobError(f"{self.root}: the {stage} stage has not finished; run `nas {command}` first")
        what_next = f"remove it, and go on with `nas run --resume {self.root}`"
        try:
            found = self.read_json(path.name)
        except JobError as error:
            raise JobError(f"{error}; {what_next}") from error
        if not isinstance(found.get("seconds"), float):
            raise JobError(f"{path}: is not what the {stage} stage wrote; {what_next}")
        return found

    def finish(self, stage: str, seconds: float, result: dict[str, Any]) -> None:
        """Record a stage as finished, with its result and the versions that it ran on."""
        self.write_json(f"{stage}.json", {**result, "seconds": seconds, "versions": versions()})

    def reopen(self, stage: str) -> None:
        """Forget that this stage and those after it are finished; what they measured and evaluated stays."""
        self.summary.unlink(missing_ok=True)
        # The last one first: a kill in between must not leave a stage finished after one that is not.
        for name in reversed(STAGES[STAGES.index(stage) :]):
            (self.root / f"{name}.json").unlink(missing_ok=True)

    def discard_if_barren(self) -> None:
        """Remove a new folder in which nothing was finished or saved: a run that failed on its input leaves no trace."""
        if not self.stages() and not self.checkpoint.exists():
            shutil.rmtree(self.root, ignore_errors=True)
            if self._was_there:
                self.root.mkdir(exist_ok=True)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from working on this run meanwhile; a `JobError` where one does."""
        descriptor = os.open(self.root, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise JobError(f"{self.root}: another process is working on this run; wait for it to end") from error
            yield
        finally:
            os.close(descriptor)

    def write_json(self, name: str, document: dict[str, Any]) -> None:
        self.write_text(name, json.dumps(document, indent=1, allow_nan=False) + "\n")

    def write_text(self, name: str, text: str) -> None:
        write_bytes(self.root / name, text.encode())

    def read_json(self, name: str) -> dict[str, Any]:
        path = self.root / name
        try:
            document = json.loads(path.read_text())
        except FileNotFoundError as error:
            raise JobError(f"{path}: is missing") from error
        except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise JobError(f"{path}: cannot be read ({error})") from error
        if not isinstance(document, dict):
            raise JobError(f"{path}: wanted an object, found {type(document).__name__}")
        return document

    def _in(self, folder: str, name: str) -> Path:
        (self.root / folder).mkdir(exist_ok=True)
        return self.root / folder / name


def space_json(space: Space) -> dict[str, Any]:
    """What is said of a space beside its definition."""
    return {"family": space.family, "id": space.id, "size": space.size, "choices": len(space.choices)}


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Versions of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
