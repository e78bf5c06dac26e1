"""A job is asked for, by the API or by the page: checked, what it refers to looked up, and recorded."""

from __future__ import annotations

from nas.api.services import Services
from nas.errors import JobError
from nas.service.jobs import Job, Submission
from nas.service.people import Principal
from nas.service.references import References
from nas.service.schema import new_id
from nas.service.specs import Spec


def submit(
    services: Services, caller: Principal, spec: Spec, key: str | None = None, key_digest: str | None = None
) -> tuple[Job, bool]:
    """The job, and whether it is new. Raises `JobError` and kin, `NotFound`, `Conflict`, `LimitReached`.

    With a `key`, which the caller made up, and the digest of what was asked for, it can be called again.
    """
    references = References(services.jobs, services.artefacts, services.uploads, services.settings.datasets)
    name = references.check(spec, caller.owner)
    _check_agents(services, spec)
    return services.jobs.submit(
        Submission(
            id=new_id("j"),
            owner=caller.user_id or "",
            name=name,
            kind=spec.kind,
            spec=spec.document,
            priority=spec.priority,
            parent=spec.parent,
            key=key,
            key_digest=key_digest if key is not None else None,
        )
    )


def _check_agents(services: Services, spec: Spec) -> None:
    """That the machines which are to measure are enrolled; they need not be online."""
    wanted = [device for device in spec.devices if device.agent]
    enrolled = {each.name for each in services.farm.devices() if not each.revoked} if wanted else set()
    for device in wanted:
        if device.agent not in enrolled:
            raise JobError(
                f"device {device.name}: no machine {device.agent!r} is enrolled; see `nas devices list --server URL`"
            )
