"""A page in a real browser, for tests that are marked `browser`."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the path")


def dom_of(page: str, scratch: Path) -> str:
    """The document after its scripts have run."""
    file = scratch / "page.html"
    file.write_text(page, encoding="utf-8")
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={scratch / 'profile'}", "--virtual-time-budget=5000", "--dump-dom", file.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def drawn_plots(dom: str) -> list[str]:
    """Ids of the figures in which a plot was drawn, sorted."""
    return sorted(re.findall(r'<div class="plot [^>]* id="([\w-]+)"[^>]*>(?:<div[^>]*>)*<svg class="main-svg"', dom))
