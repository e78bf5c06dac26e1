"""What the tests share: a machine whose time passes only when something runs on it, and made-up measurements."""

from collections.abc import Callable, Mapping
from itertools import groupby

import numpy as np

from latency_tables import Device, Entry, Fingerprint, Graph, LatencyTable, Measurement
from latency_tables.measuring.conditions import Conditions
from latency_tables.measuring.measurement import Round
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
    """Opens any graph of `times_us`. `slow` stretches what runs; `lost` is wall time without the processor on top.

    `told` is what the system tells of a stretch that ends now, `waits` the share that a worker waits for a processor.
    """

    def __init__(
        self,
        times_us: Mapping[str, float],
        slow: Now = lambda now: 1.0,
        lost: Now = lambda now: 0.0,
        told: Callable[[float], Conditions] = lambda now: Conditions(),
        waits: Now | None = None,
    ):
        self.times_us = {"canary": CANARY_US, **times_us}
        self.slow, self.lost, self.told, self.waits = slow, lost, told, waits
        self.now_s = self.cpu_s = self.waited = 0.0
        self.ran: list[str] = []
        self.opened: list[str] = []
        self.rng = np.random.default_rng(0)

    def open(self, graph: Graph, device: Device) -> Callable[[], float]:
        self.opened.append(graph.key)
        self.ran.append(f"open {graph.key}")

        def run() -> float:
            self.ran.append(graph.key)
            on_cpu_us = self.times_us[graph.key] * self.slow(self.now_s) * self.rng.normal(1, 0.002)
            # A short network ends within the time slice that it began in.
            lost_us = on_cpu_us * self.lost(self.now_s) if graph.key != "canary" else 0.0
            self.waited += self.waits(self.now_s) * on_cpu_us / 1e6 if self.waits else 0.0
            self.now_s += (on_cpu_us + lost_us) / 1e6
            self.cpu_s += on_cpu_us / 1e6
            return on_cpu_us + lost_us

        return run

    # What `measure` asks of the system.

    def counters(self) -> None:
        return None

    def since(self, start: None) -> Conditions:
        return self.told(self.now_s)

    def threads(self) -> frozenset[int]:
        return frozenset(range(len(self.opened) + 1)) if self.waits else frozenset()

    def waited_s(self, threads) -> tuple[float, ...]:
        return tuple(self.waited for _ in threads)

    @property
    def hooks(self) -> dict:
        """The arguments that make `measure` use this machine's time."""
        return {"open_graph": self.open, "clock": lambda: self.now_s, "cpu_clock": lambda: self.cpu_s}

    @property
    def hooks_and_system(self) -> dict:
        """And believe what it tells of itself."""
        return {**self.hooks, "system": lambda cores: self}

    @property
    def visits(self) -> list[str]:
        """The graphs visited, in order, canary and the first runs of fresh sessions left out."""
        groups = ["", *(key for key, _ in groupby(self.ran))]
        settling = {index for index, key in enumerate(groups) if groups[index - 1] == f"open {key}"}
        return [
            key for index, key in enumerate(groups) if index not in settling and key in set(self.times_us) - {"canary"}
        ]


def graphs(*keys: str) -> list[Graph]:
    return [Graph(key, b"model") for key in keys]


def measurement(key: str, us: float = 100.0, rounds: int = 8, **changes) -> Measurement:
    """A quiet measurement of `us`; `samples_us` are those of each round."""
    samples_us = changes.pop("samples_us", ((us, us * 1.01, us * 0.99),) * rounds)
    fields = {
        "key": key,
        "rounds": tuple(Round(tuple(samples), CANARY_US, 1.0) for samples in samples_us),
        "reasons": ("",) * len(samples_us),
        "counts": (True,) * len(samples_us),
        "reference_us": CANARY_US,
        "ended": "precision",
        "spinning": False,
    }
    return Measurement(**{**fields, **changes})


def table(space: Space, archs: list[Arch], device: Device | None = None, us=None) -> LatencyTable:
    """A table in which a network takes as long as `us` says, by default 10 us and 1 us for 10,000 MACs."""
    of = us or (lambda arch: 10 + arch_cost(space, arch).macs / 1e4)
    entries = tuple(Entry(arch, measurement(arch.id, of(arch))) for arch in archs)
    return LatencyTable(space, device or Device("fake"), HERE, 1, entries)
