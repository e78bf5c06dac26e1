"""Writing files so that a crash leaves the old content or the new, never a part."""

import os
from pathlib import Path


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file at once, durably."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk is told of without a name
        raise
    finally:
        temporary.unlink(missing_ok=True)
