"""/v1/jobs: submit, look at, cancel, follow, and fetch what came of it."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Header, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from nas.api.access import Access
from nas.api.documents import (
    ArtefactDocument,
    ArtefactList,
    EventDocument,
    EventPage,
    JobDocument,
    JobPage,
    JobSummary,
    Json,
    Kind,
    State,
    cursor_of,
    row_id_of,
)
from nas.api.ranges import Download, span_of
from nas.api.refusals import Refusal, documented
from nas.api.services import Services, services_of
from nas.api.submitting import submit as make
from nas.service.artefacts import Artefact
from nas.service.events import EventLog
from nas.service.jobs import Job
from nas.service.people import Principal
from nas.service.specs import MOST_BYTES, check_spec

router = APIRouter(prefix="/v1", tags=["jobs"])

MOST_EVENTS = 1000
EVENTS = "text/event-stream"
BYTES = "application/octet-stream"
MEDIA_TYPES = {
    "json": "application/json",
    "md": "text/markdown; charset=utf-8",
    "py": "text/x-python; charset=utf-8",
}
"""Of files, by how their names end; of all others `BYTES`."""
_SENT = (BYTES, *(kind.partition(";")[0] for kind in MEDIA_TYPES.values()))

Found = Annotated[Services, Depends(services_of)]
Reader = Annotated[Principal, Depends(Access("jobs", owner="job"))]
Key = Annotated[str | None, Header(alias="Idempotency-Key", pattern="^[!-~]{1,200}$")]
After = Annotated[int | None, Query(ge=0, le=2**31 - 1, description="Only events after this number.")]


@router.post(
    "/jobs",
    status_code=201,
    response_model=JobDocument,
    responses={
        200: {"model": JobDocument, "description": "This key has made this job before."},
        **documented(409, 422, 429),
    },
)
def submit(
    services: Found,
    caller: Annotated[Principal, Depends(Access("jobs", owner="caller", body_limit_bytes=MOST_BYTES))],
    document: Annotated[Any, Body()],
    response: Response,
    key: Key = None,
) -> JobDocument:
    """Ask for a job. With an `Idempotency-Key` it can be asked for again without being made twice."""
    job, new = make(services, caller, check_spec(document), key, digest_of(document))
    response.status_code = 201 if new else 200
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return JobDocument.of(job, caller.name, services.jobs.position(job.id))


@router.get("/jobs", responses=documented(422))
def page(
    services: Found,
    caller: Annotated[Principal, Depends(Access("jobs", owner="caller"))],
    state: Annotated[list[State] | None, Query()] = None,
    kind: Annotated[list[Kind] | None, Query()] = None,
    before: Annotated[str | None, Query(max_length=100)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> JobPage:
    """Jobs, newest first: one's own, or everybody's for an admin."""
    jobs = services.jobs.page(caller.owner, tuple(state or ()), tuple(kind or ()), row_id_of(before), limit + 1)
    shown = jobs[:limit]
    positions = services.jobs.positions([job.id for job in shown if not job.ended])
    names = services.people.names() if caller.admin else {caller.user_id: caller.name}
    summaries = [JobSummary.of(job, names.get(job.owner, job.owner), positions.get(job.id)) for job in shown]
    return JobPage(jobs=summaries, next=cursor_of(shown[-1].id) if len(jobs) > limit else None)


@router.get("/jobs/{job_id}", responses=documented(404))
def show(services: Found, caller: Reader, job_id: str, request: Request) -> JobDocument:
    """One job."""
    return _document(services, caller, request.state.owned)


@router.post("/jobs/{job_id}/cancel", responses=documented(404))
def cancel(services: Found, caller: Reader, job_id: str) -> JobDocument:
    """End a job: at once where it waits, within seconds where it runs; one that has ended stays as it is."""
    return _document(services, caller, services.jobs.cancel(job_id, caller.owner))


@router.get(
    "/jobs/{job_id}/events",
    response_model=EventPage,
    responses={
        200: {"content": {EVENTS: {"schema": {"type": "string"}}}, "description": "A page, or a stream of events."},
        204: {"description": "The job has ended, and nothing came after that event."},
        **documented(404),
    },
)
async def follow(
    services: Found,
    caller: Reader,
    job_id: str,
    request: Request,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=MOST_EVENTS)] = 500,
    accept: Annotated[str, Header()] = "application/json",
    last_event_id: Annotated[str | None, Header(pattern="^[0-9]{1,9}$")] = None,
) -> Response:
    """What has happened to a job: a page, or, for who accepts `text/event-stream`, a stream that goes on until the job has
    ended (id: number, event: kind, data: JSON)."""
    known = max(int(last_event_id or 0), after or 0)
    if EVENTS not in accept:
        found = await run_in_threadpool(_event_page, services.events, job_id, known, limit)
        return Response(found.model_dump_json(), media_type="application/json")
    job: Job = request.state.owned
    if job.ended and known >= job.last_seq:
        return Response(status_code=204)  # which tells a browser not to come back
    stream = request.app.state.hub.follow(job_id, known, partial(request.app.state.doorkeeper.still, request))
    return StreamingResponse(stream, media_type=EVENTS, headers={"X-Accel-Buffering": "no"})


@router.get("/jobs/{job_id}/artefacts", responses=documented(404))
def artefacts(
    services: Found, caller: Annotated[Principal, Depends(Access("models", owner="job"))], job_id: str
) -> ArtefactList:
    """The files of a job: as they are now while it runs, and for good once it has ended."""
    found = services.artefacts.of(job_id)
    return ArtefactList(artefacts=[ArtefactDocument.of(found[path]) for path in sorted(found)])


@router.get(
    "/jobs/{job_id}/artefacts/{path:path}",
    response_class=StreamingResponse,
    responses={
        200: {"content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in _SENT}},
        206: {"description": "The part that `Range` asks for."},
        304: {"description": "The file is the one of `If-None-Match`."},
        **documented(404, 416),
    },
)
def fetch(
    services: Found,
    caller: Annotated[Principal, Depends(Access("models", owner="job"))],
    job_id: str,
    path: Annotated[str, Path(max_length=400)],
    request: Request,
) -> Response:
    """One file. Its `ETag` is its SHA-256; a download that broke off goes on with `Range`."""
    artefact = services.artefacts.of(job_id).get(path)
    if artefact is None:
        raise Refusal(404, "not_found", f"{job_id} has no file {path[:200]!r}")
    return file_response(services, artefact, request)


def file_response(services: Services, artefact: Artefact, request: Request, **headers: str) -> Response:
    """A file of a job, or the part of it that is asked for; as a download, unless `headers` say otherwise."""
    etag = f'"{artefact.sha256}"'
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers={"ETag": etag})
    span = span_of(request.headers, artefact.bytes, etag)
    name = artefact.path.rpartition("/")[2]
    given = {
        "Accept-Ranges": "bytes",
        "Content-Disposition": f'attachment; filename="{name.encode("ascii", "replace").decode().translate(_QUOTED)}"',
        "Content-Length": str(span.stop - span.start),
        "ETag": etag,
        **({"Content-Range": f"bytes {span.start}-{span.stop - 1}/{artefact.bytes}"} if span.partial else {}),
        **headers,
    }
    media_type = given.pop("Content-Type", MEDIA_TYPES.get(artefact.path.rpartition(".")[2], BYTES))
    return Download(services.blobs.open(artefact.sha256), span, given, media_type)


_QUOTED = str.maketrans({'"': "_", "\\": "_", "?": "_"})


def digest_of(document: Json) -> str:
    """Of the canonical JSON, so that the order of keys and blanks do not matter."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _document(services: Services, caller: Principal, job: Job) -> JobDocument:
    owner = caller.name if job.owner == caller.user_id else services.people.names().get(job.owner, job.owner)
    return JobDocument.of(job, owner, None if job.ended else services.jobs.position(job.id))


def _event_page(events: EventLog, job_id: str, after: int, limit: int) -> EventPage:
    found = events.since(job_id, after, limit)
    return EventPage(events=[EventDocument.of(event) for event in found], next=found[-1].seq if found else after)
