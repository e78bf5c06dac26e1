"""What the API answers with, as pydantic models: they make the schemas of OpenAPI, and keep the answers to them."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from nas.api.refusals import Refusal
from nas.service.artefacts import Artefact
from nas.service.events import Event
from nas.service.jobs import Job
from nas.service.people import Principal, Token
from nas.service.uploads import Upload

Json = dict[str, Any]
State = Literal["QUEUED", "RETRY_WAIT", "RUNNING", "CANCELLING", "SUCCEEDED", "FAILED", "CANCELLED"]
Kind = Literal["train", "profile", "search", "export", "run"]
TokenScope = Literal["jobs", "models", "devices-admin", "metrics"]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

_ID = re.compile(r"[a-z][0-9a-z]{26}")


class JobSummary(BaseModel):
    """A job as lists show it. Times are epoch seconds by the database's clock; `attempts` counts how often a worker took it."""

    id: str
    name: str
    kind: Kind
    state: State
    owner: str
    priority: int
    parent: str | None
    created_s: float
    started_s: float | None
    finished_s: float | None
    queue_position: int | None
    progress: Json | None
    attempts: int

    @classmethod
    def of(cls, job: Job, owner: str, position: int | None) -> JobSummary:
        return cls(**_summary(job, owner, position))


class JobDocument(JobSummary):
    """A job with what was asked for and what came of it."""

    stages: list[Json]
    error: Json | None
    result: Json | None
    spec: Json

    @classmethod
    def of(cls, job: Job, owner: str, position: int | None) -> JobDocument:
        return cls(
            **_summary(job, owner, position),
            stages=[dict(stage) for stage in job.stages or ()],
            error=_plain(job.error),
            result=_plain(job.result),
            spec=dict(job.spec),
        )


class JobPage(BaseModel):
    """Jobs, newest first; `next` is what to give as `before` for the page after it, null on the last."""

    jobs: list[JobSummary]
    next: str | None


class EventDocument(BaseModel):
    """One thing that happened to a job; `seq` counts from 1 without a gap."""

    seq: int
    at_s: float
    kind: str
    data: Json

    @classmethod
    def of(cls, event: Event) -> EventDocument:
        return cls(seq=event.seq, at_s=event.at_s, kind=event.kind, data=dict(event.data))


class EventPage(BaseModel):
    """Events of a job, oldest first; `next` is what to give as `after` for those that follow."""

    events: list[EventDocument]
    next: int


class ArtefactDocument(BaseModel):
    """A file of a job."""

    path: str
    sha256: Sha256
    bytes: int
    created_s: float

    @classmethod
    def of(cls, artefact: Artefact) -> ArtefactDocument:
        return cls(path=artefact.path, sha256=artefact.sha256, bytes=artefact.bytes, created_s=artefact.created_s)


class ArtefactList(BaseModel):
    """All files of a job, by path."""

    artefacts: list[ArtefactDocument]


class UploadDocument(BaseModel):
    """A file that a user has sent, and what was found in it."""

    id: str
    kind: str
    name: str
    sha256: Sha256
    bytes: int
    facts: Json
    created_s: float

    @classmethod
    def of(cls, upload: Upload) -> UploadDocument:
        return cls(**{name: getattr(upload, name) for name in cls.model_fields})


class UploadPage(BaseModel):
    """Uploads, newest first; `next` as for jobs."""

    uploads: list[UploadDocument]
    next: str | None


class TokenDocument(BaseModel):
    """A token without its secret."""

    id: str
    label: str
    scopes: list[str]
    created_s: float
    expires_s: float | None
    revoked_s: float | None
    used_s: float | None

    @classmethod
    def of(cls, token: Token) -> TokenDocument:
        values = {name: getattr(token, name) for name in cls.model_fields}
        return cls(**{**values, "scopes": list(token.scopes)})


class NewToken(TokenDocument):
    """A token and its secret, which is shown this once."""

    secret: str


class TokenList(BaseModel):
    tokens: list[TokenDocument]


class TokenRequest(BaseModel, extra="forbid"):
    """What a new token is to be good for, at most what the one that asks is. Without `lifetime_s` it does not expire."""

    scopes: Annotated[list[TokenScope], Field(min_length=1, max_length=8)]
    label: Annotated[str, Field(max_length=200)] = ""
    lifetime_s: Annotated[float, Field(ge=60, le=3.2e8)] | None = None


class Me(BaseModel):
    """Whose token this is, and what it is good for."""

    name: str
    admin: bool
    scopes: list[str]

    @classmethod
    def of(cls, principal: Principal) -> Me:
        return cls(name=principal.name, admin=principal.admin, scopes=list(principal.scopes))


def cursor_of(row_id: str) -> str:
    """Where a page ended, for `before` of the next one."""
    return base64.urlsafe_b64encode(row_id.encode()).decode().rstrip("=")


def row_id_of(cursor: str | None) -> str | None:
    """The id behind a cursor; a `Refusal` for one that this service did not make."""
    if cursor is None:
        return None
    try:
        found = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except (ValueError, binascii.Error):
        found = ""
    if not _ID.fullmatch(found) or cursor_of(found) != cursor:
        raise Refusal(422, "invalid", "query.before: not a cursor of this service; take `next` of the page before")
    return found


def _summary(job: Job, owner: str, position: int | None) -> Json:
    """What lists and single jobs have in common."""
    same = ("id", "name", "kind", "state", "priority", "parent", "created_s", "started_s", "finished_s")
    values = {name: getattr(job, name) for name in same}
    return {
        **values,
        "owner": owner,
        "queue_position": position,
        "progress": _plain(job.progress),
        "attempts": job.epoch,
    }


def _plain(document: Mapping[str, Any] | None) -> Json | None:
    return None if document is None else dict(document)
