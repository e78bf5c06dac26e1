"""Energy of an inference, where the machine counts it: through the optional library `zeus`, or any other meter."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from typing import Any, Protocol

from latency_tables.errors import LatencyError

Json = Any

# Counters of processors and boards move in steps of 1-100 ms: a second makes a step at most a tenth.
WINDOW_S = 1.0
# What Apple's counters add up from; other boards give their total.
APPLE_PARTS = ("cpu_total_mj", "gpu_mj", "dram_mj", "ane_mj")


@dataclass(frozen=True, slots=True)
class Energy:
    """What the whole machine or accelerator took while inferences ran back to back; idle power is part of it."""

    joules: float
    """Of one inference, batch included."""
    watts: float
    runs: int
    source: str
    """What was counted: parts of the machine, as `gpu+cpu`."""

    def __post_init__(self) -> None:
        for name in ("joules", "watts"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise LatencyError(f"energy: {name} must be a positive number, not {getattr(self, name)}")

    def to_json(self) -> dict[str, Json]:
        return asdict(self)

    @staticmethod
    def from_json(document: Json) -> Energy:
        """Read what `to_json` wrote; `LatencyError` names what is wrong."""
        kinds: dict[str, type | tuple[type, ...]] = {
            "joules": (int, float), "watts": (int, float), "runs": int, "source": str
        }  # fmt: skip
        if not isinstance(document, dict) or set(document) != {part.name for part in fields(Energy)}:
            raise LatencyError(f"energy: wanted an object with {', '.join(kinds)}")
        for name, kind in kinds.items():
            if isinstance(document[name], bool) or not isinstance(document[name], kind):
                raise LatencyError(f"energy: {name} has the wrong type: {document[name]!r}")
        return Energy(**document)


class EnergyMeter(Protocol):
    """Counts joules between two moments."""

    def begin(self) -> None: ...

    def end(self) -> dict[str, float]:
        """Joules since `begin` by part of the machine; empty where nothing is counted."""


class ZeusMeter:
    """RAPL, NVML, Jetson and Apple counters, as `zeus` reads them (You et al., NSDI 2023)."""

    def __init__(self) -> None:
        self.monitor = import_module("zeus.monitor").ZeusMonitor()

    def begin(self) -> None:
        self.monitor.begin_window("inferences", sync_execution=False)

    def end(self) -> dict[str, float]:
        found = self.monitor.end_window("inferences", sync_execution=False)
        parts = {"gpu": found.gpu_energy, "cpu": found.cpu_energy, "dram": found.dram_energy}
        joules = {name: float(sum(part.values())) for name, part in parts.items() if part}
        if found.soc_energy is not None:
            joules["soc"] = _soc_mj(found.soc_energy) / 1e3
        return {name: value for name, value in joules.items() if value > 0}


def find_meter() -> EnergyMeter | None:
    """A meter, if this machine counts energy, the library is there and we may read; otherwise None."""
    try:
        meter = ZeusMeter()
        meter.begin()
        time.sleep(0.2)
        return meter if meter.end() else None
    except Exception:  # whatever drivers and counters raise, it means that energy cannot be told here
        return None


def measure_energy(
    run: Callable[[], float], meter: EnergyMeter, clock: Callable[[], float] = time.perf_counter
) -> Energy | None:
    """Run back to back for `WINDOW_S`, after half as long that does not count; None where the meter stood still."""
    _run_for(run, WINDOW_S / 2, clock)
    meter.begin()
    runs, seconds = _run_for(run, WINDOW_S, clock)
    parts = meter.end()
    joules = sum(parts.values())
    if not joules > 0:
        return None
    return Energy(joules / runs, joules / seconds, runs, "+".join(parts))


def _run_for(run: Callable[[], float], seconds: float, clock: Callable[[], float]) -> tuple[int, float]:
    """How many runs there were, and how long they took."""
    start, runs = clock(), 0
    while runs == 0 or clock() - start < seconds:
        run()
        runs += 1
    return runs, clock() - start


def _soc_mj(found: Any) -> float:
    total = getattr(found, "total_energy_mj", None)
    if total is not None:
        return float(total)
    return float(sum(getattr(found, part, None) or 0 for part in APPLE_PARTS))
