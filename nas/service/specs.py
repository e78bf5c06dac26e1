"""What is asked of the service, checked: one schema for YAML, the command line, the page and the API.

    {kind: run | train, job: {a whole job file}}
    {kind: profile | search | export, from: JOB, set: {"search.evaluations": 200}, devices: [...]}
    {kind: profile, model: UPLOAD, device: {...}, shapes: {...}, effort: {...}}

All of them take a `priority` as well. Nothing here looks into a database: what a spec refers to is looked up by `references`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from latency_tables.device import Device
from latency_tables.errors import LatencyError
from nas.errors import JobError
from nas.job import NOT_YAML, Job, explained, job_from_json, job_to_json, schema_of
from search_spaces import SpaceError
from supernets.errors import SupernetError

Json = Any

MOST_BYTES = 256 * 1024
DEEPEST = 20
MOST_VALUES = 10_000
LONGEST = 4000
"""Characters of one text."""
LONGEST_NAME = 100
LONGEST_MESSAGE = 500
MOST_DEVICES = 16
MOST_ELEMENTS = 2**28
"""Of one input of an uploaded model: 1 GiB of 32-bit numbers."""

UPLOAD, DATA = "upload:", "data:"

# What a job of each kind that goes on from another may change: sections of the job file.
SECTIONS = {"profile": ("profile",), "search": ("search", "profile"), "export": ("export",)}

_NOT_OURS = {
    "store": "evaluations are kept in the service's database; drop it",
    "ray_address": "the service has its own Ray; drop it",
}
_WHERE_IMAGES_ARE = (
    f"upload a Parquet file and name it as {UPLOAD}ID, or one that the service has as {DATA}NAME "
    "(`nas jobs submit` packs a folder by itself)"
)


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole job file: all stages of it, or the training alone."""

    job: Job


@dataclass(frozen=True, slots=True)
class Next:
    """A stage of an earlier job, with keys of its job file changed, as `search.evaluations`, and other devices."""

    source: str
    changes: Mapping[str, Json] = field(default_factory=dict)
    devices: tuple[Device, ...] = ()


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure a model: seconds at most, and the relative half-width of the median's interval to reach."""

    budget_s: float = 60.0
    precision: float = 0.02

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("budget_s", self.budget_s, 0.1, 3600.0),
            ("precision", self.precision, 1e-4, 1),
        ):
            if not low <= value <= high:
                raise JobError(f"effort.{name} must be from {low:g} to {high:g}, not {value}")


@dataclass(frozen=True, slots=True)
class Model:
    """An uploaded ONNX file to measure on a device; `shapes`: of inputs that the file leaves open, or a dimension by name."""

    upload: str
    device: Device
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    effort: Effort = Effort()


@dataclass(frozen=True, slots=True)
class Spec:
    """What is asked for: the kind of job, what of it, and `document`, the plain data that says so."""

    kind: str
    priority: int
    asked: Whole | Next | Model
    document: Mapping[str, Json]

    @property
    def parent(self) -> str | None:
        """The job that it goes on from."""
        return self.asked.source if isinstance(self.asked, Next) else None

    @property
    def uploads(self) -> tuple[str, ...]:
        """Ids of the uploads that it needs, without those of an earlier job."""
        if isinstance(self.asked, Model):
            return (self.asked.upload,)
        return uploads_of(self.asked.job) if isinstance(self.asked, Whole) else ()

    @property
    def devices(self) -> tuple[Device, ...]:
        """What it names to measure on, without the devices of an earlier job."""
        if isinstance(self.asked, Model):
            return (self.asked.device,)
        return self.asked.job.devices if isinstance(self.asked, Whole) else self.asked.devices


def read_spec(text: str | bytes) -> Spec:
    """The spec in a YAML text. Tags of Python and aliases (which a few lines can blow up to gigabytes) are refused."""
    if len(text) > MOST_BYTES:
        raise JobError(f"a job is {MOST_BYTES // 1024} kB at most, not {len(text) // 1024} kB")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        depth = 0
        for event in yaml.parse(text, Loader=loader):
            if isinstance(event, yaml.AliasEvent):
                raise JobError(f"{_line(event)}: aliases (*{event.anchor}) are not taken; write it out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise JobError(f"{_line(event)}: nested deeper than {DEEPEST} levels")
        document = yaml.load(text, Loader=loader)  # a safe loader, whichever of the two
    except JobError:
        raise
    except NOT_YAML as error:
        raise JobError(_cut(f"not valid YAML ({' '.join(str(error).split())})")) from error
    return check_spec(document)


def check_spec(document: Json) -> Spec:
    """A spec from plain data; `JobError` says in one line what is wrong with it."""
    try:
        _check_plain(document)
        schema = _schema_for(document)
        try:
            found = schema.model_validate(document).model_dump(exclude_unset=True)
        except ValidationError as error:
            raise JobError(explained(error, schema)) from error
        asked = _whole(document["job"]) if "job" in found else _model(found) if "model" in found else _next(found)
        return Spec(found["kind"], found.get("priority") or 0, asked, document)
    except (JobError, LatencyError, SpaceError, SupernetError) as error:
        raise JobError(_cut(str(error))) from error


def spec_schema() -> dict[str, Json]:
    """JSON Schema of a spec, for OpenAPI, forms and the documentation."""
    models = {name: schema.model_json_schema(ref_template="#/$defs/{model}") for name, schema in _schemas().items()}
    shared = {name: part for model in models.values() for name, part in model.pop("$defs", {}).items()}
    return {"title": "Spec", "anyOf": list(models.values()), "$defs": shared}


def changed(job: Job, asked: Next) -> Job:
    """The job of an earlier job's stage, which has other devices and settings."""
    document = job_to_json(job)
    for key, value in asked.changes.items():
        section, _, name = key.partition(".")
        document[section][name] = value
    if asked.devices:
        document["devices"] = [device.to_json() for device in asked.devices]
    found = job_from_json(document)
    check_job(found)
    return found


def check_job(job: Job) -> None:
    """What holds of jobs of the service alone: it names no files and no addresses, since those are the server's."""
    if len(job.name) > LONGEST_NAME:
        raise JobError(f"job.name: has {len(job.name)} characters; {LONGEST_NAME} are the most")
    for name, reason in _NOT_OURS.items():
        if getattr(job.search, name):
            raise JobError(f"job.search.{name}: {reason}")
    if job.data.kind in ("folder", "huggingface"):
        raise JobError(f"job.data.kind: the service takes no {job.data.kind!r}; use parquet: {_WHERE_IMAGES_ARE}")
    for name, path in (("path", job.data.path), ("test_path", job.data.test_path)):
        if path is not None and not any(path.startswith(known) and len(path) > len(known) for known in (UPLOAD, DATA)):
            raise JobError(f"job.data.{name}: {path[:80]!r} is no path here; {_WHERE_IMAGES_ARE}")
    if job.train.start is not None:
        raise JobError("job.train.start: names a file, which a job of the service cannot; drop it")
    if len(job.devices) > MOST_DEVICES:
        raise JobError(f"job.devices: {len(job.devices)} devices; {MOST_DEVICES} are the most")
    for device in job.devices:
        _check_options(device)


def uploads_of(job: Job) -> tuple[str, ...]:
    """Ids of the uploads that a job's images are in."""
    paths = (job.data.path, job.data.test_path)
    return tuple(path.removeprefix(UPLOAD) for path in paths if path is not None and path.startswith(UPLOAD))


def _whole(document: Json) -> Whole:
    try:
        job = job_from_json(document)
    except (JobError, LatencyError, SpaceError, SupernetError) as error:
        raise JobError(f"job: {error}") from error
    check_job(job)
    if job.search.warm_start:
        raise JobError(
            "job.search.warm_start: of a supernet that is not trained yet nothing is known; search once more `from` this job, "
            "and name searches of it there"
        )
    return Whole(job)


def _next(found: Mapping[str, Json]) -> Next:
    kind, changes = found["kind"], found.get("set") or {}
    for key in changes:
        section, dot, name = key.partition(".")
        if section not in SECTIONS[kind] or not dot or not name or "." in name:
            wanted = " or ".join(f"{each}.KEY" for each in SECTIONS[kind])
            raise JobError(
                f"set: a job of kind {kind} changes {wanted} alone, not {key[:80]!r}; what came before it is made"
            )
    devices = tuple(Device.from_json(each) for each in found.get("devices") or ())
    if devices and kind == "export":
        raise JobError("devices: an export is for the devices that were searched for; search for others first")
    if len(devices) > MOST_DEVICES:
        raise JobError(f"devices: {len(devices)} devices; {MOST_DEVICES} are the most")
    for device in devices:
        _check_options(device)
    return Next(found["from"], changes, devices)


def _model(found: Mapping[str, Json]) -> Model:
    device = Device.from_json(found["device"])
    _check_options(device)
    shapes: dict[str, tuple[int, ...]] = found.get("shapes") or {}
    for name, shape in shapes.items():
        if not shape or not all(extent >= 1 for extent in shape) or math.prod(shape) > MOST_ELEMENTS:
            raise JobError(
                f"shapes.{name[:80]}: wanted whole numbers from 1, {MOST_ELEMENTS} elements at most, not {list(shape)[:8]}"
            )
    return Model(found["model"], device, shapes, Effort(**(found.get("effort") or {})))


@cache
def _schemas() -> dict[str, type[BaseModel]]:
    """The three forms of a spec, from the dataclasses that they become."""
    optional: dict[str, Any] = {"priority": (Annotated[int, Field(ge=-100, le=100)] | None, None)}
    device = schema_of(Device)
    forms: dict[str, dict[str, Any]] = {
        "Whole": {"kind": (Literal["run", "train"], ...), "job": (schema_of(Job), ...)},
        "Next": {
            "kind": (Literal["profile", "search", "export"], ...),
            "from": (str, ...),
            "set": (dict[str, Any] | None, None),
            "devices": (tuple[device, ...] | None, None),  # type: ignore[valid-type]
        },
        "Model": {
            "kind": (Literal["profile"], ...),
            "model": (str, ...),
            "device": (device, ...),
            "shapes": (dict[str, tuple[int, ...]] | None, None),
            "effort": (schema_of(Effort) | None, None),
        },
    }
    strict = ConfigDict(extra="forbid")
    return {name: create_model(name, __config__=strict, **keys, **optional) for name, keys in forms.items()}


def _schema_for(document: Json) -> type[BaseModel]:
    """The form that a document means, so that its errors are about that one."""
    if not isinstance(document, dict):
        raise JobError(f"wanted a mapping with kind and job, from or model, got {type(document).__name__}")
    kind = document.get("kind")
    if kind in ("run", "train"):
        return _schemas()["Whole"]
    if kind not in tuple(SECTIONS):
        raise JobError(f"kind must be one of run, train, {', '.join(SECTIONS)}, not {str(kind)[:80]!r}")
    return _schemas()["Model" if "model" in document else "Next"]


def _check_plain(document: Json) -> None:
    """What JSON can hold, and not too much of it."""
    for count, (value, depth) in enumerate(_values(document)):
        if depth > DEEPEST:
            raise JobError(f"nested deeper than {DEEPEST} levels")
        if count > MOST_VALUES:
            raise JobError(f"a job has {MOST_VALUES} values at most")
        if isinstance(value, str):
            if len(value) > LONGEST:
                raise JobError(f"a text of {len(value)} characters ({value[:20]!r}...); {LONGEST} are the most")
            if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
                raise JobError(f"{value[:80]!a} has characters that are no text")
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise JobError(f"{value} is no number here; give a finite one")
        elif isinstance(value, int):
            if abs(value) >= 2**63:
                raise JobError("a whole number with more than 64 bits")
        elif value is not None and not isinstance(value, dict | list):
            raise JobError(f"{str(value)[:80]!r} is a {type(value).__name__}; put it in quotes")


def _values(document: Json) -> Iterator[tuple[Json, int]]:
    """All values and keys, each with its depth; without recursion, however deep they are."""
    waiting = [(document, 0)]
    while waiting:
        value, depth = waiting.pop()
        yield value, depth
        if isinstance(value, dict):
            for key, inner in value.items():
                if not isinstance(key, str):
                    raise JobError(f"keys are texts; {str(key)[:80]!r} is a {type(key).__name__}: put it in quotes")
                yield key, depth
                waiting.append((inner, depth + 1))
        elif isinstance(value, list):
            waiting.extend((inner, depth + 1) for inner in value)


def _check_options(device: Device) -> None:
    """Some providers take files and folders as options, and would write there."""
    for name, value in device.provider_options:
        if any(part in value for part in ("/", "\\", "..")) or value.startswith("~"):
            raise JobError(f"device {device.name}: provider_options.{name[:80]}: paths are not taken here")


def _line(event: yaml.Event) -> str:
    return f"line {event.start_mark.line + 1}" if event.start_mark is not None else "somewhere"


def _cut(message: str) -> str:
    line = " ".join(message.split())
    return line if len(line) <= LONGEST_MESSAGE else f"{line[: LONGEST_MESSAGE - 3]}..."
