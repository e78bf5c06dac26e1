"""Folders of exports: there whole or not at all, and never in the place of somebody else's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from nas.errors import JobError
from search_spaces.files import write_bytes

CARD = "card.md"
"""In every export, and what one is known by."""
PREDICT = "predict.py"


def check_free(folders: Sequence[Path], force: bool) -> None:
    """Refuse to make exports where something else lies; with `force`, other exports are replaced."""
    for folder in folders:
        if not folder.exists():
            continue
        if not (folder / CARD).is_file():
            raise JobError(f"{folder}: is there already and is no export; move it away, or choose another --out")
        if not force:
            raise JobError(f"{folder}: is there already; replace it with --force, or choose another --out")


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """A new folder to be filled, which then takes the place of `folder`; where that fails, `folder` is as it was.

    An `OSError`, as of a full disk, names the folder.
    """
    part, old = (folder.with_name(f".{folder.name}.{end}") for end in ("part", "old"))
    try:
        if old.exists() and not folder.exists():  # killed between the two renames below
            old.rename(folder)
        for left in (part, old):
            shutil.rmtree(left, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        if folder.exists():
            folder.rename(old)
        try:
            part.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    except OSError as error:
        error.filename = str(folder)
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    write_bytes(path, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())


def write_told(folder: Path, card: str) -> None:
    """The card, and the script that classifies with what lies beside it."""
    write_bytes(folder / CARD, card.encode())
    write_bytes(folder / PREDICT, files("nas.specialising").joinpath(PREDICT).read_bytes())
