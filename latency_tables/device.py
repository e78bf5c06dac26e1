"""Devices: where a model runs and how, and the fingerprint of the machine on which it was measured."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import onnxruntime

from latency_tables.errors import LatencyError
from search_spaces import digest

Json = Any

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
PRECISIONS = ("fp32",)
GRAPH_OPTIMIZATIONS = ("all", "extended", "basic", "disabled")


@dataclass(frozen=True, slots=True)
class Device:
    """Where a model runs: ONNX Runtime provider and options, threads, precision, batch.

    Whether the runtime at hand has the provider is found out when measuring, so that a server can describe a device
    that it is not.
    """

    name: str
    provider: str = "CPUExecutionProvider"
    provider_options: tuple[tuple[str, str], ...] = ()
    threads: int = 1
    precision: str = "fp32"
    batch: int = 1
    graph_optimization: str = "all"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise LatencyError(
                f"a device's name is of small letters, digits, '_', '.', '-' and begins with one of the first two; "
                f"not {self.name!r}"
            )
        if not isinstance(self.provider, str) or not self.provider:
            raise LatencyError(f"device {self.name}: provider must be a non-empty string, not {self.provider!r}")
        for option in self.provider_options:
            if len(option) != 2 or not all(isinstance(part, str) for part in option):
                raise LatencyError(f"device {self.name}: a provider option is a pair of strings, not {option!r}")
        _whole(self.name, "threads", self.threads, 1024)
        _whole(self.name, "batch", self.batch, 4096)
        _one_of(self.name, "precision", self.precision, PRECISIONS)
        _one_of(self.name, "graph_optimization", self.graph_optimization, GRAPH_OPTIMIZATIONS)

    @property
    def id(self) -> str:
        """The settings as a short word, as `cpu_t1_fp32_b8`; what is rarely set goes into a digest at its end."""
        provider = self.provider.removesuffix("ExecutionProvider").lower()
        word = f"{provider}_t{self.threads}_{self.precision}_b{self.batch}"
        rare = [dict(self.provider_options), self.graph_optimization]
        return word if rare == [{}, "all"] else f"{word}_{digest(rare, 6)}"

    def to_json(self) -> dict[str, Json]:
        return {**asdict(self), "provider_options": dict(self.provider_options)}

    @staticmethod
    def from_json(document: Json) -> Device:
        """Read what `to_json` wrote; `LatencyError` names what is wrong."""
        found = _fields_of(Device, "device", document)
        options = found.get("provider_options", {})
        if not isinstance(options, Mapping):
            raise LatencyError(f"device: provider_options must be an object, not {options!r}")
        return Device(**{**found, "provider_options": tuple(options.items())})


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What identifies the machine and the runtime that a table was measured with; empty where it cannot be read."""

    cpu: str
    machine: str
    cores: int
    memory_gib: int
    os: str
    onnxruntime: str
    governor: str = ""
    flags: str = field(default="", metadata={"about": "digest of the processor's feature flags"})

    @property
    def id(self) -> str:
        return digest(self.to_json())

    def to_json(self) -> dict[str, Json]:
        return asdict(self)

    @staticmethod
    def from_json(document: Json) -> Fingerprint:
        """Read what `to_json` wrote; `LatencyError` names what is wrong."""
        found = _fields_of(Fingerprint, "fingerprint", document)
        for part in fields(Fingerprint):
            wanted = int if part.name in ("cores", "memory_gib") else str
            if part.name in found and type(found[part.name]) is not wanted:
                raise LatencyError(f"fingerprint: {part.name} must be {wanted.__name__}, not {found[part.name]!r}")
        return Fingerprint(**found)


def fingerprint() -> Fingerprint:
    """The machine at hand."""
    cpuinfo = _cpuinfo()
    flags = sorted((cpuinfo.get("flags") or cpuinfo.get("Features") or "").split())
    return Fingerprint(
        cpu=cpuinfo.get("model name") or cpuinfo.get("Model") or platform.processor(),
        machine=platform.machine(),
        cores=os.cpu_count() or 1,
        memory_gib=_memory_gib(),
        os=f"{platform.system()} {platform.release()}",
        onnxruntime=onnxruntime.__version__,
        governor=_read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip(),
        flags=digest(flags) if flags else "",
    )


def local_devices() -> tuple[Device, ...]:
    """What the machine at hand offers by default: one thread, two threads where it has them, and a batch of 8."""
    pair = (Device("cpu_t2", threads=2),) if _usable_cores() >= 2 else ()
    return (Device("cpu_t1"), *pair, Device("cpu_t1_b8", batch=8))


def _usable_cores() -> int:
    """Cores that this process may use, which in a container can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpuinfo() -> dict[str, str]:
    """The first value of every key in `/proc/cpuinfo`."""
    found: dict[str, str] = {}
    for line in _read("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    return found


def _memory_gib() -> int:
    """Installed memory, rounded: the exact number moves with the kernel."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    except (AttributeError, ValueError, OSError):
        return 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _whole(device: str, name: str, value: int, high: int) -> None:
    if type(value) is not int or not 1 <= value <= high:
        raise LatencyError(f"device {device}: {name} must be a whole number from 1 to {high}, not {value!r}")


def _one_of(device: str, name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise LatencyError(f"device {device}: {name} must be one of {', '.join(known)}, not {value!r}")


def _fields_of(kind: type[Device] | type[Fingerprint], what: str, document: Json) -> dict[str, Json]:
    """The document as arguments of `kind`: an object without unknown fields that has all the required ones."""
    if not isinstance(document, dict):
        raise LatencyError(f"{what}: wanted an object, found {type(document).__name__}")
    known = {part.name for part in fields(kind)}
    unknown = [name for name in document if name not in known]
    required = ("name",) if kind is Device else tuple(part.name for part in fields(kind))[:6]
    missing = [name for name in required if name not in document]
    if unknown or missing:
        problem = f"unknown field {unknown[0]!r}" if unknown else f"no field {missing[0]!r}"
        raise LatencyError(f"{what}: {problem}")
    return dict(document)
