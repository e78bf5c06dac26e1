"""Quantities: what a search can optimise or bound; targets: devices, which tell them of architectures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from latency_tables.predicting.predictor import LatencyPredictor
from nas.errors import JobError
from search_spaces import Codes, Space, costs

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Quantity:
    """One number of an architecture. `accuracy` is evaluated; the others are predicted, or known exactly."""

    name: str
    unit: str
    """`ms`, `mJ`, `bytes`, `MACs`, `share`; empty for a plain count."""
    higher_is_better: bool
    text: str
    """One line for people."""
    statistic: str | None = None
    """What of a latency table it is predicted from."""
    cost: Callable[[Target, Codes], F64] | None = None
    """Computes it for each row of canonical codes, where it is known exactly."""


@dataclass(frozen=True, eq=False)
class Target:
    """A device to find networks for: its batch, and predictors of what was measured on it, by statistic."""

    name: str
    space: Space
    batch: int
    predictors: Mapping[str, LatencyPredictor]

    def __post_init__(self) -> None:
        for statistic, predictor in self.predictors.items():
            if predictor.space != self.space:
                raise JobError(
                    f"{self.name}: the predictor of {statistic} is of space {predictor.space.id}, not of {self.space.id}; "
                    "profile this space"
                )

    def values(self, quantity: str, codes: Codes) -> F64:
        """Any quantity but accuracy of each row of canonical codes: `(n, choices)` -> `(n,)`, in the quantity's unit.

        `JobError` if it is to be predicted and the target has no predictor of it, here as below.
        """
        found = _told(quantity)
        return self._predictor(found).predict(codes) if found.cost is None else found.cost(self, codes)

    def interval(self, quantity: str, codes: Codes, coverage: float) -> tuple[F64, F64]:
        """Bounds, `(n,)` each, that hold this share of measured values; both are the value where it is known exactly."""
        found = _told(quantity)
        if found.cost is None:
            return self._predictor(found).interval(codes, coverage)
        exact = found.cost(self, codes)
        return exact, exact

    def upper(self, quantity: str, codes: Codes, probability: float) -> F64:
        """What a measured value stays below with this probability, `(n,)`; the value where it is known exactly."""
        found = _told(quantity)
        return self._predictor(found).upper(codes, probability) if found.cost is None else found.cost(self, codes)

    def _predictor(self, quantity: Quantity) -> LatencyPredictor:
        assert quantity.statistic is not None, quantity
        if quantity.statistic not in self.predictors:
            remedy = "profile it anew, with `nas profile DIR --again`"
            if quantity.name == "energy_mj":
                remedy = f"pip install '.[energy]' on a machine that counts energy, and {remedy}"
            raise JobError(f"{self.name}: {quantity.name} has no predictor on this device: {remedy}")
        return self.predictors[quantity.statistic]


def _cost(metric: str) -> Callable[[Target, Codes], F64]:
    return lambda target, codes: costs(target.space, codes, metric).astype(np.float64)


def _peak_memory(target: Target, codes: Codes) -> F64:
    weights, activations = (costs(target.space, codes, name) for name in ("weight_bytes", "peak_activation_bytes"))
    return (weights + target.batch * activations).astype(np.float64)


def _latency(name: str, text: str) -> Quantity:
    return Quantity(name, "ms", False, text, statistic=name)


QUANTITIES: dict[str, Quantity] = {
    each.name: each
    for each in (
        Quantity("accuracy", "share", True, "share of validation images that are classified correctly"),
        _latency("latency_ms", "median time of one inference, batch included"),
        _latency("latency_p90_ms", "time that 90% of inferences stay below, batch included"),
        _latency("latency_p95_ms", "time that 95% of inferences stay below, batch included"),
        _latency("latency_p99_ms", "time that 99% of inferences stay below, batch included"),
        Quantity("energy_mj", "mJ", False, "energy of one inference, batch and idle power included", "energy_mj"),
        Quantity(
            "peak_memory_bytes",
            "bytes",
            False,
            "weights and the most activations alive at once, at the device's batch",
            cost=_peak_memory,
        ),
        # The file has 4-47 kB more: the graph around the weights and its metadata (`tiny`, `mobilenet_v3`).
        Quantity("model_bytes", "bytes", False, "weights in the exported file", cost=_cost("weight_bytes")),
        Quantity("macs", "MACs", False, "multiply-accumulates for one image", cost=_cost("macs")),
        Quantity("params", "", False, "trainable numbers", cost=_cost("params")),
        Quantity(
            "activation_bytes",
            "bytes",
            False,
            "outputs of all layers together for one image",
            cost=_cost("activation_bytes"),
        ),
    )
}

# What people write, and what they mean.
ALIASES: dict[str, str] = {
    **dict.fromkeys(("acc", "top1", "top_1", "val_accuracy", "error"), "accuracy"),
    **dict.fromkeys(("latency", "latency_median", "latency_p50", "median", "p50", "time", "ms"), "latency_ms"),
    **{name: f"latency_{name[-3:]}_ms" for name in ("p90", "p95", "p99", "latency_p90", "latency_p95", "latency_p99")},
    **dict.fromkeys(("energy", "joules", "mj"), "energy_mj"),
    **dict.fromkeys(("memory", "peak_memory", "ram", "memory_bytes", "peak_bytes"), "peak_memory_bytes"),
    **dict.fromkeys(("size", "model", "model_size", "file_size", "weight_bytes", "bytes"), "model_bytes"),
    **dict.fromkeys(("flops", "mac", "mmacs", "gmacs", "multiply_adds"), "macs"),
    **dict.fromkeys(("parameters", "weights"), "params"),
    **dict.fromkeys(("activation", "activations"), "activation_bytes"),
}
# What a name may end with in place of the unit that the quantity is in.
OTHER_UNITS = ("ns", "us", "s", "uj", "j", "kj", "kb", "mb", "gb", "kib", "mib", "gib")


def unknown_quantity(name: str) -> str:
    """What to say of a name that no quantity has: what it may mean, or all that there are."""
    lower = name.lower()
    stem, _, unit = lower.rpartition("_")
    if unit in OTHER_UNITS and stem in ALIASES:
        meant = ALIASES[stem]
        return f"unknown quantity {name!r}; {meant} is in {QUANTITIES[meant].unit}"
    near = get_close_matches(lower, [*QUANTITIES, *ALIASES], n=1)
    if not near:
        return f"unknown quantity {name!r}; known are {', '.join(QUANTITIES)}"
    return f"unknown quantity {name!r}; did you mean {ALIASES.get(near[0], near[0])!r}?"


def _told(name: str) -> Quantity:
    """A quantity that a target can tell of an architecture."""
    if name not in QUANTITIES:
        raise JobError(unknown_quantity(name))
    if name == "accuracy":
        raise JobError("accuracy is evaluated on images; no device tells it of an architecture")
    return QUANTITIES[name]


def check_objectives(names: Sequence[str]) -> None:
    """`JobError` where one is unknown or stands twice."""
    for name in names:
        if name not in QUANTITIES:
            raise JobError(f"search.objectives: {unknown_quantity(name)}")
    if not names or len(set(names)) != len(names):
        raise JobError(f"search.objectives must name different quantities, at least one, not {list(names)}")
