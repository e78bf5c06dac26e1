"""How measuring goes: the version of the protocol with its reasons, and the settings of one measurement."""

from __future__ import annotations

import math
from dataclasses import dataclass

from latency_tables.errors import LatencyError

PROTOCOL = 2
"""The version of how we measure. Tables of different versions are not mixed. Version 2, with its reasons:

- Whole networks, with the runtime's profiling off: sums of profiled operators were 0.82-1.46x of the true latency.
- A fresh session for each graph, run until its time is stable before anything counts.
- The calling thread is bound to as many cores as the device has threads, at the highest priority that the system
  grants, and both are put back afterwards (`placement`). Workers inherit both.
- Rounds. Each round visits every graph once, in an order drawn anew: slow drift of the machine then hits all alike.
  A visit is a few unrecorded inferences, which bring code and weights back into the caches, then about `visit_ms` of
  recorded ones, one by one. Garbage collection is off meanwhile.
- A canary, a fixed small network at the device's own threads, is timed between every few graphs. A visit counts when the
  slower of the readings on its two sides is within `disturbed` of the reference, the lower quartile of all readings so
  far: then neither the clock frequency nor a neighbour on the same core has changed.
- A visit counts only if its threads had a processor all the time: the caller's CPU time over wall time is within
  `preempted` of the graph's best visit, and no worker waited longer. With two busy processes on two cores this caught
  94-100% of the visits that were over 10% slow, and what was left spread by 2% instead of 35%; the canary, done within
  one time slice, saw none of them.
- Steal time and clock frequency (`conditions`) disturb a visit too, where the system tells them.
- A graph whose weights do not fit the second-level cache shares memory with the other cores; while one of these works, its
  visits are disturbed by the neighbour.
- A visit that does not count is kept with its reason, and the graph visited once more.
- A graph is done when the interval of its median is narrow enough; the statistic is the median over all samples that
  count.
- Sessions stay open while their models fit `open_bytes`, and their idle threads do not spin (`sessions.SPINNING`).

Version 1 bound no threads, raised no priority, and knew of the canary and the caller's processor time only.
"""

POSITIVE = (
    "target_precision",
    "visit_ms",
    "budget_s",
    "disturbed",
    "preempted",
    "stolen",
    "pressed",
    "neighbour",
    "slowed",
)


@dataclass(frozen=True, slots=True)
class Protocol:
    """How long and how exactly to measure. Rounds are those that count; rejected ones come on top."""

    min_rounds: int = 8
    max_rounds: int = 40
    max_rejected: int = 40
    """Rejected visits of a graph after which it is visited no more."""
    target_precision: float = 0.02
    """Half width of the interval of the median, relative to it."""
    visit_ms: float = 3.0
    min_runs: int = 3
    max_runs: int = 50
    warm_up_ms: float = 0.3
    """Unrecorded inferences that begin a visit; always at least one."""
    settle_ms: float = 50.0
    """The longest wait for a fresh session to become stable."""
    warm_up_s: float = 2.0
    """The longest wait for the canary to settle before the first round."""
    budget_s: float = 120.0
    """Ends the measurement after the block in which it runs out, but never before every graph has one round."""
    disturbed: float = 0.1
    """How far a canary reading may lie from the reference."""
    preempted: float = 0.05
    """Share of a visit that a thread may be kept from the processors."""
    stolen: float = 0.05
    """Share of a block that the hypervisor may take from one of our cores."""
    pressed: float = math.inf
    """Share of a block in which some task of the system may wait for a processor. Recorded, but no reason to reject: a
    neighbour that our priority displaces waits as well. At 0.5, 98% of the rounds beside one busy neighbour were rejected,
    though the medians were within 1%."""
    neighbour: float = 0.5
    """Share of a block that another core may work, for graphs whose weights do not fit the cache of ours: they share the next
    cache and the memory. Beside busy cores such networks ran 7-15% slow while canary and processor time were as ever."""
    slowed: float = 0.1
    """How far the clock frequency may lie from its median."""
    canary_every: int = 6
    """Graphs between two canary readings: a block."""
    canary_runs: int = 7
    open_bytes: int = 2_000_000_000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("min_rounds", "min_runs", "canary_every", "canary_runs"):
            if getattr(self, name) < 1:
                raise LatencyError(f"protocol: {name} must be at least 1, not {getattr(self, name)}")
        for name in POSITIVE:
            if not getattr(self, name) > 0:
                raise LatencyError(f"protocol: {name} must be above 0, not {getattr(self, name)}")
        if self.max_rounds < self.min_rounds or self.max_runs < self.min_runs:
            raise LatencyError("protocol: max_rounds and max_runs must be at least min_rounds and min_runs")
