"""What all commands share: how they end, and `--json`. Exit codes: 0 done, 1 something broke, 2 the input was wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES, EDQUOT, EFBIG, ENOSPC, EPERM, EROFS
from typing import Annotated, NoReturn

import typer

UNWRITABLE = (ENOSPC, EDQUOT, EFBIG, EROFS, EACCES, EPERM)

# What profiling a space needs beyond measuring; any other package that is missing is of whole jobs.
OF_PROFILE = ("onnx", "plotly", "yaml")

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]


@contextmanager
def reported() -> Iterator[None]:
    """Turn wrong input into one line on standard error and exit code 2."""
    try:
        from latency_tables.errors import LatencyError
        from nas.errors import JobError
        from search_spaces import SpaceError
        from supernets.errors import SupernetError
    except ModuleNotFoundError as error:
        _missing(error)
    try:
        yield
    except (JobError, SpaceError, SupernetError, LatencyError) as error:
        fail(" ".join(str(error).split()))
    except ModuleNotFoundError as error:
        _missing(error)
    except OSError as error:
        # NumPy reports a full disk without an errno, as "8192 requested and 100 written".
        if error.errno not in UNWRITABLE and "requested and" not in str(error):
            raise
        fail(f"{error.filename or 'the folder of the run'} cannot be written: {error.strerror or error}")


def _missing(error: ModuleNotFoundError) -> NoReturn:
    extra = "profile" if (error.name or "").partition(".")[0] in OF_PROFILE else "search"
    fail(f"{error.name} is not installed; install with: pip install 'hwnas[{extra}]'")


def fail(message: str, code: int = 2) -> NoReturn:
    """End the command with one line on standard error."""
    print(f"nas: {message}", file=sys.stderr)
    raise typer.Exit(code)
