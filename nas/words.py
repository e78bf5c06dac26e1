"""What a user names on the command line: a space, a device, an amount of time, a share, input shapes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from latency_tables.device import Device
from nas.errors import JobError
from search_spaces import FAMILY_NAMES, Space, define_space, is_family

_DEVICE = re.compile(r"([a-z]+)_t(\d+)(?:_([a-z]{2,}\d+))?(?:_b(\d+))?")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}


def space_of(word: str, settings: Sequence[str] = ()) -> Space:
    """The space that `word` names: a family or a published name, a `space.json`, or a job file, of its `space` section.

    `settings` are `key=value` of a family (values as JSON), as `resolutions=[32,64]`; `SpaceError` or `JobError` says in
    one line what is wrong.
    """
    given = dict(_setting(text) for text in settings)
    if is_family(word):
        return define_space(word, **given)
    document = read_document(Path(word), f"is neither a family ({FAMILY_NAMES}) nor a file of a space or a job")
    if "choices" in document:
        if given:
            raise JobError(f"{word}: is a finished space, which takes no --set")
        return Space.from_json(document)
    section = document.get("space", document)
    if not isinstance(section, Mapping) or not isinstance(section.get("family"), str):
        raise JobError(f"{word}: has no space.family; give a space.json, a job file, or one of {FAMILY_NAMES}")
    settled = {str(key): value for key, value in section.items() if key != "family"}
    return define_space(section["family"], **settled | given)


def device_of(word: str) -> Device:
    """The device that `word` names: settings as `cpu_t2`, `cpu_t1_int8_b8`, or a file with the keys of a device."""
    match = _DEVICE.fullmatch(word)
    if match is None or Path(word).exists():
        wanted = "is neither a device such as cpu_t1, cpu_t4_int8 or cuda_t1_fp16_b8 nor a file that describes one"
        document = read_document(Path(word), wanted)
        return Device.from_json({"name": Path(word).stem, **document})
    provider, threads, precision, batch = match.groups()
    return Device(
        word,
        provider=_provider(provider, word),
        threads=int(threads),
        precision=precision or "fp32",
        batch=int(batch or 1),
    )


def seconds_of(word: str) -> float:
    """Seconds of `90`, `90s`, `2m` or `1.5h`."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([smh]?)", word.strip())
    if match is None or float(match[1]) <= 0:
        raise JobError(f"{word!r} is not an amount of time such as 90s, 2m or 1h")
    return float(match[1]) * _SECONDS[match[2]]


def share_of(word: str) -> float:
    """0.05 of `5%` or `0.05`."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?)\s*(%?)", word.strip())
    value = float(match[1]) / (100 if match[2] else 1) if match else 0.0
    if not 0 < value < 1:
        raise JobError(f"{word!r} is not a share such as 5% or 0.05")
    return value


def shape_of(word: str) -> tuple[str, tuple[int, ...]]:
    """Name and shape of `input=1,3,224,224`; a name of a dimension alone, as `batch=8`, has one extent."""
    name, equals, extents = word.partition("=")
    parts = [part.strip() for part in extents.split(",")]
    if not (name and equals and all(re.fullmatch(r"[1-9]\d{0,8}", part) for part in parts)):
        raise JobError(f"{word!r} is not a shape such as input=1,3,224,224 or batch=8")
    return name, tuple(map(int, parts))


def read_document(path: Path, otherwise: str) -> dict[str, Any]:
    """The mapping in a JSON or YAML file; where there is no such file, the error says what `path` is not."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise JobError(f"{path} {otherwise}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"{path}: cannot be read ({error})") from error
    try:
        document = json.loads(text) if path.suffix == ".json" else _yaml(text)
    except (ValueError, RecursionError) as error:
        raise JobError(f"{path}: not valid JSON or YAML ({' '.join(str(error).split())})") from error
    if not isinstance(document, dict):
        raise JobError(f"{path}: wanted a mapping, found {type(document).__name__}")
    return document


def _yaml(text: str) -> Any:
    import yaml  # a device that only measures need not have it

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    try:
        return key, json.loads(value) if equals else json.loads("")
    except ValueError as error:
        raise JobError(f"--set {text!r} is not of the form key=value with a value such as 1.0 or [32, 64]") from error


def _provider(short: str, word: str) -> str:
    """The provider's full name, of those that this ONNX Runtime has or knows."""
    for full in onnxruntime.get_all_providers():
        if full.removesuffix("ExecutionProvider").lower() == short:
            return str(full)
    known = sorted(full.removesuffix("ExecutionProvider").lower() for full in onnxruntime.get_all_providers())
    raise JobError(f"device {word}: onnxruntime knows no provider {short!r}; it knows {', '.join(known)}")
