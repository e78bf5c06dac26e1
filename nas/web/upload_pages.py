"""Files that people have sent: /uploads, with what was found in each, the jobs that name it, and forgetting one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import RedirectResponse, Response

from nas.api.access import Access
from nas.service.people import Principal
from nas.service.uploads import KINDS, Upload
from nas.web.records import Naming
from nas.web.site import FORM_BYTES, Person, Site

Json = Any

ON_A_PAGE = 30
COUNTED: Mapping[str, tuple[str, ...]] = {
    "onnx": ("nodes", "parameters"),
    "parquet": ("rows", "classes"),
    "safetensors": ("tensors", "parameters"),
}
"""Of what the inspection of each kind found, the numbers that people look for."""
USES = {"onnx": "Measure it", "parquet": "Train on it"}
"""What a job can do with a file of a kind; /submit starts with such a job."""
Forgetter = Annotated[Principal, Depends(Access("page", owner="upload", body_limit_bytes=FORM_BYTES))]


@dataclass(frozen=True, slots=True)
class UploadPages:
    site: Site

    def add_to(self, pages: APIRouter) -> None:
        pages.add_api_route("/uploads", self.all, methods=["GET"])
        pages.add_api_route("/uploads/{upload_id}/delete", self.forget, methods=["POST"])

    def all(self, person: Person, before: str = "") -> Response:
        """The uploads of a person, or of everybody for an admin, newest first."""
        services = self.site.services
        found = services.uploads.page(person.owner, before or None, ON_A_PAGE + 1)
        shown = found[:ON_A_PAGE]
        naming = self.site.records.jobs_naming([each.id for each in shown], person.owner)
        names = services.people.names() if person.admin else {}
        return self.site.page(
            "uploads.html",
            person,
            "Uploads",
            "/uploads",
            uploads=[_view(each, naming[each.id], names.get(each.owner, "")) for each in shown],
            everybody=person.admin,
            kinds=KINDS,
            limit_bytes=services.settings.upload_limit_bytes,
            before=before,
            older=f"/uploads?before={shown[-1].id}" if len(found) > ON_A_PAGE else "",
        )

    def forget(self, upload_id: str, person: Forgetter) -> Response:
        """`Conflict` where a job that has not ended names it."""
        self.site.services.uploads.delete(upload_id, person.owner)
        return RedirectResponse("/uploads", 303)


def _view(upload: Upload, jobs: list[Naming], owner: str) -> dict[str, Json]:
    facts = upload.facts
    counts = [f"{facts[name]:,} {name}" for name in COUNTED[upload.kind] if isinstance(facts.get(name), int)]
    return {
        "id": upload.id,
        "name": upload.name,
        "kind": upload.kind,
        "owner": owner,
        "bytes": upload.bytes,
        "sha256": upload.sha256,
        "created_s": upload.created_s,
        "counts": counts,
        "inputs": [f"{each['name']}: {_shape(each['shape'])}" for each in facts.get("inputs", ())],
        "jobs": jobs,
        "needed": any(not job.ended for job in jobs),
        "use": USES.get(upload.kind, ""),
    }


def _shape(extents: list[Json]) -> str:
    """224 x 224, with a question mark for what the file leaves open."""
    return " × ".join("?" if extent is None else str(extent) for extent in extents) or "one number"
