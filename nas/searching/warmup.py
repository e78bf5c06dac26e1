"""Before the first evaluation: how far scores that cost next to nothing tell accuracy, and whom to start a search with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from latency_tables.predicting.metrics import spearman
from nas.errors import JobError
from search_spaces import Codes, Space, costs, first_rows

F64 = NDArray[np.float64]

SIZES = ("macs", "params")
"""What every score has to beat: it is known without looking at a network."""


@dataclass(frozen=True, slots=True)
class Correlation:
    """How far a score orders `n` networks as accuracy does, from -1 to 1; None where either side is constant.

    Kendall's tau is tau-b: concordant less discordant pairs, with ties in either taken out of what could be reached.
    """

    name: str
    spearman: float | None
    kendall: float | None
    n: int


def correlations(space: Space, codes: Codes, accuracy: F64, scores: Mapping[str, F64]) -> tuple[Correlation, ...]:
    """MACs and parameters first, then each score. Rows without an accuracy or a score (NaN) do not count."""
    sizes = {name: costs(space, codes, name).astype(np.float64) for name in SIZES}
    return tuple(correlation(name, score, accuracy) for name, score in {**sizes, **scores}.items())


def warm_start(codes: Codes, score: F64, groups: F64, n: int) -> NDArray[np.int64]:
    """Indices of up to `n` different candidates to start a search with, in the order of `groups`, the smallest first.

    Candidates are cut by `groups`, say their MACs, into `n` strata of equal count, and the best-scored of each is taken: nearly
    every score grows with the network, so that the best-scored of all would be large networks only. NaN is the worst score.
    """
    if not len(codes) == len(score) == len(groups):
        raise JobError(
            f"wanted a score and a group for each of {len(codes)} candidates, got {len(score)}, {len(groups)}"
        )
    if n < 1:
        raise JobError(f"a first population needs at least one architecture, not {n}")
    different = first_rows(codes)
    ordered = different[np.argsort(groups[different], kind="stable")]
    worth = np.where(np.isnan(score), -np.inf, score)
    strata = np.array_split(ordered, min(n, len(ordered))) if len(ordered) else []
    return np.array([stratum[worth[stratum].argmax()] for stratum in strata], dtype=np.int64)


def correlation(name: str, score: F64, accuracy: F64) -> Correlation:
    """How far one score orders networks as accuracy does; pairs with a NaN do not count."""
    if score.shape != accuracy.shape:
        raise JobError(f"wanted one accuracy and one {name} a network, got {len(accuracy)} and {len(score)}")
    both = ~(np.isnan(score) | np.isnan(accuracy))
    a, b = score[both], accuracy[both]
    if len(a) == 0 or (a == a[0]).all() or (b == b[0]).all():
        return Correlation(name, None, None, len(a))
    return Correlation(name, spearman(a, b), _kendall(a, b), len(a))


def _kendall(a: F64, b: F64) -> float:
    """Kendall's tau-b (Kendall, "The treatment of ties in ranking problems", Biometrika 1945) of sides that are not constant.

    Row by row, as all pairs of 10,000 networks would fill the memory.
    """
    agreement = untied_a = untied_b = 0.0
    for i in range(len(a)):
        signs_a, signs_b = _signs(a, a[i]), _signs(b, b[i])
        agreement += float(signs_a @ signs_b)
        untied_a += np.count_nonzero(signs_a)
        untied_b += np.count_nonzero(signs_b)
    return agreement / sqrt(untied_a * untied_b)


def _signs(values: F64, value: float) -> F64:
    """1 where greater, -1 where less, 0 where equal: as a sign of differences, but for infinities too."""
    signs: F64 = (values > value).astype(np.float64) - (values < value)
    return signs
