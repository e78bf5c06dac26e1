"""Templates: what they are given on every page, and how they write numbers, times and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from nas.page import json_in_script
from nas.tables import ABSENT, amount, duration, finite, percent, significant
from nas.web.assets import Assets

Json = Any

STATES = {
    "QUEUED": "queued",
    "RUNNING": "running",
    "CANCELLING": "being cancelled",
    "RETRY_WAIT": "waiting to try again",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "CANCELLED": "cancelled",
}
"""The states of a job, in the words of the pages."""


class Templates:
    """The folder `templates`, with what all of its pages share. Everything that goes in is escaped."""

    def __init__(self, assets: Assets) -> None:
        self._environment = jinja2.Environment(
            loader=jinja2.PackageLoader("nas.web"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {
            "amount": amount,
            "bytes": bytes_text,
            "clock": lambda seconds: iso(seconds)[11:19],
            "duration": duration,
            "iso": iso,
            "json_block": json_block,
            "percent": percent,
            "significant": significant,
            "state": lambda state: STATES.get(state, str(state).lower()),
            "when": when,
            "yaml": yaml_text,
        }
        self._environment.globals |= {"asset": assets.url, "plotly_ids": assets.plotly_ids, "ABSENT": ABSENT}

    def render(self, name: str, values: Mapping[str, object]) -> str:
        text = self._environment.get_template(name).render(values)
        # A lone surrogate, from a name that was not UTF-8, would make the page impossible to send.
        return text.encode(errors="replace").decode()


def bytes_text(size: Any) -> str:
    """12 B, 4.12 kB, 1.30 GB."""
    number = finite(size)
    if number is None:
        return ABSENT
    return f"{number:.0f} B" if number < 1000 else f"{amount(number)}B"


def iso(seconds: Any) -> str:
    """The epoch's seconds as an ISO time in UTC, for the `datetime` of a time element."""
    number = finite(seconds)
    return "" if number is None else datetime.fromtimestamp(number, UTC).isoformat(timespec="seconds")


def when(seconds: Any) -> str:
    """21 Nov 2026, 20:41 UTC."""
    number = finite(seconds)
    if number is None:
        return ABSENT
    moment = datetime.fromtimestamp(number, UTC)
    return f"{moment.day} {moment:%b %Y, %H:%M} UTC"


class _Dumper(yaml.SafeDumper):
    """Lists of plain values on one line, all else in blocks: as the examples are written."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_list(dumper: yaml.SafeDumper, values: list[Json]) -> yaml.Node:
    flat = not any(isinstance(value, dict | list) for value in values)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=flat)


_Dumper.add_representer(list, _represent_list)


def yaml_text(document: Json) -> str:
    """Plain data as people write it."""
    return str(yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100))


def json_block(document: Json) -> Any:
    """JSON in a script element, safe as it is."""
    return Markup(json_in_script(document))
