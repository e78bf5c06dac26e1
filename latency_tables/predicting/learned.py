"""Predictors that know a network by the sums of its layers' features alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from latency_tables.errors import LatencyError
from latency_tables.predicting.conformal import FLOOR_MS, UNCALIBRATED, Conformal
from latency_tables.predicting.documents import PREDICTOR_FORMAT, field, space_of, write_document
from latency_tables.predicting.features import FEATURES, network_features
from latency_tables.predicting.gaussian import GaussianProcess
from latency_tables.predicting.ridge import Ridge
from latency_tables.predicting.samples import checked
from latency_tables.predicting.trees import BoostedTrees
from search_spaces import Codes, Space

F64 = NDArray[np.float64]
Json = Any

# Networks predicted at once: what is computed of them stays in the caches.
CHUNK = 2048


class Model(Protocol):
    """Features `(n, k)` to milliseconds `(n,)`, each row as if it were alone."""

    def predict(self, features_nk: F64) -> F64: ...

    def to_json(self) -> dict[str, Json]: ...


@dataclass(frozen=True, slots=True)
class ModelKind:
    """How a kind of model is fitted to features `(n, k)` and latencies `(n,)`, and read from a document."""

    fit: Callable[[F64, F64], Model]
    from_json: Callable[[dict[str, Json], int], Model]


MODELS: dict[str, ModelKind] = {
    "ridge": ModelKind(Ridge.fit, Ridge.from_json),
    "gp": ModelKind(GaussianProcess.fit, GaussianProcess.from_json),
    "trees": ModelKind(BoostedTrees.fit, BoostedTrees.from_json),
}


@dataclass(frozen=True, slots=True, eq=False)
class LearnedPredictor:
    """A model of `MODELS` over the features of whole networks."""

    space: Space
    kind: str
    model: Model
    conformal: Conformal
    features: tuple[str, ...] = tuple(FEATURES)
    """What it was fitted to: those that were known then, in the order of `FEATURES`."""

    @staticmethod
    def fit(space: Space, codes: Codes, latency_ms: F64, kind: str) -> LearnedPredictor:
        """Fit to measured networks; `select` adds what its intervals need."""
        codes, y = checked(space, codes, latency_ms)
        return LearnedPredictor(space, kind, MODELS[kind].fit(network_features(space, codes), y), UNCALIBRATED)

    def predict(self, codes: Codes) -> F64:
        chunks = [codes[start : start + CHUNK] for start in range(0, len(codes), CHUNK)]
        columns = [name in self.features for name in FEATURES]
        # Row by row in memory, as selecting columns does not leave them: sums then do not depend on the rows beside.
        features = (np.ascontiguousarray(network_features(self.space, chunk)[:, columns]) for chunk in chunks)
        found = [self.model.predict(each) for each in features]
        predicted: F64 = np.maximum(np.concatenate([np.zeros(0), *found]), FLOOR_MS)
        return predicted

    def interval(self, codes: Codes, coverage: float) -> tuple[F64, F64]:
        return self.conformal.interval(self.predict(codes), coverage)

    def upper(self, codes: Codes, probability: float) -> F64:
        return self.conformal.upper(self.predict(codes), probability)

    def with_conformal(self, conformal: Conformal) -> LearnedPredictor:
        return replace(self, conformal=conformal)

    def to_json(self) -> dict[str, Json]:
        return {
            "format": PREDICTOR_FORMAT,
            "kind": self.kind,
            "space": self.space.to_json(),
            "feature_names": list(self.features),
            "model": self.model.to_json(),
            "scores": self.conformal.scores.tolist(),
        }

    @staticmethod
    def from_json(document: dict[str, Json]) -> LearnedPredictor:
        """Read what `to_json` wrote; `LatencyError` names the field that is wrong."""
        names = field(document, "feature_names")
        if not isinstance(names, list) or names != [name for name in FEATURES if name in names] or not names:
            raise LatencyError(
                f"feature_names: wanted {', '.join(FEATURES)}, or some of them in this order; found {names!r:.60}; "
                "fit the predictor anew"
            )
        model = field(document, "model")
        if not isinstance(model, dict):
            raise LatencyError(f"model: wanted an object, found {type(model).__name__}")
        try:
            found = MODELS[document["kind"]].from_json(model, len(names))
        except LatencyError as error:
            raise LatencyError(f"model: {error}") from error
        conformal = Conformal.from_json(document)
        return LearnedPredictor(space_of(document), document["kind"], found, conformal, tuple(names))

    def save(self, path: str | os.PathLike[str]) -> None:
        write_document(path, self.to_json())
