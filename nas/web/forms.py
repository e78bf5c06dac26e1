"""The form of a submission, made from the job's schema: its fields, what a posted form says, and where an error belongs.

A *draft* is a submission as plain data, finished or not: what the YAML beside the form says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from nas.errors import JobError
from nas.job import NOT_YAML

Json = Any
Draft = dict[str, Json]

LONGEST_TEXT = 16_000
"""Characters of one field."""


@dataclass(frozen=True, slots=True)
class Field:
    """One key of a job. `path` leads to it from the job; `kind` is one of `KINDS`."""

    path: str
    kind: str
    required: bool = False
    default: Json = None
    minimum: float | None = None
    maximum: float | None = None
    options: tuple[str, ...] = ()
    help: str = ""

    @property
    def label(self) -> str:
        return self.path.rpartition(".")[2].replace("_", " ")

    def shown(self, value: Json) -> str:
        """A value of the draft as the text of the field; empty for one that is left out."""
        if value is None:
            return ""
        if self.kind == "lines" and isinstance(value, list):
            return "\n".join(str(item) for item in value)
        if self.kind == "yaml":
            return yaml.safe_dump(value, sort_keys=False, default_flow_style=None, width=60).strip() if value else ""
        return ("true" if value else "false") if isinstance(value, bool) else str(value)

    def read(self, text: str) -> Json:
        """The value that the text stands for; None where the field is left out. `JobError` names the field."""
        text = text.strip().replace("\r\n", "\n")
        if len(text) > LONGEST_TEXT:
            raise JobError(f"{self.path}: has {len(text)} characters; {LONGEST_TEXT} are the most")
        return KINDS[self.kind](self, text) if text else None


@dataclass(frozen=True, slots=True)
class Section:
    """The fields of one part of a job."""

    name: str
    fields: tuple[Field, ...]


def _number(field: Field, text: str) -> Json:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise JobError(f"{field.path}: must be a number, not {text[:60]!r}")


def _lines(field: Field, text: str) -> Json:
    return [line.strip() for line in text.split("\n") if line.strip()]


def _yaml(field: Field, text: str) -> Json:
    try:
        # A few lines of aliases stand for gigabytes.
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise JobError(f"{field.path}: aliases (*name) are not taken; write it out")
        return yaml.safe_load(text)
    except JobError:
        raise
    except NOT_YAML as error:
        raise JobError(f"{field.path}: not valid YAML ({' '.join(str(error).split())})") from error


KINDS = {
    "text": lambda field, text: text,
    "number": _number,
    "choice": lambda field, text: text,
    "switch": lambda field, text: text == "true",
    "lines": _lines,
    "yaml": _yaml,
}
"""What a field is drawn as -> what its text stands for."""


def fields_of(schema: Mapping[str, Json], help: Mapping[str, str], path: str = "") -> Iterator[Field]:
    """The fields of a JSON schema of an object, those of objects in it among them. `help` goes by path."""
    definitions = schema.get("$defs", {})
    for name, given in schema.get("properties", {}).items():
        where = f"{path}.{name}" if path else name
        found = _resolved(given, definitions)
        if "properties" in found:
            yield from fields_of({**found, "$defs": definitions}, help, where)
        else:
            required = name in schema.get("required", ())
            yield _field(where, found, required, help.get(where, given.get("description", "")))


def _resolved(schema: Mapping[str, Json], definitions: Mapping[str, Json]) -> Mapping[str, Json]:
    """Without its reference and without the null that stands for a key that is left out."""
    if "$ref" in schema:
        return {**schema, **definitions[schema["$ref"].rpartition("/")[2]]}
    options = [option for option in schema.get("anyOf", ()) if option.get("type") != "null"]
    if len(options) == 1:
        return _resolved({**schema, **options[0], "anyOf": ()}, definitions)
    return schema


def _field(path: str, schema: Mapping[str, Json], required: bool, help: str) -> Field:
    kind, options = "text", tuple(schema.get("enum", ()))
    if options:
        kind = "choice"
    elif schema.get("type") == "boolean":
        kind = "switch"
    elif schema.get("type") in ("integer", "number"):
        kind = "number"
    elif schema.get("type") == "array" and schema.get("items", {}).get("type") == "string":
        kind = "lines"
    elif schema.get("type") in ("object", "array") or schema.get("anyOf"):
        kind = "yaml"
    low, high = schema.get("minimum"), schema.get("maximum")
    return Field(path, kind, required, schema.get("default"), low, high, options, help)


def value_at(document: Json, path: str) -> Json:
    """What stands at `a.b.c` in a document; None where nothing does."""
    for part in path.split("."):
        if not isinstance(document, Mapping):
            return None
        document = document.get(part)
    return document


def put(document: Draft, path: str, value: Json) -> None:
    """Set what stands at `a.b.c`, with the mappings on the way there."""
    *parts, leaf = path.split(".")
    for part in parts:
        inner = document.setdefault(part, {})
        if not isinstance(inner, dict):
            inner = document[part] = {}
        document = inner
    document[leaf] = value


def read_fields(fields: Sequence[Field], posted: Mapping[str, str], base: Json) -> tuple[Draft, list[str]]:
    """What a posted form says, nested, and what is wrong with its texts. Left out is what would be so anyway: the value in
    `base`, or else the default. A field that was emptied takes a value of `base` back to the default."""
    found: Draft = {}
    faults = []
    for field in fields:
        try:
            value = field.read(posted.get(field.path, ""))
        except JobError as error:
            faults.append(str(error))
            continue
        before = value_at(base, field.path)
        if value is None and before is None:
            continue
        value = field.default if value is None else value
        usual = field.default if before is None else before
        if value != usual or (field.required and not base):
            put(found, field.path, value)
    return found, faults


def fault_places(faults: Sequence[str], fields: Sequence[Field]) -> tuple[dict[str, str], list[str]]:
    """Errors by the path of the field that they begin with, and those that belong to no field."""
    paths = sorted((field.path for field in fields), key=len, reverse=True)
    placed: dict[str, str] = {}
    others = []
    for fault in faults:
        inner = re.sub(r"^(?:job|set)[.:] ?", "", fault)
        named = (path for path in paths if re.match(rf"{re.escape(path)}\b", inner))
        # What is said of a whole section stands at its last field: of `space`, at its settings.
        path = next(named, None) or next(
            (path for path in paths if inner.startswith(path.partition(".")[0] + ":")), None
        )
        if path is None:
            others.append(fault)
        else:
            placed.setdefault(path, inner)
    return placed, others
