"""Latency tables: the measurements of one device over one space, as a file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_tables.device import Device, Fingerprint
from latency_tables.errors import LatencyError, TableError
from latency_tables.files import write_atomically
from latency_tables.journal import Journal
from latency_tables.measuring.measurement import Measurement, Round
from latency_tables.statistic import MEDIAN, STATISTICS, noise_floor
from search_spaces import Arch, Codes, Space, SpaceError, canonical_json

TABLE_FORMAT = "nas.latency_table/2"
FIRST_FORMAT = "nas.latency_table/1"
"""Read as well, as far as it goes: tables measured by version 1 of the protocol."""
SHIFTED = 0.1
"""A canary that differs by more than this from the table's means another machine, or the same one in another state."""

# Of statistics that not every measurement has: what they are of, and how to come by them.
LACKING = {
    "energy_mj": ("energy", "pip install '.[energy]' on a machine that counts it, and profile anew"),
}

F64 = NDArray[np.float64]
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
    peak_gmacs_per_s: float | None = None
    """Billions of multiply-accumulates a second at best, where that was measured (`peak`)."""

    def __post_init__(self) -> None:
        seen: set[Arch] = set()
        for entry in self.entries:
            if entry.arch.space_id != self.space.id:
                raise TableError(f"architecture {entry.arch.id} is of space {entry.arch.space_id}, not {self.space.id}")
            if entry.arch in seen:
                raise TableError(f"architecture {entry.arch.id} stands twice in the table")
            seen.add(entry.arch)
        peak = self.peak_gmacs_per_s
        if peak is not None and not (math.isfinite(peak) and peak > 0):
            raise TableError(f"peak_gmacs_per_s: wanted a positive number, found {peak}")

    @property
    def measurements(self) -> dict[str, Measurement]:
        """By architecture id."""
        return {entry.arch.id: entry.measurement for entry in self.entries}

    @property
    def canary_us(self) -> float | None:
        """The undisturbed canary: the median over the entries; None for an empty table."""
        references = [entry.measurement.reference_us for entry in self.entries]
        return float(np.median(references)) if references else None

    def shift(self, measurement: Measurement) -> float:
        """How much slower the machine was for this measurement than for this table: the canary's ratio, less one."""
        canary_us = self.canary_us
        return 0.0 if canary_us is None else measurement.reference_us / canary_us - 1

    @property
    def shifted(self) -> tuple[Entry, ...]:
        """Entries measured while the canary was more than `SHIFTED` off the table's: they may not compare to the rest."""
        return tuple(entry for entry in self.entries if abs(self.shift(entry.measurement)) > SHIFTED)

    def codes(self) -> Codes:
        """The measured architectures, `(n, choices)`, in the order of the entries."""
        return self.space.encode(entry.arch for entry in self.entries)

    def latency_ms(self) -> F64:
        """Their median latencies, `(n,)`."""
        return self.values(MEDIAN)

    def values(self, statistic: str) -> F64:
        """One of `STATISTICS` of each, `(n,)`; `TableError` if it was not measured for all of them."""
        found = self._column(statistic)
        if None in found:
            raise self._lacking(statistic, found.count(None))
        return np.array(found, dtype=np.float64)

    def having(self, statistic: str) -> LatencyTable:
        """Its entries for which this was measured; `TableError` if there are none though it has entries."""
        found = self._column(statistic)
        if found and found.count(None) == len(found):
            raise self._lacking(statistic, len(found))
        entries = zip(self.entries, found, strict=True)
        return replace(self, entries=tuple(entry for entry, value in entries if value is not None))

    def _lacking(self, statistic: str, networks: int) -> TableError:
        which = "it" if networks == len(self.entries) else f"{networks} of its {len(self.entries)} networks"
        what, remedy = LACKING[statistic]
        return TableError(f"{self.device.name}: no {what} was measured for {which}: {remedy}")

    def _column(self, statistic: str) -> list[float | None]:
        if statistic not in STATISTICS:
            raise TableError(f"{self.device.name}: unknown statistic {statistic!r}; known are {', '.join(STATISTICS)}")
        return [STATISTICS[statistic](entry.measurement) for entry in self.entries]

    @property
    def noise_floor(self) -> float:
        """That of the median latency."""
        return self.noise_floor_of(MEDIAN)

    def noise_floor_of(self, statistic: str) -> float:
        """The median over the entries of how far two halves of one measurement lie apart, relative."""
        return float(np.median([noise_floor(entry.measurement, statistic) for entry in self.entries]))

    def with_measured(self, archs: Iterable[Arch], measured: Mapping[str, Measurement]) -> LatencyTable:
        """This table with measurements added, or replaced where the architecture is there already."""
        entries = {entry.arch: entry for entry in self.entries}
        entries |= {arch: Entry(arch, measured[arch.id]) for arch in archs if arch.id in measured}
        return replace(self, entries=tuple(entries.values()))

    def to_json(self) -> dict[str, Json]:
        return {
            "format": TABLE_FORMAT,
            "protocol": self.protocol,
            "space": self.space.to_json(),
            "device": self.device.to_json(),
            "fingerprint": self.fingerprint.to_json(),
            "peak_gmacs_per_s": self.peak_gmacs_per_s,
            "entries": [
                {"choices": entry.arch.to_json()["choices"], "measurement": entry.measurement.to_json()}
                for entry in self.entries
            ],
        }

    def save(self, path: str | os.PathLike[str]) -> Journal:
        """Write the table so that a crash or a full disk leaves the file that was there before.

        What is written into the journal that comes back is read with the table, until the table is saved again.
        """
        body = canonical_json(self.to_json())
        table_digest = sha256(body.encode()).hexdigest()
        write_atomically(path, f'{{"digest":"{table_digest}",{body[1:]}\n')
        journal = Journal(Path(path), table_digest)
        journal.clear()
        return journal


def load(
    path: str | os.PathLike[str],
    *,
    space: Space | None = None,
    device: Device | None = None,
    protocol: int | None = None,
) -> LatencyTable:
    """Read what `LatencyTable.save` wrote; give `space`, `device` or `protocol` to refuse a table of another one.

    Rounds of a profile that was interrupted are read from the journal beside it. `TableError` names the file, the field
    and what to do, in one line.
    """
    document = _document(Path(path))
    journal = Journal(Path(path), document.pop("digest"))
    try:
        table = _with_rounds(_parse(document), journal)
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
    if found not in (TABLE_FORMAT, FIRST_FORMAT):
        raise TableError(f"{path}: format: wanted {TABLE_FORMAT!r}, found {found!r}; delete it and profile anew")
    stated = document.pop("digest", None)
    try:
        actual = sha256(canonical_json(document).encode()).hexdigest()
    except ValueError as error:
        raise TableError(f"{path}: entries: a number is NaN or infinite ({error})") from error
    if stated != actual:
        raise TableError(f"{path}: digest: the content was changed after it was written; profile anew")
    content: dict[str, Json] = {**document, "digest": actual}
    return content


def _parse(document: dict[str, Json]) -> LatencyTable:
    for name, kind in (("protocol", int), ("space", dict), ("device", dict), ("fingerprint", dict), ("entries", list)):
        if type(document.get(name)) is not kind:
            raise TableError(f"{name}: wanted {kind.__name__}, found {type(document.get(name)).__name__}")
    peak = document.get("peak_gmacs_per_s")
    if peak is not None and type(peak) not in (int, float):
        raise TableError(f"peak_gmacs_per_s: wanted a number, found {type(peak).__name__}")
    space = Space.from_json(document["space"])
    read = _first_measurement if document["format"] == FIRST_FORMAT else Measurement.from_json
    entries = []
    for index, entry in enumerate(document["entries"]):
        if not isinstance(entry, dict) or sorted(entry) != ["choices", "measurement"]:
            raise TableError(f"entries[{index}]: wanted an object with 'choices' and 'measurement'")
        try:
            arch = space.arch_from_json({"space": space.id, "choices": entry["choices"]})
            entries.append(Entry(arch, read(entry["measurement"])))
        except (LatencyError, SpaceError) as error:
            raise TableError(f"entries[{index}]: {error}") from error
    return LatencyTable(
        space,
        Device.from_json(document["device"]),
        Fingerprint.from_json(document["fingerprint"]),
        document["protocol"],
        tuple(entries),
        peak,
    )


def _first_measurement(document: Json) -> Measurement:
    """A measurement of `FIRST_FORMAT`: it has calm rounds only, unless it is marked as disturbed without saying why."""
    try:
        rounds = len(document["rounds_us"])
        columns = {"samples_us": "rounds_us", "canary_us": "canary_us", "cpu_share": "cpu_shares"}
        return Measurement.from_json(
            {
                **{name: document[name] for name in ("key", "reference_us", "spinning", "load_average")},
                "rounds": {new: document[old] for new, old in columns.items()},
                "reasons": ["unknown" if document["disturbed"] else ""] * rounds,
                "counts": [1] * rounds,
                "ended": "precision" if document["converged"] else "budget",
                **{"cores": [], "priority": "", "footprint": None, "energy": None},
            }
        )
    except (KeyError, TypeError) as error:
        raise LatencyError(f"broken measurement of {FIRST_FORMAT}: {type(error).__name__} {error}") from error


def journal_entry(arch: Arch, measurement: Measurement, written: int) -> Json:
    """What a journal's line says of one network after its first `written` rounds."""
    return {"choices": arch.to_json()["choices"], "written": written, "measurement": measurement.since(written)}


def _with_rounds(table: LatencyTable, journal: Journal) -> LatencyTable:
    """The table with the rounds of its journal, line by line joined to those before."""
    entries = {entry.arch: entry for entry in table.entries}
    for number, line in enumerate(journal.lines()):
        try:
            for record in line:
                arch = table.space.arch_from_json({"space": table.space.id, "choices": record["choices"]})
                earlier: tuple[Round, ...] = entries[arch].measurement.rounds if arch in entries else ()
                found = Measurement.from_json(record["measurement"], earlier[: record["written"]])
                entries[arch] = Entry(arch, found)
        except (KeyError, TypeError) as error:
            raise TableError(f"journal line {number + 1}: {type(error).__name__} {error}") from error
    return replace(table, entries=tuple(entries.values()))
