"""What a worker orders of a keeper, step by step, and what comes of it: plain data, a line of JSON each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

Json = Any

# Stages that use all cores for long make way for the service that answers requests; those that measure must not be disturbed.
NICENESS = {"train": 10, "search": 10}

# Kind of job -> its stages. What is there of an earlier job is not done again.
STEPS: Mapping[str, tuple[str, ...]] = {
    "run": ("prepare", "train", "profile", "search", "front", "export", "conclude"),
    "train": ("prepare", "train", "conclude"),
    "profile": ("prepare", "profile", "conclude"),
    "search": ("prepare", "profile", "search", "front", "conclude"),
    "export": ("prepare", "export", "conclude"),
}
MEASURING: tuple[str, ...] = ("measure",)
"""Of an uploaded model, which has no stages."""


@dataclass(frozen=True, slots=True)
class Order:
    """The steps of a job, to be done under a lease. `settings`: those of the service, as plain data."""

    settings: Json
    job: str
    epoch: int
    worker: str
    steps: tuple[str, ...]

    def to_json(self) -> dict[str, Json]:
        return asdict(self)

    @staticmethod
    def from_json(document: Json) -> Order:
        return Order(**{**document, "steps": tuple(document["steps"])})


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a step ended, or all of them: `state` is one of

    - done, with a `result`;
    - failed, with a `fault` (user, infrastructure, memory, bug), what to say to people, and the trace of a bug;
    - stopped, as it was told to end;
    - lost: somebody else holds the job.
    """

    state: str
    fault: str = ""
    message: str = ""
    trace: str = ""
    result: Json = None

    @property
    def error(self) -> dict[str, Json]:
        """As a job has it."""
        found = {"kind": self.fault, "message": self.message}
        return {**found, "traceback": self.trace} if self.trace else found


Report = Callable[[Outcome], NoReturn]
"""Says how a step ended, and ends its process; from any of its threads."""
Act = Callable[[Order, str, int, Report], Outcome]
"""Does a step, given by its name and its number."""


class Stopped(BaseException):
    """The step was told to end. No `Exception`, so that nothing on the way takes it for an error."""


def steps_of(kind: str, spec: Mapping[str, Json]) -> tuple[str, ...]:
    return MEASURING if "model" in spec else STEPS[kind]
