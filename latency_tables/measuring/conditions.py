"""What the system tells about disturbances: steal time, pressure, clock frequency, temperature, waiting threads.

All of it comes from files of Linux; where one is missing the answer is None, as on every other system.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

# The kernel counts processor time in hundredths of a second towards its users (USER_HZ), whatever its own tick.
TICK_S = 0.01
WINDOW_S = 0.05
"""Idle time comes in steps of 10 ms; of a shorter stretch it says too little."""
# Columns of a core's line: idle, and waiting for input and output, which is idle as well; stolen.
IDLE, WAITING, STEAL = 3, 4, 7
PRESSURE = re.compile(r"^some .*total=(\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Counters:
    """What the system has counted up to one moment."""

    at_s: float
    steal_s: tuple[float, ...] | None
    """One number for each of our cores."""
    pressure_s: float | None
    idle_s: dict[int, float]
    """For each core but ours."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the system tells of a stretch of time. Shares are of that time."""

    steal: float | None = None
    """The largest over our cores."""
    pressure: float | None = None
    """Some task of the whole system waited for a processor."""
    frequency_mhz: float | None = None
    """The lowest over our cores, at the end."""
    temperature_c: float | None = None
    """The hottest of the zones that the system shows, at the end."""
    neighbour: float | None = None
    """How busy the busiest core but ours was."""


class System:
    """The machine that runs us, as far as its files tell. `root` stands in for `/`."""

    def __init__(
        self, cores: Iterable[int] = (), root: Path = Path("/"), clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.clock = clock
        self.cores = tuple(cores)
        self.root = root
        frequency = "sys/devices/system/cpu/cpu{}/cpufreq/scaling_cur_freq"
        self.frequencies = [root / frequency.format(core) for core in self.cores]
        self.window: Counters | None = None
        self.neighbour: float | None = None
        self.temperatures = sorted((root / "sys/class/thermal").glob("thermal_zone*/temp"))

    def counters(self) -> Counters:
        at_s, cores = self.clock(), core_ticks(self.root)
        steal = [ticks[STEAL] * TICK_S for core in self.cores if len(ticks := cores.get(core, ())) > STEAL]
        idle = {core: _idle_s(ticks) for core, ticks in cores.items() if core not in self.cores}
        return Counters(at_s, tuple(steal) or None, self._pressure_s(), idle)

    def since(self, start: Counters) -> Conditions:
        """The conditions from `start` to now."""
        now = self.counters()
        passed = max(now.at_s - start.at_s, 1e-9)
        steal = None
        if start.steal_s and now.steal_s:
            steal = max(later - before for before, later in zip(start.steal_s, now.steal_s, strict=False)) / passed
        pressure = None
        if start.pressure_s is not None and now.pressure_s is not None:
            pressure = (now.pressure_s - start.pressure_s) / passed
        return Conditions(
            # The kernel's clocks and ours do not tick together: a share can come out slightly off its range.
            None if steal is None else min(1.0, max(0.0, steal)),
            None if pressure is None else min(1.0, max(0.0, pressure)),
            _extreme(min, self.frequencies, 1e3),
            _extreme(max, self.temperatures, 1e3),
            self._neighbour(start, now),
        )

    def _neighbour(self, start: Counters, now: Counters) -> float | None:
        """How busy the busiest other core was over the last `WINDOW_S` or more, as far back as it takes."""
        window = self.window or start
        passed = now.at_s - window.at_s
        if passed >= WINDOW_S:
            idle = [now.idle_s[core] - before for core, before in window.idle_s.items() if core in now.idle_s]
            self.neighbour = max(0.0, 1 - min(idle) / passed) if idle else None
            window = start
        self.window = window
        return self.neighbour

    def threads(self) -> frozenset[int]:
        """Ids of this process's threads."""
        try:
            return frozenset(int(task.name) for task in (self.root / "proc/self/task").iterdir())
        except OSError:
            return frozenset()

    def waited_s(self, threads: Iterable[int]) -> tuple[float, ...]:
        """For each thread how long it was ready to run and had no processor, since it began; 0 where it is gone."""
        waits = (_words(self.root / f"proc/self/task/{thread}/schedstat") for thread in threads)
        return tuple(int(words[1]) / 1e9 if len(words) == 3 else 0.0 for words in waits)

    def _pressure_s(self) -> float | None:
        found = PRESSURE.search(_text(self.root / "proc/pressure/cpu"))
        return int(found[1]) / 1e6 if found else None


def core_ticks(root: Path) -> dict[int, tuple[int, ...]]:
    """For each core the columns of its line in `/proc/stat`."""
    lines = [line.split() for line in _text(root / "proc/stat").splitlines() if re.match(r"cpu\d", line)]
    return {int(words[0][3:]): tuple(map(int, words[1:])) for words in lines if len(words) > WAITING + 1}


def idle_s(root: Path) -> dict[int, float]:
    """How long each core has been idle, in steps of 10 ms."""
    return {core: _idle_s(ticks) for core, ticks in core_ticks(root).items()}


def _idle_s(ticks: tuple[int, ...]) -> float:
    return (ticks[IDLE] + ticks[WAITING]) * TICK_S


def _extreme(choose: Callable[[list[int]], int], files: Iterable[Path], scale: float) -> float | None:
    numbers = [int(words[0]) for file in files if (words := _words(file)) and words[0].lstrip("-").isdigit()]
    return choose(numbers) / scale if numbers else None


def _words(path: Path) -> list[str]:
    return _text(path).split()


def _text(path: Path) -> str:
    # `/proc` reads in one call; opening by path costs 10-15 us a file.
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
