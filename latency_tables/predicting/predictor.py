"""Latency predictors: what they have in common, and their files."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from latency_tables.errors import LatencyError
from latency_tables.predicting.additive import AdditivePredictor
from latency_tables.predicting.blend import Blend
from latency_tables.predicting.documents import PREDICTOR_FORMAT, read_document, write_document
from latency_tables.predicting.learned import MODELS, LearnedPredictor
from latency_tables.predicting.transfer import TransferPredictor
from latency_tables.statistic import MEDIAN, STATISTICS
from search_spaces import Codes, Space

__all__ = [
    "PREDICTORS",
    "AdditivePredictor",
    "LatencyPredictor",
    "load_predictor",
    "predictor_from_json",
    "save_predictor",
]

F64 = NDArray[np.float64]
Json = Any


class LatencyPredictor(Protocol):
    """Latencies of architectures that were not measured, or another of `STATISTICS`, in its unit."""

    @property
    def space(self) -> Space:
        """The space of the architectures."""

    def predict(self, codes: Codes) -> F64:
        """Milliseconds for each row of canonical codes: `(n, choices)` -> `(n,)`. Lower is better."""

    def interval(self, codes: Codes, coverage: float) -> tuple[F64, F64]:
        """Bounds in milliseconds, `(n,)` each, between which this share of measured latencies should lie."""

    def upper(self, codes: Codes, probability: float) -> F64:
        """Milliseconds, `(n,)`, that a measured latency should stay below with this probability."""

    def to_json(self) -> dict[str, Json]:
        """The document that `predictor_from_json` reads."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file that `load_predictor` reads, of a predictor of median latencies."""


PREDICTORS: dict[str, Callable[[dict[str, Json]], LatencyPredictor]] = {
    "additive": AdditivePredictor.from_json,
    **dict.fromkeys(MODELS, LearnedPredictor.from_json),
    "blend": lambda document: Blend.from_json(document, predictor_from_json),
    "transfer": lambda document: TransferPredictor.from_json(document, predictor_from_json),
}


def predictor_from_json(document: Json) -> LatencyPredictor:
    """Read what a predictor's `to_json` wrote; `LatencyError` names the field that is wrong."""
    if not isinstance(document, dict):
        raise LatencyError(f"wanted a JSON object, found {type(document).__name__}")
    if (found := document.get("format")) != PREDICTOR_FORMAT:
        raise LatencyError(f"format: wanted {PREDICTOR_FORMAT!r}, found {found!r}; fit the predictor anew")
    if (kind := document.get("kind")) not in tuple(PREDICTORS):
        raise LatencyError(f"kind: wanted one of {', '.join(PREDICTORS)}, found {kind!r}")
    return PREDICTORS[kind](document)


def save_predictor(predictor: LatencyPredictor, path: str | os.PathLike[str], statistic: str = MEDIAN) -> None:
    """Write the file that `load_predictor` reads; it says what it predicts unless that is the median latency."""
    if statistic not in STATISTICS:
        raise LatencyError(f"{path}: unknown statistic {statistic!r}; known are {', '.join(STATISTICS)}")
    said = {} if statistic == MEDIAN else {"statistic": statistic}
    write_document(path, {**predictor.to_json(), **said})


def load_predictor(
    path: str | os.PathLike[str], *, space: Space | None = None, statistic: str = MEDIAN
) -> LatencyPredictor:
    """Read what `save_predictor` or a predictor's `save` wrote, of this statistic; give `space` to refuse another one."""
    try:
        document = read_document(path, PREDICTOR_FORMAT)
        if (found := document.pop("statistic", MEDIAN)) != statistic:
            raise LatencyError(f"statistic: the predictor is of {found!r}, wanted {statistic!r}; fit one for it")
        predictor = predictor_from_json(document)
    except LatencyError as error:
        raise LatencyError(f"{path}: {error}") from error
    if space is not None and predictor.space != space:
        raise LatencyError(
            f"{path}: space: the predictor is of {predictor.space.id}, wanted {space.id}; fit one for it"
        )
    return predictor
