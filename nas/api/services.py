"""All that answers need, made once and handed to the app."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastapi import Request

from nas.database import Database
from nas.service.artefacts import Artefacts
from nas.service.blobs import Blobs
from nas.service.events import EventLog
from nas.service.farm import Farm
from nas.service.jobs import JobStore
from nas.service.people import People
from nas.service.settings import Settings
from nas.service.uploads import Uploads

if TYPE_CHECKING:
    from collections.abc import Sequence

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
# Of the API's own transactions: a client that waits longer than this had better ask again.
DATABASE_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Front:
    """How the service is reached: the host names that it answers to, and whether browsers come by TLS."""

    hosts: Sequence[str] = LOOPBACK
    tls: bool = False


@dataclass(frozen=True, slots=True)
class Services:
    """The stores of one service. `closing` is set when the server ends: whoever waits for long looks at it."""

    settings: Settings
    front: Front
    db: Database
    jobs: JobStore
    events: EventLog
    blobs: Blobs
    artefacts: Artefacts
    uploads: Uploads
    people: People
    farm: Farm
    closing: threading.Event = field(default_factory=threading.Event)


def open_services(settings: Settings, front: Front | None = None) -> Services:
    """The services of a database that has been upgraded."""
    db, blobs = Database(settings.database_url, DATABASE_WAIT_S), Blobs(settings.blobs_url)
    return Services(
        settings=settings,
        front=front or Front(),
        db=db,
        jobs=JobStore(db),
        events=EventLog(db),
        blobs=blobs,
        artefacts=Artefacts(db, blobs),
        uploads=Uploads(db, blobs),
        people=People(db),
        farm=Farm(db),
    )


async def services_of(request: Request) -> Services:
    """Dependency: the services of the app that answers. Not a plain function: those cost a thread each."""
    services: Services = request.app.state.services
    return services
