"""Drafts of submissions: what a new one starts from, the form that shows it, and what a posted form makes of it.

There are two sorts, as in nas.service.specs: a whole job, and a stage that goes on from an earlier job with changes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from latency_tables.device import Device
from nas.errors import JobError
from nas.job import PROXIES, ExportSettings, Job, ProfileSettings, SearchSettings, schema_of
from nas.service.specs import LONGEST_NAME, SECTIONS, UPLOAD
from nas.service.uploads import Upload
from nas.web.forms import Draft, Field, Section, fields_of, put, read_fields, value_at
from nas.web.schema_help import help_of
from search_spaces import FAMILIES
from supernets.datasource import DataSource
from supernets.recipes import RECIPES
from supernets.settings import CLASS_WEIGHTS, LAYOUTS, OPTIMISERS, TrainSettings
from supernets.settings import DEVICES as TRAIN_DEVICES

Json = Any

NEW = ("run", "train")
DOCUMENTED = {"data": DataSource, "train": TrainSettings, "profile": ProfileSettings, "search": SearchSettings}
DOCUMENTED |= {"export": ExportSettings}
# The service has its own; nas.service.specs refuses them.
HIDDEN = ("search.store", "search.ray_address", "train.start")
# What most jobs say; the rest is folded away until a job says it too.
USUAL = (
    "name", "data.kind", "data.path", "data.channels", "space.family", "space.settings", "train.recipe", "train.epochs",
    "train.batch", "train.learning_rate", "devices", "profile.networks", "profile.budget_s", "search.sampler",
    "search.evaluations", "search.constraints", "search.seeds", "export.picks",
)  # fmt: skip
OPTIONS = {
    "data.kind": ("digits", "parquet"),
    "space.family": tuple(FAMILIES),
    "train.recipe": tuple(RECIPES),
    "train.class_weights": CLASS_WEIGHTS,
    "train.optimiser": OPTIMISERS,
    "train.layout": ("auto", *LAYOUTS),
    "train.device": TRAIN_DEVICES,
    "search.warm_up": PROXIES,
}
HELP = {
    "name": "Letters, digits, '-', '_' and '.'.",
    "seed": "Everything random is drawn from it.",
    "data.kind": "The small built-in digits, or images in a Parquet file.",
    "data.path": "A Parquet file: upload:ID, or data:NAME for one that the service has.",
    "data.test_path": "Another one, with the test images.",
    "data.channels": "1 for grey, 3 for colour.",
    "data.skip_bad": "Leave out images that cannot be read, in place of refusing the data.",
    "data.classes": "The classes in the order of their labels, one a line.",
    "space.settings": "Settings of the family as YAML; what is left out takes the family's default.",
    "train.recipe": "Which sub-networks are trained at each step.",
    "train.epochs": "Passes over the training images.",
    "train.batch": "Images a step.",
    "train.learning_rate": "Its peak.",
    "train.device": "Where to train; auto takes a GPU where there is one.",
    "train.layout": "Number type and memory format; auto measures which is fastest.",
    "train.augment.shift_px": "Images are moved by so many pixels at most.",
    "train.augment.mirror": "Whether images may be mirrored.",
    "devices": "A list as YAML, such as [{name: pi, agent: pi-5, threads: 2}]. Left out: those that the worker offers itself.",
    "search.sampler": "Who proposes architectures; guided searches on predictions.",
    "search.objectives": "Quantities to optimise, one a line.",
    "search.constraints": "One a line, such as latency_ms <= 5, macs <= 20M, or latency_ms@pi <= 5 on one device.",
    "export.picks": "Of each device's front, one a line: fastest, knee, most-accurate, or a limit such as latency_ms <= 3.",
}
PRIORITY = Field("priority", "number", default=0, minimum=-100, maximum=100, help="The higher runs first.")
"""Of every kind of job, beside what it asks for."""


@dataclass(frozen=True, slots=True)
class Form:
    """The form of one kind of job. `source` is the id of the job that it goes on from, `source_name` its name and `base` its
    job file as plain data; all of them are empty for a new one."""

    kind: str
    sections: tuple[Section, ...]
    source: str = ""
    source_name: str = ""
    base: Mapping[str, Json] = field(default_factory=dict)

    @property
    def fields(self) -> tuple[Field, ...]:
        return tuple(each for section in self.sections for each in section.fields)

    def values(self, draft: Draft) -> Json:
        """What the fields show of a draft."""
        if not self.source:
            return _opened(draft.get("job"))
        document = {key: dict(value) if isinstance(value, dict) else value for key, value in self.base.items()}
        changes = draft.get("set")
        for path, value in (changes if isinstance(changes, dict) else {}).items():
            put(document, str(path), value)
        return document | ({"devices": draft["devices"]} if draft.get("devices") else {})

    def draft(self, posted: Mapping[str, str]) -> tuple[Draft, list[str]]:
        """The draft that a posted form stands for, and what is wrong with its texts."""
        found, faults = read_fields(self.fields, posted, self.base)
        last, others = read_fields((PRIORITY,), posted, {})
        faults += others
        if not self.source:
            return {"kind": self.kind, "job": _closed(found), **last}, faults
        devices = found.pop("devices", None)
        paths = [each.path for each in self.fields]
        changes = {path: value_at(found, path) for path in paths if _has(found, path)}
        draft: Draft = {"kind": self.kind, "from": self.source}
        draft |= {"set": changes} if changes else {}
        draft |= {"devices": devices} if devices else {}
        return draft | last, faults


def new_form(kind: str) -> Form:
    """The form of a whole job."""
    return Form(kind, _sections())


def next_form(kind: str, source: str, source_name: str, base: Mapping[str, Json]) -> Form:
    """The form of a stage that goes on from a job, with what that may change."""
    names = (*(() if kind == "export" else ("devices",)), *SECTIONS[kind])
    sections = tuple(section for section in _sections() if section.name in names)
    return Form(kind, sections, source, source_name, _short(base))


def example() -> Draft:
    """The draft of somebody who has none: the digits, which take a minute."""
    job = yaml.safe_load(files("nas").joinpath("demo.yaml").read_text(encoding="utf-8"))
    return {"kind": "run", "job": job}


def upload_draft(upload: Upload) -> Draft:
    """A first job with a file: a model is measured, images are trained on."""
    if upload.kind == "onnx":
        return {"kind": "profile", "model": upload.id, "device": {"name": "cpu_t1"}}
    if upload.kind != "parquet":
        raise JobError(f"{upload.id}: is of kind {upload.kind}; jobs take onnx and parquet")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", upload.name.removesuffix(".parquet")).strip("-._")[:LONGEST_NAME]
    columns = {
        f"{each}_column": upload.facts[each] for each in ("image", "label") if upload.facts.get(each, each) != each
    }
    lists = "list<" in upload.facts.get("columns", {}).get(upload.facts.get("label"), "")
    task = {"task": "multi_label"} if lists else {}
    data = {"kind": "parquet", "path": f"{UPLOAD}{upload.id}", **columns, **task}
    return {"kind": "run", "job": {"name": name or "images", "data": data, "space": {"family": next(iter(FAMILIES))}}}


@cache
def _sections() -> tuple[Section, ...]:
    """The whole job in sections, those without a section first."""
    help = {f"{name}.{key}": text for name, cls in DOCUMENTED.items() for key, text in help_of(cls).items()} | HELP
    found: dict[str, list[Field]] = {}
    for each in fields_of(schema_of(Job).model_json_schema(), help):
        if each.path == "space":
            found["space"] = [
                Field("space.family", "choice", required=True, options=OPTIONS["space.family"]),
                Field("space.settings", "yaml", help=HELP["space.settings"]),
            ]
        elif each.path not in HIDDEN:
            options = OPTIONS.get(each.path)
            section = each.path.partition(".")[0] if "." in each.path or each.path == "devices" else ""
            found.setdefault(section, []).append(replace(each, kind="choice", options=options) if options else each)
    return tuple(Section(name, tuple(inner)) for name, inner in found.items())


def _short(job: Mapping[str, Json]) -> Mapping[str, Json]:
    """A job file without what its devices have by default."""
    usual = {each.name: each.default for each in fields(Device)} | {"provider_options": []}
    devices = [
        {key: value for key, value in device.items() if key not in usual or value != usual[key]}
        for device in job.get("devices", ())
    ]
    return {**job, "devices": devices}


def _opened(job: Json) -> Json:
    """The family apart from its settings."""
    space = job.get("space") if isinstance(job, dict) else None
    if not isinstance(space, dict):
        return job
    settings = {key: value for key, value in space.items() if key != "family"}
    return {**job, "space": {"family": space.get("family"), "settings": settings}}


def _closed(job: Draft) -> Draft:
    space = dict(job.get("space", {}))
    settings = space.pop("settings", None)
    return {**job, "space": {**space, **(settings if isinstance(settings, dict) else {})}} if "space" in job else job


def _has(document: Json, path: str) -> bool:
    """Whether something stands at `a.b.c`, be it nothing."""
    *parts, leaf = path.split(".")
    inner = value_at(document, ".".join(parts)) if parts else document
    return isinstance(inner, Mapping) and leaf in inner
