"""Where a service under test keeps its rows and its files: a PostgreSQL and an S3 server of its own, gone at the end.

Needs PostgreSQL's programs in /usr/lib/postgresql, and moto for S3.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.nas.searching.postgres import serving
from tests.nas.service.buckets import access, make_bucket, storing


@contextmanager
def postgres() -> Iterator[Path]:
    """The folder of a server of its own; see `url_of`."""
    with tempfile.TemporaryDirectory(prefix="pg-") as root, serving(Path(root)):
        yield Path(root)


def url_of(server: Path) -> str:
    return f"postgresql+psycopg://trials:secret@/postgres?host={server}"


@contextmanager
def bucket() -> Iterator[Mapping[str, str]]:
    """The variables by which a service keeps its files in an empty bucket."""
    with storing() as endpoint:
        yield {**access(endpoint), "NAS_BLOBS": make_bucket(endpoint)}
