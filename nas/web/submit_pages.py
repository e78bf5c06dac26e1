"""Submitting: /submit, a form beside the YAML that it stands for."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.responses import JSONResponse, RedirectResponse, Response

from nas.api.access import Access
from nas.api.jobs import digest_of
from nas.api.submitting import submit
from nas.errors import JobError
from nas.service.errors import LimitReached, NotFound
from nas.service.people import Principal
from nas.service.specs import SECTIONS, check_spec, read_spec
from nas.web.drafts import NEW, PRIORITY, USUAL, Form, example, new_form, next_form, upload_draft
from nas.web.forms import Draft, fault_places, value_at
from nas.web.rendering import yaml_text
from nas.web.site import Person, Posted, Site

Json = Any

# The YAML is 256 kB at most, which a form's encoding can treble; the fields come with it.
BODY_BYTES = 2**20
MOST_HINTS = 50
LONGEST_ID = 100
Submitter = Annotated[Principal, Depends(Access("page", owner="caller", body_limit_bytes=BODY_BYTES))]
From = Annotated[str, Query(alias="from", max_length=LONGEST_ID)]
Id = Annotated[str, Query(max_length=LONGEST_ID)]


@dataclass(frozen=True, slots=True)
class Shown:
    """What stands on the page: a form, the draft in it, the YAML beside it where that is another, and what is wrong."""

    form: Form | None
    draft: Draft
    faults: Sequence[str] = ()
    yaml: str | None = None
    status: int = 200


@dataclass(frozen=True, slots=True)
class SubmitPages:
    site: Site

    def add_to(self, pages: APIRouter) -> None:
        pages.add_api_route("/submit", self.new, methods=["GET"])
        pages.add_api_route("/submit", self.send, methods=["POST"])
        pages.add_api_route("/submit/preview", self.preview, methods=["POST"])

    def new(self, person: Person, source: From = "", kind: str = "", upload: Id = "") -> Response:
        """A draft to start from: the example, a first job with an upload, or one like or from an earlier job."""
        if upload:
            draft = upload_draft(self.site.services.uploads.get(upload, person.owner))
        elif not source:
            draft = example()
        elif kind in SECTIONS:
            draft = {"kind": kind, "from": source}
        else:
            draft = dict(self.site.services.jobs.get(source, person.owner).spec)
        return self._page(person, Shown(self._form_for(person, draft), draft))

    def send(self, person: Submitter, posted: Posted) -> Response:
        """Submit what the fields or the YAML say, or show what the one makes of the other."""
        action = posted.get("do", "submit")
        if action in ("yaml", "read"):
            return self._send_yaml(person, posted, only_read=action == "read")
        form = self._form_of(person, posted)
        draft, faults = form.draft(posted)
        faults += _refusal(draft)
        if faults or action == "preview":
            return self._page(person, Shown(form, draft, faults, status=422 if faults else 200))
        return self._submitted(person, form, draft, posted.get("key", ""))

    def _send_yaml(self, person: Principal, posted: Mapping[str, str], only_read: bool) -> Response:
        text = posted.get("yaml", "")
        try:
            draft = dict(read_spec(text).document)
        except JobError as error:  # the fields stay as they were, and so does the text
            form = self._form_for(person, posted)
            kept = form.draft(posted)[0] if form is not None else {}
            return self._page(person, Shown(form, kept, [str(error)], text, 422))
        form = self._form_for(person, draft)
        if only_read:
            return self._page(person, Shown(form, draft))
        return self._submitted(person, form, draft, posted.get("key", ""))

    def preview(self, person: Submitter, posted: Posted) -> Response:
        """The YAML that the fields stand for, and what is wrong with them: for the page's script."""
        form = self._form_of(person, posted)
        draft, faults = form.draft(posted)
        placed, others = fault_places([*faults, *_refusal(draft)], (*form.fields, PRIORITY))
        return JSONResponse({"yaml": yaml_text(draft), "faults": placed, "others": others})

    def _submitted(self, person: Principal, form: Form | None, draft: Draft, key: str) -> Response:
        """Pressing the button twice asks once: the page's own key and what is asked for make the key of the submission."""
        digest = digest_of(draft)
        try:
            job, _ = submit(self.site.services, person, check_spec(draft), f"{key[:40]}{digest[:32]}", digest)
        except (JobError, NotFound, LimitReached) as error:
            status = 422 if isinstance(error, JobError) else 429 if isinstance(error, LimitReached) else 404
            return self._page(person, Shown(form, draft, [str(error)], status=status))
        return RedirectResponse(f"/jobs/{job.id}", 303)

    def _form_of(self, person: Principal, posted: Mapping[str, str]) -> Form:
        """The form that was posted."""
        form = self._form_for(person, posted)
        if form is None:
            raise JobError("this form is none of the service; load its page again")
        return form

    def _form_for(self, person: Principal, asked: Mapping[str, Json]) -> Form | None:
        """The form for a `kind` and what it is `from`; None where only the YAML can show it. `NotFound` for another's job."""
        kind, source = asked.get("kind"), str(asked.get("from") or "")[:LONGEST_ID]
        if kind in NEW:
            return new_form(kind)
        if kind not in SECTIONS or not source:
            return None
        services = self.site.services
        job = services.jobs.get(source, person.owner)
        resolved = self.site.records.document(services.artefacts.of(source), "job.json") or {}
        return next_form(kind, source, job.name, resolved.get("job") or job.spec.get("job") or {})

    def _page(self, person: Principal, shown: Shown) -> Response:
        form = shown.form
        fields = (*form.fields, PRIORITY) if form is not None else ()
        # What is wrong with the YAML is said of the YAML, not of a field that says something else.
        placed, others = fault_places(shown.faults, fields if shown.yaml is None else ())
        values = form.values(shown.draft) if form is not None else {}
        values = {**values, "priority": shown.draft.get("priority")}
        texts = {field.path: field.shown(value_at(values, field.path)) for field in fields}
        telling = {field.path for field in fields if texts[field.path] not in ("", field.shown(field.default))}
        return self.site.page(
            "submit.html",
            person,
            "Submit a job" if form is None or not form.source else f"{form.kind.capitalize()} from {form.source_name}",
            "/submit",
            status=shown.status,
            form=form,
            new_kinds=NEW,
            priority=PRIORITY,
            texts=texts,
            first={*USUAL, *placed, *telling},
            placed=placed,
            others=others,
            yaml=yaml_text(shown.draft) if shown.yaml is None else shown.yaml,
            key=secrets.token_urlsafe(16),
            paths=self._paths(person) if form is not None and not form.source else [],
        )

    def _paths(self, person: Principal) -> list[tuple[str, str]]:
        """What `data.path` can be here: the service's data sets, and the Parquet files that the person has uploaded."""
        services = self.site.services
        known = [(f"data:{name}", "of the service") for name in services.settings.datasets]
        uploads = services.uploads.page(person.user_id, limit=MOST_HINTS)
        return known + [(f"upload:{each.id}", each.name) for each in uploads if each.kind == "parquet"]


def _refusal(draft: Draft) -> list[str]:
    try:
        check_spec(draft)
    except JobError as error:
        return [str(error)]
    return []
