"""All pages under /, as one router. Read nas/web/site.py for what they share, then the module of each."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response

from nas.api.access import PUBLIC, Access
from nas.api.refusals import Refusal
from nas.api.services import Services
from nas.service.people import Principal
from nas.web.assets import Assets
from nas.web.device_pages import DevicePages
from nas.web.job_pages import JobPages
from nas.web.login_pages import LoginPages
from nas.web.optuna_pages import OptunaPages
from nas.web.records import Records
from nas.web.rendering import Templates
from nas.web.site import Person, Site
from nas.web.submit_pages import SubmitPages
from nas.web.supernet_pages import SupernetPages
from nas.web.token_pages import TokenPages
from nas.web.upload_pages import UploadPages

PARTS = (LoginPages, JobPages, SubmitPages, UploadPages, SupernetPages, DevicePages, TokenPages, OptunaPages)
FOR_GOOD = {"Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding"}


def site_of(services: Services) -> Site:
    """What the pages of these services are made with."""
    assets = Assets()
    return Site(services, assets, Templates(assets), Records(services.db, services.blobs))


def router(site: Site) -> APIRouter:
    """The pages; their app must have a doorkeeper, as nas.api.app gives it."""
    assets = site.assets
    pages = APIRouter(include_in_schema=False)

    @pages.get("/")
    def home(person: Person) -> Response:
        return RedirectResponse("/jobs", 303)

    @pages.get("/static/{file}")
    def static(file: str, request: Request, anybody: Annotated[Principal, Depends(Access(PUBLIC))]) -> Response:
        asset = assets.find(file)
        if asset is None:
            raise Refusal(404, "not_found", "there is no such file")
        if "gzip" in request.headers.get("accept-encoding", ""):
            packed = assets.packed(asset)
            return Response(packed, media_type=asset.media_type, headers={**FOR_GOOD, "Content-Encoding": "gzip"})
        return Response(asset.body, media_type=asset.media_type, headers=FOR_GOOD)

    for part in PARTS:
        part(site).add_to(pages)
    return pages
