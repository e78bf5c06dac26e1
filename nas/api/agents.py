"""/v1/agent: what enrolled machines ask. `nas/agent/wire.py` has what is said, `nas/service/tasks.py` what it means."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from nas.agent.errors import AgentError
from nas.agent.reading import read_id, read_json, read_list, read_name, read_number, read_object, read_whole
from nas.agent.wire import About, check_wire
from nas.api.access import AGENT, PUBLIC, Access
from nas.api.ranges import Download, span_of
from nas.api.refusals import Refusal, documented
from nas.api.services import Services, services_of
from nas.service.people import Principal
from nas.service.tasks import TaskLost

Json = Any

router = APIRouter(prefix="/v1/agent", tags=["agents"])

SMALL_BYTES = 1 << 20
ROUNDS_BYTES = 32 << 20
RESULT_BYTES = 128 << 20
LONGEST_WAIT_S = 60.0
MOST_ROUNDS = 1000
LOOK_S = 0.5
"""Between two looks for tasks, of all waiting machines together."""


async def body_of(request: Request) -> bytes:
    """Dependency: the body as it came, to be read in the thread that answers."""
    return await request.body()


def machine_of(caller: Principal) -> str:
    assert caller.device is not None  # `Access(AGENT)` has seen to it
    return caller.device


Found = Annotated[Services, Depends(services_of)]
Body = Annotated[bytes, Depends(body_of)]
Small = Annotated[Principal, Depends(Access(AGENT, owner="agent", body_limit_bytes=SMALL_BYTES))]
TaskId = Annotated[str, Path(pattern="^[0-9a-z]{1,64}$")]
JSON_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}}


@router.post("/enrol", status_code=201, openapi_extra=JSON_BODY, responses=documented(404, 422) | {426: {}})
def enrol(
    services: Found,
    caller: Annotated[Principal, Depends(Access(PUBLIC, body_limit_bytes=SMALL_BYTES))],
    body: Body,
) -> dict[str, str]:
    """Become a machine of the service: {wire, code, nonce, about} -> {name, token}."""
    with understood():
        found = _spoken(body, "code", "nonce", "about")
        code, nonce = read_name("code", found["code"]), read_name("nonce", found["nonce"])
        name, token = services.farm.enrol(code, nonce, About.from_json(found["about"]))
    return {"name": name, "token": token}


@router.post("/hello", openapi_extra=JSON_BODY, responses=documented(422) | {426: {}})
def hello(services: Found, caller: Small, body: Body) -> dict[str, str]:
    """An agent has started: {wire, about} -> {name}."""
    with understood():
        services.farm.hello(machine_of(caller), About.from_json(_spoken(body, "about")["about"]))
    return {"name": machine_of(caller)}


@router.post("/poll", openapi_extra=JSON_BODY, responses=documented(422) | {426: {}}, response_model=dict[str, Json])
async def poll(services: Found, caller: Small, body: Body, request: Request) -> Response:
    """Wait for a task: {wire, poll, wait_s} -> {task}, null where none came in time. The same `poll` gets the same task."""
    with understood():
        found = _spoken(body, "poll", "wait_s")
        asked, wait_s = read_id(found["poll"]), read_number("wait_s", found["wait_s"])
    name, until = machine_of(caller), time.monotonic() + min(wait_s, LONGEST_WAIT_S)
    answer = await run_in_threadpool(_claimed, services, name, asked)
    bell = bell_of(request)
    while answer is None and time.monotonic() < until and not services.closing.is_set():
        await asyncio.sleep(LOOK_S)
        if await request.is_disconnected():  # a task that is given to nobody waits for its lease to end
            break
        if name in await bell.machines():
            answer = await run_in_threadpool(_claimed, services, name, asked)
    return Response(answer or b'{"task":null}', media_type="application/json")


@router.get(
    "/models/{sha256}",
    response_class=StreamingResponse,
    responses={206: {"description": "The part that `Range` asks for."}, **documented(404, 416)},
)
def model(
    services: Found,
    caller: Annotated[Principal, Depends(Access(AGENT, owner="agent"))],
    sha256: Annotated[str, Path(pattern="^[0-9a-f]{64}$")],
    request: Request,
) -> Response:
    """A model that a task names which the machine has in hand, or a range of it."""
    size_bytes = services.farm.tasks.model_bytes(machine_of(caller), sha256)
    if size_bytes is None:
        raise Refusal(404, "not_found", "no task of this machine names this model")
    span = span_of(request.headers, size_bytes, f'"{sha256}"')
    headers = {"Accept-Ranges": "bytes", "Content-Length": str(span.stop - span.start), "ETag": f'"{sha256}"'}
    if span.partial:
        headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{size_bytes}"
    return Download(services.blobs.open(sha256), span, headers, "application/octet-stream")


@router.post("/tasks/{task_id}/rounds", openapi_extra=JSON_BODY, responses=documented(404, 409, 422))
def rounds(
    services: Found,
    caller: Annotated[Principal, Depends(Access(AGENT, owner="agent", body_limit_bytes=ROUNDS_BYTES))],
    task_id: TaskId,
    body: Body,
) -> dict[str, int]:
    """Rounds as they come, or none as a sign of life: {epoch, rounds} -> {acknowledged}, the last one that is recorded."""
    with understood():
        found = read_object("rounds", read_json(body), ("epoch", "rounds"))
        epoch = read_whole("epoch", found["epoch"], 1, 2**31 - 1)
        given = read_list("rounds", found["rounds"], MOST_ROUNDS)
        return {"acknowledged": services.farm.tasks.append(machine_of(caller), task_id, epoch, given)}


@router.post("/tasks/{task_id}/result", openapi_extra=JSON_BODY, responses=documented(404, 409, 422))
def result(
    services: Found,
    caller: Annotated[Principal, Depends(Access(AGENT, owner="agent", body_limit_bytes=RESULT_BYTES))],
    task_id: TaskId,
    body: Body,
) -> dict[str, bool]:
    """What a task ended with: {epoch, measured} or {epoch, error} -> {recorded}. The same again gets the same answer."""
    with understood():
        outcome = read_json(body)
        epoch = read_whole("epoch", outcome.pop("epoch", None) if isinstance(outcome, dict) else None, 1, 2**31 - 1)
        services.farm.tasks.finish(machine_of(caller), task_id, epoch, outcome)
    return {"recorded": True}


@contextmanager
def understood() -> Iterator[None]:
    """What cannot be understood, or is no longer the machine's, as refusals that an agent knows."""
    try:
        yield
    except TaskLost as error:
        raise Refusal(409, "stale", str(error)) from error
    except AgentError as error:
        raise Refusal(422, "invalid", str(error)) from error


class Bell:
    """Tells which machines there are tasks for; however many wait, the database is asked once every `LOOK_S`."""

    def __init__(self, claimable: Callable[[], frozenset[str]]) -> None:
        self._claimable = claimable
        self._lock = asyncio.Lock()
        self._names: frozenset[str] = frozenset()
        self._asked_s = -LOOK_S

    async def machines(self) -> frozenset[str]:
        async with self._lock:
            if time.monotonic() - self._asked_s >= LOOK_S:
                self._names = await run_in_threadpool(self._claimable)
                self._asked_s = time.monotonic()
            return self._names


def bell_of(request: Request) -> Bell:
    """The one bell of the app."""
    state = request.app.state
    if not hasattr(state, "bell"):
        state.bell = Bell(state.services.farm.tasks.claimable)
    bell: Bell = state.bell
    return bell


def _spoken(body: bytes, *names: str) -> dict[str, Json]:
    """The fields of a request in a version that we understand."""
    document = read_json(body)
    try:
        check_wire(document)
    except AgentError as error:
        raise Refusal(426, "version", str(error)) from error
    return read_object("request", document, ("wire", *names))


def _claimed(services: Services, name: str, poll: str) -> bytes | None:
    """The answer with a task, as it is sent."""
    task = services.farm.tasks.claim(name, poll)
    return None if task is None else json.dumps({"task": task.to_json()}, separators=(",", ":")).encode()
