"""Writing a text file whole or not at all."""

import os
from pathlib import Path

from latency_tables.errors import LatencyError
from search_spaces.files import write_bytes


def write_atomically(path: str | os.PathLike[str], text: str) -> None:
    """Write ASCII text so that a crash or a full disk leaves the file that was there before, or none."""
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(target, text.encode("ascii"))
    except OSError as error:
        raise LatencyError(f"{target}: cannot be written: {error.strerror}") from error
