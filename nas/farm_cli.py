"""`nas devices` of a service: its enrolled machines, listed, shown, enrolled and removed."""

from __future__ import annotations

import json
import time
from typing import Any

from nas.jobs_cli import connected

Json = Any


def print_machines(server: str | None, as_json: bool) -> None:
    """One line a machine."""
    from nas.service_cli import print_table

    with connected(server) as client:
        found = client.devices()
    if as_json:
        print(json.dumps(found))
        return
    titles = ["name", "online", "processor", "onnxruntime", "queue", "canary", "tables", "predictor error"]
    print_table(titles, [_row(each) for each in found])


def print_machine(name: str, server: str | None, as_json: bool) -> None:
    """All that is known of one."""
    with connected(server) as client:
        found = client.device(name)
    if as_json:
        print(json.dumps(found))
        return
    about = found["fingerprint"]
    print(f"{found['name']}: {_presence(found)}, {_queue(found)}")
    print(f"  {about['cpu']}, {about['cores']} cores, {about['memory_gib']} GiB, {about['os']}")
    print(
        "  " + ", ".join(f"{name} {value}" for name, value in found["versions"].items()) + f", {about['onnxruntime']}"
    )
    print("  offers " + ", ".join(each["name"] for each in found["offers"]["devices"]))
    print("  tells latency" + "".join(f", {need}" for need in found["offers"]["needs"]))
    for reason in found["offers"]["refused"]:
        print(f"  not there: {reason}")
    for each in found["canaries"][-5:]:
        print(f"  canary {each['reference_us']:.1f} us under {each['settings']}, {_when(each['at_s'])}")
    for each in found["profiles"]:
        print(
            f"  table of {each['device']} in job {each['job']} ({each['job_name']}): {_error(each)} off on held-out networks"
        )


def print_enrolment(name: str, server: str | None, as_json: bool) -> None:
    """A new code, and what to do with it."""
    with connected(server) as client:
        found = client.enrol(name)
        url = client.url
    if as_json:
        print(json.dumps({**found, "server": url}))
        return
    print(f"code: {found['code']}\ngood once, until {_when(found['expires_s'])}; on the machine:")
    print(f"  pip install 'hwnas[agent]'\n  nas agent --server {url} --enrol {found['code']}")


def remove_machine(name: str, server: str | None) -> None:
    with connected(server) as client:
        client.remove_device(name)
    print(f"{name} is removed")


def _row(found: Json) -> list[str]:
    about, canary, profiles = found["fingerprint"], found["canary"], found["profiles"]
    return [
        found["name"],
        _presence(found),
        about["cpu"],
        about["onnxruntime"],
        _queue(found),
        "" if canary is None else f"{canary['reference_us']:.1f} us ({canary['settings']})",
        ", ".join(dict.fromkeys(each["device"] for each in profiles)),
        _error(profiles[0]) if profiles else "",
    ]


def _presence(found: Json) -> str:
    if found["revoked"]:
        return "removed"
    if found["online"]:
        return "online"
    return "never seen" if found["seen_s"] is None else f"since {_when(found['seen_s'])} offline"


def _queue(found: Json) -> str:
    return f"{found['queued']} waiting" + (", measuring" if found["running"] else "")


def _error(profile: Json) -> str:
    return f"{100 * profile['predictor']['mape']:.1f}%"


def _when(at_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at_s))
