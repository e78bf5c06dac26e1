"""Fixtures: an empty service in each kind of database.

A test module that takes them names the plugin `tests.nas.searching.postgres`.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nas.database import Database
from tests.nas.service.databases import Time, add_user


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request, tmp_path) -> str | Path:
    """Where a database may be made: the tests that take it hold for both kinds."""
    return tmp_path / "nas.sqlite" if request.param == "sqlite" else request.getfixturevalue("postgres")


@pytest.fixture
def db(url, time) -> Iterator[Database]:
    """An empty service whose time stands still, with two users."""
    with Database(url, time_s=time) as database:
        database.upgrade()
        add_user(database, "ann")
        add_user(database, "bob", max_running=1)
        yield database


@pytest.fixture
def real_db(url) -> Iterator[Database]:
    """The same with the database's own clock."""
    with Database(url) as database:
        database.upgrade()
        add_user(database, "ann", max_running=100)
        yield database
