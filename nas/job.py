"""A job: what `nas run` reads from YAML. One schema, made from the dataclasses that the stages take."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from reprlib import repr as short
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from latency_tables.device import Device, local_devices
from nas.errors import JobError
from nas.searching.constraints import Constraint, parse_constraint
from nas.searching.quantities import QUANTITIES, check_objectives
from search_spaces import FAMILY_NAMES, Space, SpaceError, define_space, is_family, precision_columns
from supernets.datasource import DataSource
from supernets.settings import TrainSettings

Companion = Literal["image", "fp16", "ort"]
ExitsKind = Literal["outputs", "if"]
IMAGE_OPSET = 18
"""The first whose Resize antialiases."""
PICKS = ("fastest", "knee", "most-accurate")
"""Of `nas.searching.fronts`, named here so that a job is read without what computes them."""
PROXIES = ("grad_norm", "snip", "synflow", "jacob_cov", "gradsign")
"""Of `supernets.proxies`, named here so that a job is read without torch."""
Sampler = Literal["guided", "guided_exact", "guided_mixed", "nsga2", "nsga3", "tpe", "gp", "random", "nested"]


@dataclass(frozen=True, slots=True)
class ProfileSettings:
    """How a device is measured. `networks`: whole networks a device; `budget_s`: seconds a device at most;
    `precision`: relative half-width of the median's confidence interval at which a network needs no more runs."""

    networks: int = 60
    budget_s: float = 120.0
    precision: float = 0.02

    def __post_init__(self) -> None:
        _in_range("profile.networks", self.networks, 12, 100_000)
        _in_range("profile.budget_s", self.budget_s, 0.1, 1e6)
        _in_range("profile.precision", self.precision, 1e-4, 1.0)


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """How to search. `evaluations`: architectures whose accuracy is evaluated, for each of the `seeds`; `population`:
    proposals a generation (and a device, but for the guided sampler); `objectives`: quantities to optimise; `constraints`:
    such as `latency_ms <= 5` or `macs <= 20M`, to hold on every device, or `latency_ms@cpu_t1 <= 5` on one;
    `validation_images`: how many of them an evaluation reads (all of them by default), `first_images`: how many at first, of
    which only the promising go on; `patience`: generations without growth that end a search; `controls`: whether random
    search and uniform scaling are evaluated as well; `proxies`: zero-cost proxies to compare with accuracy, `warm_up`: the one
    that chooses the first generation; `warm_start`: folders of runs whose evaluations are taken over (of a service, jobs);
    `measure_front`: whether the networks of a front are measured as soon as it is found; `store`: the database of evaluations,
    a file of the run by default."""

    sampler: Sampler = "guided"
    evaluations: int = 100
    seeds: int = 1
    population: int | None = None
    objectives: tuple[str, ...] = ("accuracy", "latency_ms")
    constraints: tuple[str, ...] = ()
    validation_images: int | None = None
    first_images: int | None = None
    calibration_batches: int = 4
    patience: int | None = None
    controls: bool = True
    proxies: tuple[str, ...] = ()
    warm_up: str | None = None
    warm_start: tuple[str, ...] = ()
    measure_front: bool = False
    store: str | None = None
    ray_address: str | None = None

    def __post_init__(self) -> None:
        _in_range("search.evaluations", self.evaluations, 4, 10_000_000)
        _in_range("search.seeds", self.seeds, 1, 100)
        _in_range("search.calibration_batches", self.calibration_batches, 1, 1000)
        limits = {
            "population": (4, 100_000),
            "validation_images": (1, 10**9),
            "first_images": (1, 10**9),
            "patience": (1, 10**6),
        }
        for name, (low, high) in limits.items():
            if getattr(self, name) is not None:
                _in_range(f"search.{name}", getattr(self, name), low, high)
        if self.first_images is not None and self.first_images >= (self.validation_images or 10**9):
            raise JobError(
                f"search.first_images must be fewer than search.validation_images ({self.validation_images}), "
                f"not {self.first_images}"
            )
        check_objectives(self.objectives)
        for name in (*self.proxies, *([self.warm_up] if self.warm_up else [])):
            if name not in PROXIES:
                raise JobError(f"search: unknown proxy {name!r}; known are {', '.join(PROXIES)}")
        for text in self.constraints:
            parse_constraint(text)

    @property
    def statistics(self) -> tuple[str, ...]:
        """What has to be predicted from latency tables, the median latency first."""
        named = (*self.objectives, *(parse_constraint(text).quantity for text in self.constraints))
        found = [QUANTITIES[name].statistic for name in named]
        return tuple(dict.fromkeys(["latency_ms", *(each for each in found if each is not None)]))


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """What to hand over. `picks`: of each device's front, the `fastest`, the `knee` or the `most-accurate` network, one by its
    id, or by a limit such as `latency_ms <= 3` (the most accurate that meets it) or `accuracy >= 90%` (the fastest); `pair`:
    whether to hand over a fast network and an accurate one as well, of which the second is asked where the first is not sure;
    `finetune`: epochs for which each network is trained alone before it is handed over; `max_drop`: the most accuracy that
    8-bit integers may cost, on validation images, where a network has them: beyond it they are trained for, None: whatever;
    `merge`: the share of its latency that each network may take once convolutions of it are merged, None: they stay;
    `exits`: whether the space's early exits are handed over as well, in a graph with an output for each (`outputs`) or in one
    that goes on only where an exit is not sure (`if`);
    `also`: files beside each model, `image` for one that takes images of 8 bits and any size, `fp16` for one in half precision,
    `ort` for one in ORT format;
    `license`: of what is handed over, as its cards say it; `opset`: of ONNX; `ir_version`: of the file; `dynamic_batch`:
    whether the batch is left open or is that of the device."""

    picks: tuple[str, ...] = PICKS
    pair: bool = False
    finetune: int = 0
    max_drop: float | None = None
    merge: float | None = None
    exits: ExitsKind | None = None
    also: tuple[Companion, ...] = ()
    license: str = "unknown"
    opset: int = 17
    ir_version: int = 8
    dynamic_batch: bool = True

    def __post_init__(self) -> None:
        if not self.picks:
            raise JobError(f"export.picks must name at least one of {', '.join(PICKS)}, a limit or a network")
        if "image" in self.also and self.opset < IMAGE_OPSET:
            raise JobError(
                f"export.also: image resizes in the graph, which takes export.opset {IMAGE_OPSET} or later, not {self.opset}"
            )
        _in_range("export.finetune", self.finetune, 0, 10_000)
        if self.max_drop is not None:
            _in_range("export.max_drop", self.max_drop, 0.0, 1.0)
        if self.merge is not None:
            _in_range("export.merge", self.merge, 0.05, 0.99)
            for name, given in (("pair", self.pair), ("exits", self.exits)):
                if given:
                    raise JobError(f"export.merge does not go with export.{name}; drop one of them")
        for pick in self.picks:
            if pick not in PICKS and not is_arch_id(pick):
                _check_limit(pick)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,59}", self.license):
            raise JobError(
                f"export.license must be the name of a licence, as mit, apache-2.0 or other, not {self.license!r}"
            )

    @property
    def limits(self) -> tuple[Constraint, ...]:
        """The picks that are limits."""
        return tuple(parse_constraint(pick) for pick in self.picks if pick not in PICKS and not is_arch_id(pick))


def is_arch_id(text: str) -> bool:
    return re.fullmatch("[0-9a-f]{12}", text) is not None


def _check_limit(pick: str) -> None:
    if not any(sign in pick for sign in "<>"):
        raise JobError(
            f"export.picks: {pick!r} is none of {', '.join(PICKS)}, no limit such as 'latency_ms <= 3', and no id of a network "
            "(12 digits)"
        )
    try:
        parse_constraint(pick)
    except JobError as error:
        raise JobError(f"export.picks: {error}") from error


@dataclass(frozen=True, slots=True)
class Job:
    """A whole run. `space` is a family and its settings; `devices` left out are those that this machine offers."""

    name: str
    data: DataSource
    space: Mapping[str, Any]
    train: TrainSettings = field(default_factory=TrainSettings)
    devices: tuple[Device, ...] = ()
    profile: ProfileSettings = field(default_factory=ProfileSettings)
    search: SearchSettings = field(default_factory=SearchSettings)
    export: ExportSettings = field(default_factory=ExportSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.name.replace("-", "").replace("_", "").replace(".", "").isalnum() or self.name.startswith("."):
            raise JobError(f"name must be letters, digits, '-', '_' and '.', not {self.name!r}")
        if not is_family(self.space.get("family")):
            raise JobError(f"space.family must be one of {FAMILY_NAMES}, not {self.space.get('family')!r}")
        for name in ("num_classes", "in_channels"):
            if name in self.space:
                raise JobError(f"space.{name} follows from the data; drop it")
        try:
            self.space_for(num_classes=2)
        except SpaceError as error:
            raise JobError(f"space: {error}") from error
        if self.search.sampler == "guided_mixed" and not precision_columns(self.space_for(num_classes=2)).size:
            raise JobError(
                "search.sampler: guided_mixed mixes precisions, and the space has none; set space.precisions"
            )
        _in_range("seed", self.seed, 0, 2**32 - 1)
        for device in self.devices:
            if device.precision != "fp32":
                raise JobError(
                    f"device {device.name}: what a job's networks compute in is a matter of its space (space.precisions), so "
                    f"its devices must be fp32, not {device.precision}; `nas profile --space` measures other precisions"
                )
        if self.export.pair and self.data.many_labels:
            raise JobError("export.pair: takes images of one class each, which a network can be sure of; drop it")
        _check_exits(self)
        names = [device.name for device in self.devices]
        if len(set(names)) != len(names):
            raise JobError(f"devices must have different names, got {', '.join(names)}")
        for constraint in (*map(parse_constraint, self.search.constraints), *self.export.limits):
            if constraint.device is not None and names and constraint.device not in names:
                raise JobError(
                    f"constraint {constraint.text!r} names a device that the job does not have: {', '.join(names)}"
                )

    @property
    def source(self) -> DataSource:
        """The images at the size at which they are kept: the largest resolution of the space."""
        return replace(self.data, size=int(max(self.space_for(num_classes=2).settings["resolutions"])))

    def space_for(self, num_classes: int) -> Space:
        """The space of the job's family and settings, for images of its data with so many classes."""
        settings = {key: value for key, value in self.space.items() if key != "family"}
        return define_space(self.space["family"], num_classes=num_classes, in_channels=self.data.channels, **settings)


def _check_exits(job: Job) -> None:
    """Refuse what is said of early exits where there are none, or none that can be used."""
    for name, given in (("train", job.train.exits), ("export", job.export.exits)):
        if given is not None and not job.space.get("exits"):
            raise JobError(f"{name}.exits is about early exits, and the space has none; set space.exits, or drop it")
    if job.export.exits and job.data.many_labels:
        raise JobError("export.exits: takes images of one class each, which an exit can be sure of; drop it")


# What the pipeline fills in itself and a job file therefore does not say, with the value it has until then.
DERIVED: dict[type, dict[str, Any]] = {DataSource: {"size": 32}, TrainSettings: {"seed": 0}}

PRECISION = ("space.precisions", "space.precision_per")
PATHS = ("data.path", "data.test_path", "train.start")

# Beside its own errors the parser lets through those of int() and date(), as of `2024-13-45`, and of too deep a nest.
NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)


def read_job(path: Path, overrides: Sequence[str] = ()) -> Job:
    """The job in a YAML file, with `key.sub=value` overrides (values as YAML); `JobError` says in one line what is wrong.

    Paths in the file are relative to it, paths in overrides to the current folder.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise JobError(f"{path}: no such job file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"{path}: cannot be read ({error})") from error
    except NOT_YAML as error:
        raise JobError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    try:
        for override in overrides:
            _override(document, override)
        return job_from_json(document, relative_to=path.absolute().parent)
    except JobError as error:
        raise JobError(f"{path}: {error}") from error


def changed_job(job: Job, section: str, overrides: Sequence[str]) -> Job:
    """The job with `section.sub=value` overrides of one of its sections, as `read_job` takes them; with those of `profile` may
    come the precisions of its space, on which nothing before depends."""
    document = job_to_json(job)
    others = PRECISION if section == "profile" else ()
    for override in overrides:
        if not override.startswith(f"{section}.") and override.partition("=")[0] not in others:
            taken = ", ".join((f"{section}.KEY=VALUE", *others))
            raise JobError(f"--set {override!r}: this stage takes {taken} alone; what came before it is made")
        _override(document, override)
    return job_from_json(document)


def _override(document: Any, text: str) -> None:
    key, equals, given = text.partition("=")
    *path, leaf = key.split(".")
    if not equals or not leaf:
        raise JobError(f"--set {text!r} is not of the form key.sub=value")
    for part in path:
        document = document.setdefault(part, {}) if isinstance(document, dict) else None
    if not isinstance(document, dict):
        raise JobError(f"--set {text!r}: {'.'.join(path) or 'the job'} has no keys of its own")
    try:
        value = yaml.safe_load(given)
    except NOT_YAML as error:
        raise JobError(f"--set {text!r}: not valid YAML ({' '.join(str(error).split())})") from error
    document[leaf] = _relative(value, Path.cwd()) if key in PATHS and isinstance(value, str) else value


def job_from_json(document: Any, relative_to: Path | None = None) -> Job:
    """A job from plain data: parsed YAML, or what `job_to_json` wrote."""
    if not isinstance(document, dict):
        raise JobError(f"wanted a mapping with data, space, train ..., got {type(document).__name__}")
    schema = schema_of(Job)
    try:
        job: Job = _build(Job, schema.model_validate(document))
    except ValidationError as error:
        raise JobError(explained(error, schema)) from error
    except ValueError as error:
        raise error if isinstance(error, JobError) else JobError(str(error)) from error
    source, train, base = job.data, dataclasses.replace(job.train, seed=job.seed), relative_to
    if base is not None:
        path, test_path = _relative(source.path, base), _relative(source.test_path, base)
        source = dataclasses.replace(source, path=path, test_path=test_path)
        train = dataclasses.replace(train, start=_relative(train.start, base))
    return dataclasses.replace(job, data=source, train=train, devices=job.devices or local_devices())


def job_to_json(job: Job) -> dict[str, Any]:
    """The resolved job as plain data, which `job_from_json` reads back."""
    document: dict[str, Any] = _plain(job)
    return document


@cache
def schema_of(cls: type) -> type[BaseModel]:
    """The pydantic model of a dataclass: the same fields and defaults, unknown keys refused."""
    hints = get_type_hints(cls)
    fields: dict[str, Any] = {}
    for each in dataclasses.fields(cls):
        if each.name in DERIVED.get(cls, {}):
            continue
        if each.default is not dataclasses.MISSING:
            default = each.default
        elif each.default_factory is not dataclasses.MISSING:
            default = dataclasses.MISSING
        else:
            default = ...
        kind = _schema_type(hints[each.name])
        fields[each.name] = (kind | None, None) if default is dataclasses.MISSING else (kind, default)
    model: type[BaseModel] = create_model(cls.__name__, __config__=ConfigDict(extra="forbid"), **fields)
    return model


def _schema_type(kind: Any) -> Any:
    """The type with every dataclass in it replaced by its pydantic model; pairs may come as a mapping."""
    if kind == tuple[tuple[str, str], ...]:
        return kind | dict[str, str | bool | int | float]
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return schema_of(kind)
    if get_origin(kind) is tuple and get_args(kind)[1:] == (...,):
        return tuple[_schema_type(get_args(kind)[0]), ...]  # type: ignore[misc]
    return kind


def _build(kind: Any, value: Any) -> Any:
    """The dataclass that a validated model stands for, all the way down; its own checks run on the way."""
    if get_origin(kind) in (Union, UnionType) and value is not None:
        kind = next(option for option in get_args(kind) if option is not type(None))
    if isinstance(value, BaseModel):
        hints = get_type_hints(kind)
        given = {name: getattr(value, name) for name in type(value).model_fields if name in value.model_fields_set}
        values = {name: _build(hints[name], v) for name, v in given.items() if v is not None}
        return kind(**DERIVED.get(kind, {}), **values)
    if isinstance(value, tuple) and get_args(kind)[1:] == (...,):
        return tuple(_build(get_args(kind)[0], item) for item in value)
    return value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hidden = DERIVED.get(type(value), {})
        names = [each.name for each in dataclasses.fields(value) if each.name not in hidden]
        return {name: _plain(getattr(value, name)) for name in names if getattr(value, name) is not None}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value


def explained(error: ValidationError, schema: type[BaseModel]) -> str:
    """The first thing wrong, with the key's full path and, for an unknown key, the near miss.

    Unknown keys come first: a misspelt key that is required is missing as well.
    """
    found = error.errors()
    first = next((each for each in found if each["type"] == "extra_forbidden"), found[0])
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"{where}: is required"
    if first["type"] != "extra_forbidden":
        return f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}, not {short(first['input'])}"
    known = _keys_beside(schema, first["loc"])
    near = get_close_matches(str(first["loc"][-1]), known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    return f"{where}: unknown key; {hint}"


def _keys_beside(schema: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    model = schema
    for part in path[:-1]:
        if isinstance(part, str) and part in model.model_fields:
            model = next(iter(_models_in(model.model_fields[part].annotation)), model)
    return list(model.model_fields)


def _models_in(kind: Any) -> list[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    return [model for inner in get_args(kind) for model in _models_in(inner)]


def _relative(path: str | None, base: Path) -> str | None:
    try:
        return None if path is None else str(base / Path(path).expanduser())
    except RuntimeError as error:  # ~somebody who has no home here
        raise JobError(f"{path}: {error}") from error


def _in_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise JobError(f"{name} must be from {low:g} to {high:g}, not {value}")
