"""This project's search on a landscape: the engine as a job runs it, with the landscape in place of the supernet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from landscape import Surface

from latency_tables.predicting.predictor import LatencyPredictor
from nas.searching.engine import Identity, Plan, search
from nas.searching.evaluations import Evaluations
from nas.searching.evaluator import Score
from nas.searching.problem import Problem
from nas.searching.quantities import Target
from nas.searching.store import TrialStore
from search_spaces import Arch, Codes

IMAGES = 1
"""An evaluation's images, of which the landscape need not know: all of them."""


class Recorded:
    """A runner that asks the landscape."""

    def __init__(self, surface: Surface) -> None:
        self._surface = surface

    def scores(self, archs: Sequence[Arch], images: int | None = None) -> Iterator[tuple[Arch, Score]]:
        if archs:
            accuracies = self._surface.accuracy(self._surface.space.encode(archs))
            yield from ((arch, Score(float(a), 0.0, IMAGES)) for arch, a in zip(archs, accuracies, strict=True))

    def __enter__(self) -> Recorded:
        return self

    def __exit__(self, *error: object) -> None:
        return None


def guided(surface: Surface, predictor: LatencyPredictor, evaluations: int, seed: int) -> Codes:
    """The default search of a job, for one device; the study, the trials and the evaluations in a database in memory."""
    problem = Problem(surface.space, (Target("device", surface.space, 1, {"latency_ms": predictor}),))
    with TrialStore("sqlite://") as store:
        known = Evaluations(store, "landscape", Recorded(surface), surface.space)
        return search(
            problem, Plan("guided", evaluations, (IMAGES,), seed=seed), Identity("search"), store, known
        ).codes
