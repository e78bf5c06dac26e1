"""Latency tables: the measurements of one device over one space, as a file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_tables.device import Device, Fingerprint
from latency_tables.errors import LatencyError, TableError
from latency_tables.files import write_atomically
from latency_tables.measurement import Measurement
from search_spaces import Arch, Codes, Space, SpaceError, canonical_json

TABLE_FORMAT = "nas.latency_table/1"

Json = Any


@dataclass(frozen=True, slots=True)
class Entry:
    """One measured architecture; the measurement's key is the architecture's id."""

    arch: Arch
    measurement: Measurement

    def __post_init__(self) -> None:
        if self.measurement.key != self.arch.id:
            raise TableError(f"the measurement {self.measurement.key} is not of architecture {self.arch.id}")


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """All measurements of one device over one space, taken on one machine by one version of the protocol."""

    space: Space
    device: Device
    fingerprint: Fingerprint
    protocol: int
    entries: tuple[Entry, ...] = ()

    def __post_init__(self) -> None:
        seen: set[Arch] = set()
        for entry in self.entries:
            if entry.arch.space_id != self.space.id:
                raise TableError(f"architecture {entry.arch.id} is of space {entry.arch.space_id}, not {self.space.id}")
            if entry.arch in seen:
                raise TableError(f"architecture {entry.arch.id} stands twice in the table")
            seen.add(entry.arch)

    @property
    def measurements(self) -> dict[str, Measurement]:
        """By architecture id."""
        return {entry.arch.id: entry.measurement for entry in self.entries}

    def codes(self) -> Codes:
        """The measured architectures, `(n, choices)`, in the order of the entries."""
        return self.space.encode(entry.arch for entry in self.entries)

    def latency_ms(self) -> NDArray[np.float64]:
        """Their median latencies, `(n,)`."""
        return np.array([entry.measurement.median_us for entry in self.entries]) / 1e3

    @property
    def noise_floor(self) -> float:
        """The median over the entries of how far two halves of one measurement lie apart, relative."""
        return float(np.median([entry.measurement.noise_floor for entry in self.entries]))

    def with_measured(self, archs: Iterable[Arch], measured: Mapping[str, Measurement]) -> LatencyTable:
        """This table with measurements added, or replaced where the architecture is there already."""
        entries = {entry.arch: entry for entry in self.entries}
        entries |= {arch: Entry(arch, measured[arch.id]) for arch in archs if arch.id in measured}
        return LatencyTable(self.space, self.device, self.fingerprint, self.protocol, tuple(entries.values()))

    def to_json(self) -> dict[str, Json]:
        return {
            "format": TABLE_FORMAT,
            "protocol": self.protocol,
            "space": self.space.to_json(),
            "device": self.device.to_json(),
            "fingerprint": self.fingerprint.to_json(),
            "entries": [
                {"choices": entry.arch.to_json()["choices"], "measurement": entry.measurement.to_json()}
                for entry in self.entries
            ],
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table so that a crash or a full disk leaves the file that was there before."""
        body = canonical_json(self.to_json())
        write_atomically(path, f'{{"digest":"{sha256(body.encode()).hexdigest()}",{body[1:]}\n')


def load(
    path: str | os.PathLike[str],
    *,
    space: Space | None = None,
    device: Device | None = None,
    protocol: int | None = None,
) -> LatencyTable:
    """Read what `LatencyTable.save` wrote; give `space`, `device` or `protocol` to refuse a table of another one.

    `TableError` names the file, the field and what to do, in one line.
    """
    document = _document(Path(path))
    try:
        table = _parse(document)
    except (LatencyError, SpaceError) as error:
        raise TableError(f"{path}: {error}") from error
    if space is not None and table.space != space:
        raise TableError(f"{path}: space: the table is of space {table.space.id}, wanted {space.id}; profile this one")
    if device is not None and table.device != device:
        found = f"{table.device.name} ({table.device.id})"
        raise TableError(f"{path}: device: the table is of {found}, wanted {device.name} ({device.id})")
    if protocol is not None and table.protocol != protocol:
        raise TableError(
            f"{path}: protocol: measured by version {table.protocol}, wanted {protocol}; delete it and profile anew"
        )
    return table


def _document(path: Path) -> dict[str, Json]:
    """The file's JSON object, of our format and with the content that its digest names."""
    try:
        document: Json = json.loads(path.read_bytes())
    except OSError as error:
        raise TableError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise TableError(f"{path}: not a whole latency table: {error}; profile anew") from error
    found = document.get("format") if isinstance(document, dict) else type(document).__name__
    if found != TABLE_FORMAT:
        raise TableError(f"{path}: format: wanted {TABLE_FORMAT!r}, found {found!r}")
    stated = document.pop("digest", None)
    try:
        actual = sha256(canonical_json(document).encode()).hexdigest()
    except ValueError as error:
        raise TableError(f"{path}: entries: a number is NaN or infinite ({error})") from error
    if stated != actual:
        raise TableError(f"{path}: digest: the content was changed after it was written; profile anew")
    content: dict[str, Json] = document
    return content


def _parse(document: dict[str, Json]) -> LatencyTable:
    for name, kind in (("protocol", int), ("space", dict), ("device", dict), ("fingerprint", dict), ("entries", list)):
        if type(document.get(name)) is not kind:
            raise TableError(f"{name}: wanted {kind.__name__}, found {type(document.get(name)).__name__}")
    space = Space.from_json(document["space"])
    entries = []
    for index, entry in enumerate(document["entries"]):
        if not isinstance(entry, dict) or sorted(entry) != ["choices", "measurement"]:
            raise TableError(f"entries[{index}]: wanted an object with 'choices' and 'measurement'")
        try:
            arch = space.arch_from_json({"space": space.id, "choices": entry["choices"]})
            entries.append(Entry(arch, Measurement.from_json(entry["measurement"])))
        except (LatencyError, SpaceError) as error:
            raise TableError(f"entries[{index}]: {error}") from error
    return LatencyTable(
        space,
        Device.from_json(document["device"]),
        Fingerprint.from_json(document["fingerprint"]),
        document["protocol"],
        tuple(entries),
    )
