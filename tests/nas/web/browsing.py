"""A real browser on a real server, for the tests that are marked `browser`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from tests.nas.web.house import House

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip
PATIENCE_MS = 60_000


@contextmanager
def served(house: House, port: int = 0) -> Iterator[str]:
    """The house on a free port of this machine, or on that one; its address."""
    server = uvicorn.Server(uvicorn.Config(house.app, port=port, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        house.services.closing.set()
        server.should_exit = True
        thread.join(20)


@dataclass
class Tab:
    """A page of the browser, with what it complained of and what it asked of others than the service."""

    page: Any
    origin: str
    complaints: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)

    def watch(self) -> Tab:
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._asked)
        return self

    def go(self, path: str) -> None:
        self.page.goto(self.origin + path)

    def log_in(self, house: House, user) -> None:
        self.go("/login")
        self.page.get_by_label("Token or code").fill(house.code(user))
        self.page.get_by_role("button", name="Log in").click()
        self.page.wait_for_url("**/jobs")

    def until(self, condition: str) -> None:
        """Wait until an expression of JavaScript is true. The browser's own way would need `eval`, which the pages forbid."""
        deadline_s = time.monotonic() + PATIENCE_MS / 1000
        while not self.page.evaluate(f"Boolean({condition})"):
            assert time.monotonic() < deadline_s, condition
            self.page.wait_for_timeout(50)

    def overflow_px(self) -> int:
        """By how much the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def _heard(self, message) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _asked(self, request) -> None:
        if not request.url.startswith((self.origin + "/", "data:", "blob:")):
            self.strangers.append(request.url)
