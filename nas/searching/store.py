"""Evaluations on disk: the truth of a search. An architecture is in it once, with its accuracy."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from types import TracebackType

from nas.errors import JobError
from search_spaces import Arch

_SCHEMA = """
CREATE TABLE IF NOT EXISTS identity (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS evaluations (
    arch_id TEXT PRIMARY KEY, arch TEXT NOT NULL, val_accuracy REAL NOT NULL, seconds REAL NOT NULL
);
"""


class EvaluationStore:
    """One SQLite file. `identity` is a digest of what accuracy depends on: supernet, validation set, calibration."""

    def __init__(self, path: Path, identity: str) -> None:
        self._path = path
        try:
            self._database = sqlite3.connect(path, isolation_level=None)
            self._database.executescript(_SCHEMA)
            self._database.execute("INSERT OR IGNORE INTO identity VALUES ('evaluations', ?)", (identity,))
            found = self._database.execute("SELECT value FROM identity WHERE key = 'evaluations'").fetchone()[0]
        except sqlite3.Error as error:
            raise JobError(f"{path}: cannot be used ({error}); if it is damaged, remove it") from error
        if found != identity:
            self._database.close()
            raise JobError(
                f"{path}: holds evaluations of another supernet, data or calibration ({found}, not {identity}); "
                "remove it to evaluate anew"
            )

    def known(self) -> dict[str, float]:
        """Validation accuracy by architecture id."""
        try:
            return dict(self._database.execute("SELECT arch_id, val_accuracy FROM evaluations").fetchall())
        except sqlite3.Error as error:
            raise JobError(f"{self._path}: cannot be read ({error}); if it is damaged, remove it") from error

    def add(self, arch: Arch, val_accuracy: float, seconds: float) -> None:
        """Record one evaluation, durably, before this returns; an architecture that is there stays as it is."""
        try:
            self._database.execute(
                "INSERT OR IGNORE INTO evaluations VALUES (?, ?, ?, ?)",
                (arch.id, json.dumps(arch.to_json()), val_accuracy, seconds),
            )
        except sqlite3.Error as error:
            raise JobError(f"{self._path}: an evaluation cannot be written ({error})") from error

    def __enter__(self) -> EvaluationStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()
