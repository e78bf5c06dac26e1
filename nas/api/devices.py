"""/v1/devices and /v1/enrolments: the enrolled machines, and codes for new ones."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, Field

from nas.api.access import Access
from nas.api.refusals import documented
from nas.api.services import Services, services_of
from nas.service.farm import LONGEST_NAME, Enrolled
from nas.service.people import Principal
from nas.service.profiles import profiles_of, read_profile

router = APIRouter(prefix="/v1", tags=["devices"])

Json = dict[str, Any]
Found = Annotated[Services, Depends(services_of)]
Reader = Annotated[Principal, Depends(Access("jobs"))]
Name = Annotated[str, Path(max_length=200)]


FEW = 3
"""Jobs whose profiles stand in a list; a single machine has more."""


class CanaryDocument(BaseModel):
    """How fast the fixed small network was while the machine measured under these settings."""

    at_s: float
    settings: str
    reference_us: float
    task: str


class DeviceSummary(BaseModel):
    """An enrolled machine as lists show it. Times are epoch seconds by the database's clock."""

    name: str
    online: bool
    revoked: bool
    created_s: float
    seen_s: float | None
    fingerprint: Json
    versions: dict[str, str]
    queued: int
    running: int
    canary: CanaryDocument | None
    profiles: list[Json]

    @classmethod
    def of(cls, enrolled: Enrolled, profiles: list[Json]) -> DeviceSummary:
        return cls(**_summary(enrolled, profiles))


class DeviceDocument(DeviceSummary):
    """An enrolled machine with what it offers, and its canary over time."""

    offers: Json
    canaries: list[CanaryDocument]

    @classmethod
    def of(cls, enrolled: Enrolled, profiles: list[Json]) -> DeviceDocument:
        document = enrolled.to_json()
        return cls(**_summary(enrolled, profiles), offers=document["offers"], canaries=document["canaries"])


class DeviceList(BaseModel):
    devices: list[DeviceSummary]


class EnrolmentRequest(BaseModel, extra="forbid"):
    """The name that a machine is to have."""

    name: Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]


class EnrolmentDocument(BaseModel):
    """A code with which one machine can enrol, once. It is shown this once."""

    name: str
    code: str
    expires_s: float


@router.get("/devices")
def devices(services: Found, caller: Reader) -> DeviceList:
    """The enrolled machines, by name."""
    found = services.farm.devices()
    return DeviceList(
        devices=[DeviceSummary.of(each, _profiles(services, each.name, caller.owner, FEW)) for each in found]
    )


@router.get("/devices/{name}", responses=documented(404))
def device(services: Found, caller: Reader, name: Name) -> DeviceDocument:
    """One machine, also a removed one."""
    found = services.farm.device(name)
    return DeviceDocument.of(found, _profiles(services, name, caller.owner))


@router.post("/enrolments", status_code=201, responses=documented(400, 422))
def enrolment(
    services: Found,
    caller: Annotated[Principal, Depends(Access("devices-admin", body_limit_bytes=4096))],
    wanted: EnrolmentRequest,
) -> EnrolmentDocument:
    """A code for one machine, good for an hour: `nas agent --server URL --enrol CODE` there."""
    assert caller.user_id is not None  # no machine has this scope
    code, expires_s = services.farm.enrolment(wanted.name, caller.user_id)
    return EnrolmentDocument(name=wanted.name, code=code, expires_s=expires_s)


@router.delete("/devices/{name}", status_code=204, responses=documented(404))
def remove(services: Found, caller: Annotated[Principal, Depends(Access("devices-admin"))], name: Name) -> None:
    """Remove a machine: its token ends at once, and its open tasks fail."""
    services.farm.revoke(name)


def _profiles(services: Services, name: str, owner: str | None, most: int = 20) -> list[Json]:
    """What an owner's jobs have profiled there, newest first."""
    found = profiles_of(services.db, partial(read_profile, services.artefacts), name, owner, most)
    return [each.to_json() for each in found]


def _summary(enrolled: Enrolled, profiles: list[Json]) -> Json:
    document = enrolled.to_json()
    canaries = document["canaries"]
    same = set(DeviceSummary.model_fields) - {"canary", "profiles"}
    return {
        **{name: document[name] for name in same},
        "canary": canaries[-1] if canaries else None,
        "profiles": profiles,
    }
