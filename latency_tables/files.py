"""Writing a file whole or not at all."""

import os
import tempfile
from pathlib import Path

from latency_tables.errors import LatencyError


def write_atomically(path: str | os.PathLike[str], text: str) -> None:
    """Write ASCII text so that a crash or a full disk leaves the file that was there before, or none."""
    target = Path(path)
    # In the same folder: a rename is atomic only within one file system.
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise LatencyError(f"{target}: cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "w", encoding="ascii", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(target)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise LatencyError(f"{target}: cannot be written: {error.strerror}") from error
        raise
