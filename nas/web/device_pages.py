"""Machines that measure: /devices, /devices/{name}, enrolling one and removing it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response

from nas.api.access import Access
from nas.plots import Plot, agreement, axis, dots, line, plot
from nas.service.errors import ServiceError
from nas.service.farm import Enrolled
from nas.service.people import Principal
from nas.service.profiles import PROFILE, Profile, profiles_of
from nas.tables import hover_lines, interval, latency_lines, predictor_facts, significant
from nas.web.site import FORM_BYTES, Person, Posted, Site

Json = Any

ENROLLERS = "devices-admin"
WORKERS = "-"
"""In addresses: the machines that workers run on, which measure what names no agent. No machine can be called so."""
MOST_PROFILES = 50
"""Jobs of which a machine shows what they profiled."""
FACTS = {
    "cpu": "Processor",
    "machine": "Architecture",
    "cores": "Cores",
    "memory_gib": "Memory (GiB)",
    "os": "System",
    "onnxruntime": "ONNX Runtime",
    "governor": "Governor",
    "providers": "Providers",
}
"""Of a fingerprint, in words; the digest of its flags says nothing to anybody."""
Enroller = Annotated[Principal, Depends(Access(ENROLLERS, body_limit_bytes=FORM_BYTES))]


@dataclass(frozen=True, slots=True)
class DevicePages:
    site: Site

    def add_to(self, pages: APIRouter) -> None:
        pages.add_api_route("/devices", self.all, methods=["GET"])
        pages.add_api_route("/devices/enrol", self.enrol, methods=["POST"])
        pages.add_api_route("/devices/{name}", self.one, methods=["GET"])
        pages.add_api_route("/devices/{name}/remove", self.remove, methods=["POST"])

    def all(self, person: Person) -> Response:
        return self._list(person)

    def enrol(self, request: Request, person: Enroller, form: Posted) -> Response:
        """A code for a new machine, shown this once with the command that uses it."""
        name = form.get("name", "").strip()
        try:
            code, expires_s = self.site.services.farm.enrolment(name, person.user_id or "")
        except ServiceError as error:
            return self._list(person, status=400, name=name, fault=str(error))
        server = str(request.base_url).rstrip("/")
        command = f"nas agent --server {server} --enrol {code} --dir nas-agent"
        return self._list(person, name=name, command=command, expires_s=expires_s)

    def remove(self, name: str, person: Enroller) -> Response:
        self.site.services.farm.revoke(name)
        return RedirectResponse("/devices", 303)

    def one(self, name: str, person: Person) -> Response:
        """One machine: how steady it is, and how well its latencies are predicted."""
        machine = None if name == WORKERS else self.site.services.farm.device(name)
        mine = self._profiles(person, machine)
        plots: dict[str, Plot] = {}
        if machine is not None and len(machine.canaries) > 1:
            plots["canary"] = _canary_plot(machine)
        views = []
        for index, profile in enumerate(mine):
            target = f"trust-{index}"
            if profile.found["predictor"].get("held_out"):
                plots[target] = _trust_plot(profile.found["predictor"]["held_out"])
            views.append({**_profile_view(profile), "plot": target if target in plots else ""})
        return self.site.page(
            "device.html",
            person,
            name if machine is not None else "The workers' machines",
            "/devices",
            machine=machine,
            removable=machine is not None and not machine.revoked and ENROLLERS in person.scopes,
            facts=_fingerprint(machine) if machine is not None else {},
            profiles=views,
            plots=plots,
        )

    def _list(self, person: Principal, status: int = 200, **enrolling: Json) -> Response:
        """The machines with the last that is known of each; `enrolling` is what the form for a new one says."""
        machines = self.site.services.farm.devices()
        return self.site.page(
            "devices.html",
            person,
            "Devices",
            "/devices",
            status,
            machines=[
                {"machine": each, "facts": _fingerprint(each), "profiles": _latest(self._profiles(person, each))}
                for each in machines
            ],
            workers=_latest(self._profiles(person, None)),
            enroller=ENROLLERS in person.scopes,
            enrolling={"name": "", "command": "", "expires_s": None, "fault": "", **enrolling},
        )

    def _profiles(self, person: Principal, machine: Enrolled | None) -> list[Profile]:
        """What the person's jobs have profiled there, newest first."""
        services, records = self.site.services, self.site.records

        def document(job_id: str) -> dict[str, Json] | None:
            with suppress(ServiceError):  # a damaged file
                return records.document(services.artefacts.of(job_id), PROFILE)
            return None

        name = None if machine is None else machine.name
        return profiles_of(services.db, document, name, person.owner, MOST_PROFILES)


def _latest(profiles: Sequence[Profile]) -> list[dict[str, Json]]:
    """The newest profile of each device, by name, with how many there are."""
    found: dict[str, dict[str, Json]] = {}
    for profile in profiles:
        view = found.setdefault(profile.found["name"], {**_profile_view(profile), "tables": 0})
        view["tables"] += 1
    return [found[name] for name in sorted(found)]


def _profile_view(profile: Profile) -> dict[str, Json]:
    predictor = profile.found["predictor"]
    return {
        "job_id": profile.job_id,
        "job_name": profile.job_name,
        "name": profile.found["name"],
        "settings": profile.found["id"],
        "predictor": predictor,
        "facts": predictor_facts(predictor, "Inside their interval"),
        "errors": sorted(predictor.get("errors", {}).items(), key=lambda item: float(item[1])),
    }


def _fingerprint(machine: Enrolled) -> dict[str, Json]:
    """What identifies the machine, without what is empty."""
    found = asdict(machine.fingerprint)
    known = {words: found[name] for name, words in FACTS.items() if found[name]}
    return {**known, **{f"Version of {name}": text for name, text in machine.versions.items() if name != "onnxruntime"}}


def _trust_plot(held_out: Sequence[dict[str, Json]]) -> Plot:
    points = [(one["measured_ms"], one["predicted_ms"]) for one in held_out]
    named = [
        {
            "latency_ms_predicted": one["predicted_ms"],
            "latency_ms_measured": one["measured_ms"],
            "latency_ms_low": one.get("low_ms"),
            "latency_ms_high": one.get("high_ms"),
        }
        for one in held_out
    ]
    hover = [hover_lines(one["arch_id"], *latency_lines(each)) for one, each in zip(held_out, named, strict=True)]
    bars = [
        point
        for one, each in zip(held_out, named, strict=True)
        if interval(each) != "–"
        for point in ((one["measured_ms"], one["low_ms"]), (one["measured_ms"], one["high_ms"]), (None, None))
    ]
    data = (line("Interval", bars, [], "@cloud", 2), dots("Held out", points, hover, "@front"))
    return agreement(data, "Measured latency (ms)", "Predicted latency (ms)")


def _canary_plot(machine: Enrolled) -> Plot:
    """The fixed network's time whenever the machine measured, a line for each of its settings."""
    traces = []
    for index, settings in enumerate(dict.fromkeys(each.settings for each in machine.canaries)):
        mine = [each for each in machine.canaries if each.settings == settings]
        hover = [hover_lines(settings, f"{significant(each.reference_us)} µs") for each in mine]
        points = [(1000 * each.at_s, each.reference_us) for each in mine]
        # Plotly takes markup in names, and knows no entity for a quote.
        name = html.escape(settings, quote=False)
        traces.append(line(name, points, hover, f"@device-{index % 6}") | {"mode": "lines+markers"})
    values = [each.reference_us for each in machine.canaries]
    return plot(traces, axis("When") | {"type": "date"}, axis("Canary (µs)", values, log=False))
