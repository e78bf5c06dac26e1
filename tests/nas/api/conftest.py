"""Fixtures: one service for a module, and new people for each test."""

from collections.abc import Iterator

import pytest

from tests.nas.api.hosted import Asker, Hosted, hosted


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Hosted]:
    with hosted(tmp_path_factory.mktemp("site")) as found:
        yield found


@pytest.fixture
def ada(site) -> Iterator[Asker]:
    found = site.person()
    with found.http:
        yield found


@pytest.fixture
def ben(site) -> Iterator[Asker]:
    found = site.person()
    with found.http:
        yield found


@pytest.fixture
def admin(site) -> Iterator[Asker]:
    found = site.person(admin=True)
    with found.http:
        yield found
