"""Devices: where a model runs and how, and the fingerprint of the machine on which it was measured."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from types import ModuleType
from typing import Any

from latency_tables.errors import LatencyError
from latency_tables.processor import Processor, short_name
from search_spaces import digest

Json = Any

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
PRECISIONS = ("fp32", "fp16", "int8")
"""fp16 is half-precision weights and activations, int8 a graph of quantised ones (`quantise`)."""
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
    """Pairs of option and value; a mapping is taken as well. Numbers and switches become the strings that they stand for."""
    threads: int = 1
    precision: str = "fp32"
    batch: int = 1
    graph_optimization: str = "all"
    agent: str = ""
    """The enrolled machine that measures it; empty: the machine at hand."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise LatencyError(
                f"a device's name is of small letters, digits, '_', '.', '-' and begins with one of the first two; "
                f"not {self.name!r}"
            )
        if not isinstance(self.agent, str) or (self.agent and not NAME.fullmatch(self.agent)):
            raise LatencyError(f"device {self.name}: agent must be the name of an enrolled machine, not {self.agent!r}")
        if not isinstance(self.provider, str) or not self.provider:
            raise LatencyError(f"device {self.name}: provider must be a non-empty string, not {self.provider!r}")
        object.__setattr__(self, "provider_options", _options(self.name, self.provider_options))
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

    def full_name(self, fingerprint: Fingerprint) -> str:
        """The settings on one machine, as `epyc-9004_ort1.31_cpu_t1_fp32_b1`: unlike `id`, it tells machines apart."""
        runtime = ".".join(fingerprint.onnxruntime.split(".")[:2])
        return f"{short_name(fingerprint.cpu, fingerprint.machine)}_ort{runtime}_{self.id}"

    def to_json(self) -> dict[str, Json]:
        found = {**asdict(self), "provider_options": dict(self.provider_options)}
        return found if self.agent else {key: value for key, value in found.items() if key != "agent"}

    @staticmethod
    def from_json(document: Json) -> Device:
        """Read what `to_json` wrote; `LatencyError` names what is wrong."""
        found = _fields_of(Device, "device", document)
        options = found.get("provider_options", {})
        if not isinstance(options, Mapping):
            raise LatencyError(f"device: provider_options must be an object, not {options!r}")
        return Device(**found)


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
    flags: str = ""
    """Digest of the processor's feature flags."""
    providers: str = ""
    """What the runtime was built with."""

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
    import onnxruntime

    here = Processor.here()
    return Fingerprint(
        cpu=here.model,
        machine=here.machine,
        cores=here.cores,
        memory_gib=here.memory_gib,
        os=f"{platform.system()} {platform.release()}",
        onnxruntime=onnxruntime.__version__,
        governor=here.governor,
        flags=digest(list(here.flags)) if here.flags else "",
        providers=", ".join(_providers(onnxruntime)),
    )


def local_devices() -> tuple[Device, ...]:
    """What the machine at hand offers by default: one thread, two threads where it has them, and a batch of 8."""
    pair = (Device("cpu_t2", threads=2),) if Processor.here().usable_cores >= 2 else ()
    return (Device("cpu_t1"), *pair, Device("cpu_t1_b8", batch=8))


def _providers(onnxruntime: ModuleType) -> list[str]:
    """The runtime's providers, with the version of CUDA that they were built for, where the runtime says so."""
    cuda = getattr(onnxruntime, "cuda_version", "")
    built = {"CUDAExecutionProvider": cuda, "TensorrtExecutionProvider": cuda}
    return [f"{name} {built.get(name, '')}".strip() for name in sorted(onnxruntime.get_available_providers())]


def _options(device: str, given: Json) -> tuple[tuple[str, str], ...]:
    """Provider options as pairs of strings, as the runtime takes them."""
    pairs = given.items() if isinstance(given, Mapping) else given
    if isinstance(pairs, str) or not all(isinstance(pair, Sequence) and len(pair) == 2 for pair in pairs):
        raise LatencyError(f"device {device}: provider_options must map options to values, not {given!r}")
    return tuple((_option(device, name), _option(device, value)) for name, value in pairs)


def _option(device: str, value: Json) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if not isinstance(value, str | int | float):
        raise LatencyError(f"device {device}: a provider option is a string or a number, not {value!r}")
    return str(value)


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
