"""A browser without scripts, inside this process: it keeps cookies and follows what it is told to."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
from fastapi import FastAPI

ORIGIN = "http://testserver"
HEADERS = {"Accept": "text/html,*/*;q=0.8"}


class Visitor:
    def __init__(self, app: FastAPI) -> None:
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=ORIGIN, headers=HEADERS)

    def get(self, path: str, **how: Any) -> httpx.Response:
        return asyncio.run(self._client.get(path, **how))

    def post(self, path: str, data: dict[str, str], follow: bool = False) -> httpx.Response:
        return asyncio.run(self._client.post(path, data=data, follow_redirects=follow))

    def request(self, method: str, path: str, **how: Any) -> httpx.Response:
        return asyncio.run(self._client.request(method, path, **how))
