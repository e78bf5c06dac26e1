"""How an agent reaches its server: JSON posted over HTTPS, models in pieces."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx

from nas.agent.errors import AgentError, Away, Refused, Stale, Unwelcome
from nas.agent.reading import MAX_MESSAGE, read_json

Json = Any

CONNECT_S = 10.0
ANSWER_S = 30.0
"""How long an answer may take, beyond the time that the server is asked to wait."""
MAX_ANSWER_BYTES = 256 << 20


class Transport(Protocol):
    """Requests under `/v1/agent/`. `Away` when it may work later, `Stale` when the task is not ours any more, `Refused`
    when the server will not have it, `Unwelcome` when it will not have us."""

    def post(self, path: str, document: Json, wait_s: float = 0.0) -> Json: ...

    def piece(self, sha256: str, start: int, length: int) -> bytes:
        """These bytes of a model, or fewer."""


class Http:
    """A server by its URL. Certificates are checked, by the system's authorities or those in the file `ca`."""

    def __init__(
        self,
        url: str,
        token: str = "",
        ca: Path | None = None,
        plain: bool = False,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise AgentError(f"{url}: wanted the URL of a server, as https://nas.example.org")
        if parts.scheme == "http" and not (plain or _is_here(parts.hostname)):
            raise AgentError(
                f"{url}: the agent's token would cross the network unencrypted; give an https URL, or --plain-http if the "
                "network itself is private"
            )
        try:
            # The file alone, where there is one: a private authority need not trust all the public ones.
            verify = ssl.create_default_context(cafile=None if ca is None else str(ca))
        except (OSError, ssl.SSLError) as error:
            raise AgentError(f"--ca {ca}: not a file of certificates in PEM form: {error}") from error
        self.client = httpx.Client(
            base_url=url.rstrip("/"),
            headers={"Authorization": f"Bearer {token}"} if token else {},
            verify=verify,
            timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S),
            follow_redirects=False,
            transport=transport,
        )

    def close(self) -> None:
        self.client.close()

    def post(self, path: str, document: Json, wait_s: float = 0.0) -> Json:
        timeout = httpx.Timeout(ANSWER_S + wait_s, connect=CONNECT_S)
        body = self._answer("POST", path, json=document, timeout=timeout)
        try:
            answer = read_json(body)
        except AgentError as error:
            raise Away(f"{path}: {error}") from error
        if not isinstance(answer, dict):
            raise Away(f"{path}: the server's answer is no object")
        return answer

    def piece(self, sha256: str, start: int, length: int) -> bytes:
        headers = {"Range": f"bytes={start}-{start + length - 1}"}
        return self._answer("GET", f"/v1/agent/models/{sha256}", most=length, headers=headers)

    def _answer(self, method: str, path: str, most: int = MAX_ANSWER_BYTES, **request: Any) -> bytes:
        """The body of a good answer, of so many bytes at most; what any other answer means."""
        try:
            with self.client.stream(method, path, **request) as response:
                body = bytearray()
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > most:
                        raise Refused(f"{path}: the server answers with more than {most} bytes")
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise Away(f"{self.client.base_url}: {error or type(error).__name__}") from error
        if response.is_success:
            return bytes(body)
        raise meaning(response.status_code, *_said(bytes(body), response))


def _said(body: bytes, response: httpx.Response) -> tuple[str, str]:
    """Code and message of an error as our server tells it, or what a stranger on the way makes of it."""
    try:
        error: Mapping[str, Json] = read_json(body)["error"]
        message = " ".join(str(error["message"]).split())[:MAX_MESSAGE]
        return str(error["code"])[:80], "".join(each for each in message if each.isprintable())
    except (AgentError, TypeError, KeyError):
        return "", f"the server answers {response.status_code} {response.reason_phrase}"


def meaning(status: int, code: str, message: str) -> AgentError:
    """What a refusal of the server, or of who stands before it, means to the agent."""
    if status >= 500 or status in (408, 425, 429) or not code:
        return Away(message)
    if status in (401, 403, 426):
        return Unwelcome(message)
    return Stale(message) if code == "stale" else Refused(message)


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
