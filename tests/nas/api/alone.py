"""A plugin for test modules: a place with nothing of a service in it."""

import logging
import os
from pathlib import Path

import pytest


@pytest.fixture
def alone(monkeypatch, tmp_path) -> Path:
    """An empty folder, nothing of a service in the environment, and logs that go where they went afterwards."""
    monkeypatch.setattr(logging.root, "handlers", logging.root.handlers[:])
    for name in [name for name in os.environ if name.startswith("NAS_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path
