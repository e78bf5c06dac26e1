"""What an agent keeps on disk: who it is, and all of the task in hand, so that a kill at any moment loses nothing measured.

    DIR/token             the agent's secret, for nobody else to read
    DIR/nonce             with the code, what the token was made from; so the same enrolment can be asked for twice
    DIR/poll              which request for a task is open: it is repeated until its answer is here
    DIR/models/           graphs by their SHA-256 (`models.py`)
    DIR/task/task.json    the task in hand
    DIR/task/rounds/      one file a round, numbered from 1
    DIR/task/outcome.json what the task ended with
    DIR/task/acknowledged how many rounds the server has
    DIR/task/starts       how often measuring was begun since the last round

Every file is old or new, never a part. Rounds stay until the outcome is acknowledged: they are what a measurement that was
interrupted goes on from.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from latency_tables.measuring.measurement import Measurement
from nas.agent.errors import AgentError
from nas.agent.wire import Task, error_json, joined
from search_spaces.files import write_bytes

Json = Any


class Spool:
    """The folder of one agent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else works in this folder meanwhile; `AgentError` where somebody does."""
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise AgentError(
                f"{self.folder}: another agent works in this folder; end it, or give another --dir"
            ) from None
        finally:
            os.close(descriptor)

    @property
    def token(self) -> str:
        """Empty before the agent is enrolled."""
        path = self.folder / "token"
        return path.read_text(encoding="ascii").strip() if path.exists() else ""

    def keep_token(self, token: str) -> None:
        _write_secret(self.folder / "token", token)
        (self.folder / "nonce").unlink(missing_ok=True)

    def nonce(self) -> str:
        return self._drawn("nonce")

    def poll_id(self) -> str:
        return self._drawn("poll")

    def _drawn(self, name: str) -> str:
        """A random word that stays the same until its file is removed."""
        path = self.folder / name
        if not path.exists():
            _write(path, secrets.token_hex(16))
        return path.read_text(encoding="ascii")

    def in_hand(self) -> Work | None:
        """The task in hand, whose request is closed then."""
        path = self.folder / "task"
        if not (path / "task.json").exists():
            return None
        (self.folder / "poll").unlink(missing_ok=True)  # answered, even if a kill came between
        return Work(path)

    def begin(self, document: Json) -> Work:
        """Take a task in hand; `AgentError` for what is none. Of an earlier one nothing is left."""
        Task.from_json(document)
        self.drop()
        path = self.folder / "task"
        (path / "rounds").mkdir(parents=True)
        _write_json(path / "task.json", document)
        found = self.in_hand()
        assert found is not None
        return found

    def drop(self) -> None:
        """Forget the task in hand."""
        path = self.folder / "task"
        (path / "task.json").unlink(missing_ok=True)  # first: without it, what a kill leaves of the folder is no task
        if path.exists():
            shutil.rmtree(path)


class Work:
    """The task in hand, as far as it is done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.task = Task.from_json(_read_json(folder / "task.json"))

    def rounds(self, after: int = 0) -> list[Path]:
        """The files of the rounds after this one, in order."""
        return sorted(path for path in (self.folder / "rounds").glob("[0-9]*.json") if int(path.stem) > after)

    def round(self, path: Path) -> Json:
        return _read_json(path)

    def add_round(self, document: Json) -> None:
        _write_json(self.folder / "rounds" / f"{document['n']:08}.json", document)

    def measured(self) -> dict[str, Measurement]:
        """What was measured so far, that before this epoch included."""
        found: dict[str, Measurement] = dict(self.task.earlier)
        for path in self.rounds():
            found.update(joined(found, self.round(path)["measured"]))
        return found

    @property
    def acknowledged(self) -> int:
        path = self.folder / "acknowledged"
        return int(path.read_text()) if path.exists() else 0

    def acknowledge(self, n: int) -> None:
        _write(self.folder / "acknowledged", str(n))

    @property
    def outcome(self) -> Json:
        """None while it is measured."""
        path = self.folder / "outcome.json"
        return _read_json(path) if path.exists() else None

    def end(self, measured: Mapping[str, Measurement]) -> None:
        _write_json(
            self.folder / "outcome.json", {"measured": {key: found.to_json() for key, found in measured.items()}}
        )

    def fail(self, fault: str, message: str) -> None:
        _write_json(self.folder / "outcome.json", {"error": error_json(fault, message)})

    def count_start(self) -> int:
        """Note that measuring begins; how often it did since the last round."""
        path = self.folder / "starts"
        rounds = len(self.rounds())
        before = path.read_text().split() if path.exists() else ["0", "0"]
        starts = 1 + (int(before[1]) if int(before[0]) == rounds else 0)
        _write(path, f"{rounds} {starts}")
        return starts


def _write_secret(path: Path, text: str) -> None:
    """For nobody else to read, not even for a moment."""
    temporary = path.with_name(f".{path.name}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    temporary.replace(path)


def _write(path: Path, text: str) -> None:
    write_bytes(path, text.encode("ascii"))


def _write_json(path: Path, document: Json) -> None:
    write_bytes(path, json.dumps(document, separators=(",", ":")).encode("ascii"))


def _read_json(path: Path) -> Json:
    return json.loads(path.read_bytes())
