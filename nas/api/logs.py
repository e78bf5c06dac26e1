"""How the service says what it does, on standard error: one line of JSON a record, or lines for people."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable


class JsonLines(logging.Formatter):
    """A record as one line of JSON, with the id of its job where it has one."""

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "at": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if hasattr(record, "job"):
            said["job"] = record.job
        said.update(getattr(record, "said", {}))
        if record.exc_info:
            said["trace"] = self.formatException(record.exc_info)
        return json.dumps(said)


class Lines(logging.Formatter):
    """A record as a line for people, and a trace below it where there is one."""

    def __init__(self) -> None:
        super().__init__("{asctime} {levelname:<7} {message}", style="{")


FORMATS: dict[str, Callable[[], logging.Formatter]] = {"json": JsonLines, "text": Lines}
# What they do in between is of no interest; their warnings are.
QUIET = ("alembic", "httpx", "uvicorn", "uvicorn.access", "uvicorn.error")


def log_to_stderr(form: str) -> None:
    """Send all records of this process to standard error, in one of FORMATS."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FORMATS[form]())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
