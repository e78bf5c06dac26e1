"""Fixtures: an empty house, and a browser without scripts for two people in it."""

import pytest

from tests.nas.chromium import CHROMIUM
from tests.nas.web.browsing import FLAGS
from tests.nas.web.house import House
from tests.nas.web.visitor import Visitor


@pytest.fixture
def house(tmp_path) -> House:
    return House.at(tmp_path / "data")


@pytest.fixture
def ann(house):
    """An admin."""
    return house.person("ann", admin=True)


@pytest.fixture
def bob(house):
    return house.person("bob")


def logged_in(house: House, user) -> Visitor:
    client = Visitor(house.app)
    assert client.post("/login", {"token": house.code(user)}).status_code == 303
    return client


@pytest.fixture
def as_ann(house, ann) -> Visitor:
    return logged_in(house, ann)


@pytest.fixture
def as_bob(house, bob) -> Visitor:
    return logged_in(house, bob)


@pytest.fixture
def forgetful(monkeypatch) -> None:
    """Who asks is found out anew with every request; it is remembered for most of a second otherwise."""
    monkeypatch.setattr("nas.api.auth.KEEP_S", 0.0)


@pytest.fixture(scope="module")
def browser():
    """Chromium, for tests that are marked `browser`."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()
