"""Machines that measure: /devices, /devices/{name}, and making one an enrolled machine."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from nas.api.access import Access
from nas.plots import Plot, agreement, axis, dots, line, plot
from nas.service.errors import ServiceError
from nas.service.farm import Enrolled
from nas.service.people import Principal
from nas.tables import hover_lines, interval, latency_lines, predictor_facts, significant
from nas.web.site import FORM_BYTES, Person, Posted, Site

Json = Any

ENROLLERS = "devices-admin"
WORKERS = "-"
"""In addresses: the machines that workers run on, which measure what names no agent. No machine can be called so."""
PROFILING = ("run", "profile", "search")
MOST_PROFILES = 100
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
class Profile:
    """What the profile stage of a job found of one device."""

    job_id: str
    found: dict[str, Json]

    @property
    def agent(self) -> str:
        return self.found["device"].get("agent") or WORKERS


@dataclass(frozen=True, slots=True)
class DevicePages:
    site: Site

    def add_to(self, pages: APIRouter) -> None:
        pages.add_api_route("/devices", self.all, methods=["GET"])
        pages.add_api_route("/devices/enrol", self.enrol, methods=["POST"])
        pages.add_api_route("/devices/{name}", self.one, methods=["GET"])

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

    def one(self, name: str, person: Person) -> Response:
        """One machine: how steady it is, and how well its latencies are predicted."""
        machine = None if name == WORKERS else self.site.services.farm.device(name)
        mine = [profile for profile in self._profiles(person) if profile.agent == name]
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
            facts=_fingerprint(machine) if machine is not None else {},
            profiles=views,
            plots=plots,
        )

    def _list(self, person: Principal, status: int = 200, **enrolling: Json) -> Response:
        """The machines with the last that is known of each; `enrolling` is what the form for a new one says."""
        profiles: dict[str, list[Profile]] = {}
        for profile in self._profiles(person):
            profiles.setdefault(profile.agent, []).append(profile)
        machines = self.site.services.farm.devices()
        return self.site.page(
            "devices.html",
            person,
            "Devices",
            "/devices",
            status,
            machines=[
                {"machine": each, "facts": _fingerprint(each), "profiles": _latest(profiles.get(each.name, ()))}
                for each in machines
            ],
            workers=_latest(profiles.get(WORKERS, ())),
            enroller=ENROLLERS in person.scopes,
            enrolling={"name": "", "command": "", "expires_s": None, "fault": "", **enrolling},
        )

    def _profiles(self, person: Principal) -> list[Profile]:
        """What the person's jobs have profiled, newest first. A job that goes on from another has its profile as well: it
        counts as that of the first."""
        services = self.site.services
        first: dict[str, tuple[str, dict[str, Json]]] = {}
        for job_id in self.site.records.jobs_with("profile.json", person.owner, PROFILING, "", MOST_PROFILES):
            files = services.artefacts.of(job_id)
            document = self.site.records.document(files, "profile.json")
            if document is not None:
                first[files["profile.json"].sha256] = (job_id, document)
        ordered = sorted(first.values(), key=lambda each: each[0], reverse=True)
        return [Profile(job_id, device) for job_id, document in ordered for device in document.get("devices", ())]


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
