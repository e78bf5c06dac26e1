"""Which rounds of a measurement count: how far each was disturbed, and by what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from latency_tables.measuring.measurement import Round, median_precision
from latency_tables.measuring.protocol import Protocol


@dataclass(frozen=True, slots=True)
class Usual:
    """What rounds are compared with: the undisturbed canary, the graph's best share of the processor, its clock."""

    canary_us: float
    cpu_share: float
    frequency_mhz: float | None

    @staticmethod
    def of(rounds: Sequence[Round], reference_us: float) -> Usual:
        # The graph's own best: a thread that waits for an accelerator is off the processor by its nature.
        clocks = [round_.frequency_mhz for round_ in rounds if round_.frequency_mhz]
        return Usual(
            reference_us,
            max((round_.cpu_share for round_ in rounds), default=0.0) or 1.0,
            float(np.median(clocks)) if clocks else None,
        )


# Reason -> how far a round is disturbed in this way, in units of what the protocol allows.
LEVELS: dict[str, Callable[[Round, Usual, Protocol], float]] = {
    "canary": lambda at, usual, limits: abs(at.canary_us / usual.canary_us - 1) / limits.disturbed,
    "preempted": lambda at, usual, limits: (1 - at.cpu_share / usual.cpu_share) / limits.preempted,
    "waiting": lambda at, usual, limits: (at.waiting or 0.0) / limits.preempted,
    "steal": lambda at, usual, limits: (at.steal or 0.0) / limits.stolen,
    "neighbour": lambda at, usual, limits: (at.neighbour or 0.0) / limits.neighbour,
    "pressure": lambda at, usual, limits: (at.pressure or 0.0) / limits.pressed,
    "frequency": lambda at, usual, limits: (
        abs(at.frequency_mhz / usual.frequency_mhz - 1) / limits.slowed
        if at.frequency_mhz and usual.frequency_mhz
        else 0.0
    ),
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """For each round how disturbed it was, up to 1 being calm, and by what; empty for a calm one."""

    levels: tuple[float, ...]
    reasons: tuple[str, ...]

    @staticmethod
    def of(rounds: Sequence[Round], reference_us: float, protocol: Protocol) -> Verdict:
        usual = Usual.of(rounds, reference_us)
        worst = [max((level(round_, usual, protocol), reason) for reason, level in LEVELS.items()) for round_ in rounds]
        return Verdict(
            tuple(level for level, _ in worst), tuple(reason if level > 1 else "" for level, reason in worst)
        )

    @property
    def calm(self) -> int:
        return self.reasons.count("")

    def counts(self, fewest: int) -> tuple[bool, ...]:
        """The calm rounds; where these are fewer than `fewest`, the least disturbed ones with them."""
        limit = max(1.0, sorted(self.levels)[:fewest][-1])
        return tuple(level <= limit for level in self.levels)


def is_precise(rounds: Sequence[Round], verdict: Verdict, protocol: Protocol) -> bool:
    """The calm rounds are enough, and the interval of their median is narrow enough."""
    if verdict.calm < protocol.min_rounds:
        return False
    calm = [round_.median_us for round_, reason in zip(rounds, verdict.reasons, strict=True) if not reason]
    return median_precision(calm) <= protocol.target_precision
