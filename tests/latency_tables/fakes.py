"""What the tests share: a machine whose time passes only when something runs on it, and made-up measurements."""

from collections.abc import Callable, Mapping
from itertools import groupby

import numpy as np

from latency_tables import Device, Entry, Fingerprint, Graph, LatencyTable, Measurement
from search_spaces import Arch, Space, arch_cost, define_space

CANARY_US = 100.0
HERE = Fingerprint(cpu="Fake", machine="none", cores=2, memory_gib=1, os="None 1", onnxruntime="0.0")

Now = Callable[[float], float]
"""Seconds since the machine began -> a factor."""


def tiny_space(**settings) -> Space:
    """A few hundred networks of two stages, each of which runs in some 10 us."""
    given = {"in_channels": 1, "resolutions": [8], "stem": 8, "channels": [32, 64], "strides": [1, 2]}
    return define_space("tiny", **{**given, "widths": [0.5, 1.0], "expands": [0.5, 1.0], **settings})


class FakeMachine:
    """Opens any graph of `times_us`. `slow` stretches what runs; `lost` is wall time without the processor on top."""

    def __init__(self, times_us: Mapping[str, float], slow: Now = lambda now: 1.0, lost: Now = lambda now: 0.0):
        self.times_us = {"canary": CANARY_US, **times_us}
        self.slow, self.lost = slow, lost
        self.now_s = self.cpu_s = 0.0
        self.ran: list[str] = []
        self.opened: list[str] = []
        self.rng = np.random.default_rng(0)

    def open(self, graph: Graph, device: Device) -> Callable[[], float]:
        self.opened.append(graph.key)

        def run() -> float:
            self.ran.append(graph.key)
            on_cpu_us = self.times_us[graph.key] * self.slow(self.now_s) * self.rng.normal(1, 0.002)
            # A short network ends within the time slice that it began in.
            lost_us = on_cpu_us * self.lost(self.now_s) if graph.key != "canary" else 0.0
            self.now_s += (on_cpu_us + lost_us) / 1e6
            self.cpu_s += on_cpu_us / 1e6
            return on_cpu_us + lost_us

        return run

    @property
    def hooks(self) -> dict:
        """The arguments that make `measure` use this machine."""
        return {"open_graph": self.open, "clock": lambda: self.now_s, "cpu_clock": lambda: self.cpu_s}

    @property
    def visits(self) -> list[str]:
        """The graphs visited, in order, canary left out."""
        return [key for key, _ in groupby(self.ran) if key != "canary"]


def graphs(*keys: str) -> list[Graph]:
    return [Graph(key, b"model") for key in keys]


def measurement(key: str, us: float = 100.0, rounds: int = 8, **changes) -> Measurement:
    """A quiet measurement of `us`."""
    fields = {
        "key": key,
        "rounds_us": ((us, us * 1.01, us * 0.99),) * rounds,
        "canary_us": (CANARY_US,) * rounds,
        "cpu_shares": (1.0,) * rounds,
        "reference_us": CANARY_US,
        "rejected_rounds": 0,
        "disturbed": False,
        "converged": True,
        "spinning": False,
    }
    return Measurement(**{**fields, **changes})


def table(space: Space, archs: list[Arch], device: Device | None = None, us=None) -> LatencyTable:
    """A table in which a network takes as long as `us` says, by default 10 us and 1 us for 10,000 MACs."""
    of = us or (lambda arch: 10 + arch_cost(space, arch).macs / 1e4)
    entries = tuple(Entry(arch, measurement(arch.id, of(arch))) for arch in archs)
    return LatencyTable(space, device or Device("fake"), HERE, 1, entries)
