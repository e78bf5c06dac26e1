"""The service from Python, over HTTP. Needs httpx alone; packing a folder of images needs pyarrow, reading YAML pyyaml.

    with Client("http://127.0.0.1:8023") as client:
        job = client.submit(Path("job.yaml"))
        for event in client.watch(job["id"]):
            print(event.kind, event.data)
        client.fetch(job["id"], Path("out"))

What a connection lost is asked for again; a job is submitted under a key of its own, so that it is not made twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, BinaryIO
from urllib.parse import quote

import httpx

from nas.connection import AGAIN, DEFAULT_URL, ClientError, Patience, check, document_of, token_for
from nas.submission import local_images, override, read_yaml

Json = Any

ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")
PATIENCE_S = 60.0
"""How long is tried again while the service cannot be reached."""
# Longer than the service is silent on a stream.
STREAM_S = 45.0
CHUNK_BYTES = 256 * 1024
UPLOAD_KINDS = {".onnx": "onnx", ".safetensors": "safetensors", ".parquet": "parquet"}


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to a job; `seq` counts from 1."""

    seq: int
    kind: str
    at_s: float
    data: Mapping[str, Json]

    @property
    def last(self) -> bool:
        """Whether the job has ended with it."""
        return self.kind == "state" and self.data.get("state") in ENDED


class Client:
    """One service, as one user, for one thread at a time. `ca`, or NAS_CA, is a PEM file of the certificate to trust in place
    of the system's."""

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        patience_s: float = PATIENCE_S,
        ca: Path | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = (url or os.environ.get("NAS_SERVER") or DEFAULT_URL).rstrip("/")
        self._patience_s = patience_s
        headers = {"Authorization": f"Bearer {token or token_for(self.url)}", "Accept": "application/json"}
        trusted = ca or os.environ.get("NAS_CA")
        try:
            context: ssl.SSLContext | bool = ssl.create_default_context(cafile=trusted) if trusted else True
            self._http = httpx.Client(
                base_url=self.url, headers=headers, timeout=30.0, verify=context, transport=transport
            )
        except OSError as error:  # of ssl, too
            raise ClientError(f"{trusted}: no certificate can be read from it ({error})", 0, "invalid") from error
        except (httpx.InvalidURL, ValueError) as error:
            raise ClientError(f"{self.url}: not the address of a service ({error})", 0, "invalid") from error

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def submit(
        self,
        spec: Mapping[str, Json] | Path,
        *,
        kind: str = "run",
        overrides: Sequence[str] = (),
        priority: int | None = None,
        key: str | None = None,
    ) -> dict[str, Json]:
        """Ask for a job: a spec, or the YAML file of one or of a whole job, with `train.epochs=2` and the like in it changed.

        Images on this machine are uploaded first: a Parquet file as it is, a folder packed into one.
        """
        document, folder = (dict(spec), Path.cwd()) if isinstance(spec, Mapping) else (read_yaml(spec), spec.parent)
        if "kind" not in document:
            document = {"kind": kind, "job": document}
        if priority is not None:
            document["priority"] = priority
        for text in overrides:
            override(document, text)
        if isinstance(document.get("job"), Mapping):
            document["job"] = self._with_uploads(dict(document["job"]), folder)
        body = json.dumps(document).encode()
        headers = {"Idempotency-Key": key or secrets.token_hex(16), "Content-Type": "application/json"}
        return self._json("POST", "/v1/jobs", content=body, headers=headers)

    def job(self, job_id: str) -> dict[str, Json]:
        """One job."""
        return self._json("GET", f"/v1/jobs/{quote(job_id, safe='')}")

    def jobs(
        self, states: Sequence[str] = (), kinds: Sequence[str] = (), limit: int | None = None
    ) -> Iterator[dict[str, Json]]:
        """Jobs, newest first: all of them, or so many."""
        query: dict[str, Json] = {"state": list(states), "kind": list(kinds), "limit": min(limit or 100, 100)}
        return self._paged("/v1/jobs", "jobs", query, limit)

    def cancel(self, job_id: str) -> dict[str, Json]:
        """End a job."""
        return self._json("POST", f"/v1/jobs/{quote(job_id, safe='')}/cancel")

    def watch(self, job_id: str, after: int = 0) -> Iterator[Event]:
        """What happens to a job, from its first event to its last, over as many connections as that takes."""
        path, trouble = f"/v1/jobs/{quote(job_id, safe='')}/events", Patience(self._patience_s)
        while True:
            headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
            stream = self._http.stream("GET", path, headers=headers, timeout=httpx.Timeout(30.0, read=STREAM_S))
            with self._bearing(trouble), stream as answer:
                if answer.status_code == 204:
                    return
                check(answer)
                for event in _events(answer.iter_lines()):
                    trouble.renew()
                    after = event.seq
                    yield event
                    if event.last:
                        return
                raise ClientError(f"{self.url}: the stream of {job_id} ends again and again")

    def wait(self, job_id: str) -> dict[str, Json]:
        """The job, once it has ended."""
        for _ in self.watch(job_id):
            pass
        return self.job(job_id)

    def artefacts(self, job_id: str) -> list[dict[str, Json]]:
        """The files of a job: {path, sha256, bytes, created_s}."""
        found: list[dict[str, Json]] = self._json("GET", f"/v1/jobs/{quote(job_id, safe='')}/artefacts")["artefacts"]
        return found

    def fetch(self, job_id: str, out: Path, paths: Sequence[str] = ()) -> list[Path]:
        """A job's files, or some of them, into a folder; those that are there already are left as they are.

        Each is compared with its SHA-256 before it gets its name; one that broke off goes on where it was.
        """
        listed = {each["path"]: each for each in self.artefacts(job_id)}
        missing = [path for path in paths if path not in listed]
        if missing:
            raise ClientError(
                f"{job_id} has no file {missing[0]!r}; it has {', '.join(sorted(listed)) or 'none'}", 404, "not_found"
            )
        return [self._fetched(job_id, listed[path], out) for path in paths or sorted(listed)]

    def upload(self, path: Path, kind: str | None = None, name: str | None = None) -> dict[str, Json]:
        """Send a file: .onnx, .safetensors or .parquet."""
        found = kind or UPLOAD_KINDS.get(path.suffix.lower())
        if found is None:
            raise ClientError(f"{path}: wanted a file that ends in {', '.join(UPLOAD_KINDS)}", 422, "invalid")
        query = {"kind": found, "name": (name or path.name)[:200]}
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(_size(path))}

        def send() -> httpx.Response:
            with path.open("rb") as file:
                return self._http.post(
                    "/v1/uploads", params=query, content=_chunks(file), headers=headers, timeout=600.0
                )

        return document_of(self._tried(send))

    def uploads(self, limit: int | None = None) -> Iterator[dict[str, Json]]:
        """One's own uploads, newest first."""
        return self._paged("/v1/uploads", "uploads", {"limit": min(limit or 100, 100)}, limit)

    def devices(self) -> list[dict[str, Json]]:
        """The enrolled machines."""
        found: list[dict[str, Json]] = self._json("GET", "/v1/devices")["devices"]
        return found

    def device(self, name: str) -> dict[str, Json]:
        """One enrolled machine."""
        return self._json("GET", f"/v1/devices/{quote(name, safe='')}")

    def enrol(self, name: str) -> dict[str, Json]:
        """A code with which a machine becomes the device of that name, once and within an hour."""
        return self._json("POST", "/v1/enrolments", json={"name": name})

    def remove_device(self, name: str) -> None:
        """Revoke a machine's enrolment."""
        self._answer("DELETE", f"/v1/devices/{quote(name, safe='')}")

    def me(self) -> dict[str, Json]:
        """Whose token this is, and what it is good for."""
        return self._json("GET", "/v1/me")

    def _json(self, method: str, path: str, **options: Json) -> dict[str, Json]:
        return document_of(self._answer(method, path, **options))

    def _answer(self, method: str, path: str, **options: Json) -> httpx.Response:
        return self._tried(lambda: self._http.request(method, path, **options))

    def _tried(self, ask: Callable[[], httpx.Response]) -> httpx.Response:
        """An answer, asked for again while the service is away or says that it is busy."""
        trouble = Patience(self._patience_s)
        while True:
            with self._bearing(trouble):
                answer = ask()
                check(answer)
                return answer

    @contextmanager
    def _bearing(self, trouble: Patience) -> Iterator[None]:
        """A pause in place of an error after which the same may be asked again."""
        try:
            yield
        except httpx.TransportError as error:
            trouble.wait(ClientError(f"{self.url} cannot be reached ({error}); is `nas serve` running?"))
        except ClientError as error:
            if error.status not in (0, *AGAIN):
                raise
            trouble.wait(error)

    def _paged(self, path: str, name: str, query: Mapping[str, Json], limit: int | None) -> Iterator[dict[str, Json]]:
        count, cursor = 0, None
        while True:
            page = self._json("GET", path, params={**query, **({} if cursor is None else {"before": cursor})})
            for each in page[name]:
                if limit is not None and count >= limit:
                    return
                count += 1
                yield each
            cursor = page["next"]
            if cursor is None:
                return

    def _with_uploads(self, job: dict[str, Json], folder: Path) -> dict[str, Json]:
        """The job with images of this machine replaced by uploads."""
        data = job.get("data")
        if not isinstance(data, Mapping):
            return job
        with TemporaryDirectory(prefix="nas-") as scratch:
            images = local_images(data, folder, Path(scratch))
            sent = {key: f"upload:{self.upload(each.file, name=each.name)['id']}" for key, each in images.items()}
        if not sent:
            return job
        # The upload has another name than the files had, which the job is known by.
        named = {"name": data.get("name") or images["path"].name.removesuffix(".parquet")} if "path" in images else {}
        return {**job, "data": {**data, **named, **sent, "kind": "parquet"}}

    def _fetched(self, job_id: str, artefact: Mapping[str, Json], out: Path) -> Path:
        path, wanted = str(artefact["path"]), str(artefact["sha256"])
        parts = PurePosixPath(path)
        if parts.is_absolute() or ".." in parts.parts:
            raise ClientError(f"{job_id} has a file {path!r}, which would lie outside of {out}; it is not fetched")
        file = out / parts
        if file.is_file() and _sha256(file) == wanted:
            return file
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.name}.{wanted[:12]}.part")
        address, trouble = f"/v1/jobs/{quote(job_id, safe='')}/artefacts/{quote(path)}", Patience(self._patience_s)
        whole = False
        while not whole:
            with self._bearing(trouble):
                self._append(address, wanted, part)
                whole = True
        if _sha256(part) != wanted:
            part.unlink()
            raise ClientError(f"{path} of {job_id} came damaged; fetch it again")
        part.replace(file)
        return file

    def _append(self, address: str, wanted: str, part: Path) -> None:
        """Fetch what a file lacks."""
        have = part.stat().st_size if part.exists() else 0
        headers = {"Range": f"bytes={have}-", "If-Range": f'"{wanted}"'} if have else {}
        with self._http.stream("GET", address, headers={**headers, "Accept": "*/*"}) as answer:
            if answer.status_code == 416:  # all of it is there
                return
            check(answer)
            with part.open("ab" if answer.status_code == 206 else "wb") as file:
                for chunk in answer.iter_bytes(CHUNK_BYTES):
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())


def _events(lines: Iterator[str]) -> Iterator[Event]:
    """The events of a stream, as far as they are whole."""
    fields: dict[str, str] = {}
    for line in lines:
        if line == "":
            if "data" in fields and "id" in fields:
                data = json.loads(fields["data"])
                yield Event(int(fields["id"]), fields.get("event", "message"), data.pop("at_s", 0.0), data)
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise ClientError(f"{path}: cannot be read ({error.strerror})", 422, "invalid") from error


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
