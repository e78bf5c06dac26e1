"""A weighted sum of predictors."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from latency_tables.errors import LatencyError
from latency_tables.predicting.conformal import FLOOR_MS, Conformal
from latency_tables.predicting.documents import PREDICTOR_FORMAT, array, field, space_of, write_document
from search_spaces import Codes, Space

F64 = NDArray[np.float64]
Json = Any


class Member(Protocol):
    """What a blend needs of a predictor."""

    @property
    def space(self) -> Space: ...

    def predict(self, codes: Codes) -> F64: ...

    def to_json(self) -> dict[str, Json]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Blend:
    """latency = sum of weights times what each member predicts (stacking: Breiman, Machine Learning 24, 1996).

    The weights are not negative; what they are fitted to is each member's predictions of networks it had not seen.
    """

    space: Space
    members: tuple[Member, ...]
    weights: F64
    conformal: Conformal

    def predict(self, codes: Codes) -> F64:
        total = np.zeros(len(codes))
        for weight, member in zip(self.weights, self.members, strict=True):
            total += weight * member.predict(codes)
        predicted: F64 = np.maximum(total, FLOOR_MS)
        return predicted

    def interval(self, codes: Codes, coverage: float) -> tuple[F64, F64]:
        return self.conformal.interval(self.predict(codes), coverage)

    def upper(self, codes: Codes, probability: float) -> F64:
        return self.conformal.upper(self.predict(codes), probability)

    def with_conformal(self, conformal: Conformal) -> Blend:
        return replace(self, conformal=conformal)

    def to_json(self) -> dict[str, Json]:
        return {
            "format": PREDICTOR_FORMAT,
            "kind": "blend",
            "space": self.space.to_json(),
            "members": [member.to_json() for member in self.members],
            "weights": self.weights.tolist(),
            "scores": self.conformal.scores.tolist(),
        }

    @staticmethod
    def from_json(document: dict[str, Json], parse: Callable[[Json], Member]) -> Blend:
        """Read what `to_json` wrote; `parse` reads the members; `LatencyError` names the field that is wrong."""
        space, documents = space_of(document), field(document, "members")
        if not isinstance(documents, list) or not documents:
            raise LatencyError("members: wanted a list of at least one predictor")
        members = []
        for i, one in enumerate(documents):
            try:
                members.append(parse(one))
            except LatencyError as error:
                raise LatencyError(f"members[{i}]: {error}") from error
            if members[-1].space != space:
                raise LatencyError(f"members[{i}]: space: wanted {space.id}, found {members[-1].space.id}")
        weights = array(document, "weights", (len(members),), low=0.0)
        return Blend(space, tuple(members), weights, Conformal.from_json(document))

    def save(self, path: str | os.PathLike[str]) -> None:
        write_document(path, self.to_json())
