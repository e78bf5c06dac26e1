"""Constraints such as `latency_ms <= 5 with 90%`: what they are read from, and what of a space meets them.

Notation: n architectures, k constraints.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import NormalDist

import numpy as np

from nas.errors import JobError
from nas.searching.quantities import F64, QUANTITIES, Quantity, Target, unknown_quantity
from nas.searching.units import read_amount
from search_spaces import Codes, Space, crossover, mutate, row_keys

_PATTERN = re.compile(
    r"\s*([A-Za-z]\w*)\s*(?:@\s*([A-Za-z0-9_.-]+?))?\s*(<=|>=|<|>)\s*([^\s<>=].*?)"
    r"(?:(?:\s+with\s+|\s*@\s*)(\d+(?:\.\d*)?)\s*%)?\s*"
)

# Rows drawn at random, and how they evolve from there: until so many generations bring nothing better. Of 20 made-up additive
# latencies over `mobilenet_v3` this finds 36 of the 40 ends, and the others to 0.2%, in 0.03-0.07 s each; with 512 parents
# and 2048 children, or a patience of 5, some were off by 2%.
DRAWN, PARENTS, CHILDREN, PATIENCE = 4096, 128, 1024, 8


@dataclass(frozen=True, slots=True)
class Constraint:
    """`quantity <= bound` (or `>=`), on one device or, with None, on each.

    A bound on a prediction holds for the prediction itself. With a `probability` it holds for the value that a
    measurement stays below that often, by the predictor's interval; for accuracy, for the one that it stays above.
    """

    text: str
    quantity: str
    device: str | None
    at_most: bool
    bound: float
    probability: float | None = None

    def concerns(self, target: Target) -> bool:
        return self.device in (None, target.name)

    def values(self, target: Target, codes: Codes) -> F64:
        """What has to meet the bound, of each row: `(n, choices)` -> `(n,)`. Of every quantity but accuracy."""
        if self.probability is not None:
            return target.upper(self.quantity, codes, self.probability)
        return target.values(self.quantity, codes)

    def excess(self, target: Target, codes: Codes, accuracy: F64 | None = None, accuracy_std: F64 | None = None) -> F64:
        """By how much each row misses the bound, relative to it, `(n,)`; not above 0 where it is met.

        A constraint on accuracy takes the `accuracy` of each row, with its standard deviation where it is predicted;
        without any it misses by 0, because nothing is known yet.
        """
        if self.quantity != "accuracy":
            return self._missed(self.values(target, codes))
        if accuracy is None:
            return np.zeros(len(codes))
        if self.probability is not None and accuracy_std is not None:
            accuracy = accuracy - NormalDist().inv_cdf(self.probability) * accuracy_std
        return self._missed(accuracy)

    def _missed(self, values: F64) -> F64:
        return (values - self.bound if self.at_most else self.bound - values) / self.bound


def parse_constraint(text: str) -> Constraint:
    """Read `quantity[@device] (<=|>=|<|>) amount [with P%]`; quantities are those of `QUANTITIES`.

    `JobError` says in one line what is wrong, and what to write where that can be told.
    """
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise JobError(
            f"constraint {text!r} is not of the form 'latency_ms <= 5', 'latency_ms@device <= 5' or "
            "'latency_ms <= 5 with 90%'"
        )
    name, device, sign, amount, percent = match.groups()
    try:
        if name not in QUANTITIES:
            raise JobError(unknown_quantity(name))
        bound = read_amount(QUANTITIES[name], amount, f"{name}{f'@{device}' if device else ''} {sign} ")
        probability = None if percent is None else _probability(QUANTITIES[name], sign, float(percent) / 100)
    except JobError as error:
        raise JobError(f"constraint {text!r}: {error}") from None
    if sign in ("<", ">"):
        # What is below a bound is at most the number before it.
        bound = math.nextafter(bound, 0.0 if sign == "<" else math.inf)
    return Constraint(" ".join(text.split()), name, device, sign[0] == "<", bound, probability)


def _probability(quantity: Quantity, sign: str, probability: float) -> float:
    if quantity.cost is not None:
        raise JobError(f"{quantity.name} is known exactly and takes no probability")
    if (sign[0] == ">") != quantity.higher_is_better:
        wanted = ">=" if quantity.higher_is_better else "<="
        raise JobError(f"only '{quantity.name} {wanted} bound' takes a probability")
    if not 0.5 <= probability < 1:
        raise JobError(f"a probability is from 50% to below 100%, not {100 * probability:g}%")
    return probability


def excesses(
    constraints: Sequence[Constraint],
    target: Target,
    codes: Codes,
    accuracy: F64 | None = None,
    accuracy_std: F64 | None = None,
) -> F64:
    """`(n, k)` of the constraints that concern this target, in order; a row is feasible where nothing is above 0."""
    columns = [each.excess(target, codes, accuracy, accuracy_std) for each in constraints if each.concerns(target)]
    return np.stack(columns, axis=1) if columns else np.zeros((len(codes), 0))


@dataclass(frozen=True, slots=True)
class Reach:
    """What the architectures of a space have of one quantity, and how many of them meet a bound on it."""

    text: str
    """The constraint, or the quantity where there is none on it."""
    quantity: str
    low: float
    """The least that was found: drawn at random and evolved from there. Of a small space, the least there is."""
    median: float
    """Of architectures drawn at random, as the share below."""
    high: float
    bound: float | None = None
    share: float | None = None
    """Of architectures that meet the bound."""


def reach(
    constraints: Sequence[Constraint], target: Target, rng: np.random.Generator, quantities: Sequence[str] = ()
) -> tuple[Reach, ...]:
    """One row a constraint that concerns the target, and one for each of these quantities; none for accuracy."""
    drawn = target.space.sample(rng, DRAWN)
    rows = [
        replace(
            _reach(each.text, each.quantity, partial(each.values, target), target.space, drawn, rng),
            bound=each.bound,
            share=float((each.excess(target, drawn) <= 0).mean()),
        )
        for each in _own(constraints, target)
    ]
    return (
        *rows,
        *(
            _reach(name, name, partial(target.values, name), target.space, drawn, rng)
            for name in quantities
            if name != "accuracy"
        ),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Feasible:
    """Architectures that meet constraints; where none was found, `codes` is empty and the rest says how near one comes."""

    codes: Codes
    """Different canonical rows, in random order."""
    closest: Codes
    """One row: that which misses the constraints by the least, relative to their bounds and summed."""
    missed: tuple[tuple[str, float], ...]
    """The constraints that the closest misses, and what it has in their place."""


def feasible_sample(constraints: Sequence[Constraint], target: Target, rng: np.random.Generator, n: int) -> Feasible:
    """Up to `n` architectures that meet all constraints other than those on accuracy, found by evolution on predictions."""
    own = _own(constraints, target)

    def missed(codes: Codes) -> F64:
        total: F64 = excesses(own, target, codes).clip(min=0).sum(axis=1)
        return total

    pool = np.concatenate([target.space.sample(rng, DRAWN), _ends(target.space)])
    met, closest, least = pool[:0], pool[:1], math.inf
    for rows, total in _evolution(target.space, pool, missed, rng):
        if total.min() < least:
            closest, least = rows[[int(total.argmin())]], float(total.min())
        met = _different(np.concatenate([met, rows[total == 0]]))
        if len(met) >= n:
            break
    values = [
        (each.text, float(each.values(target, closest)[0])) for each in own if each.excess(target, closest)[0] > 0
    ]
    return Feasible(rng.permutation(met)[:n], closest, tuple(values))


def _own(constraints: Sequence[Constraint], target: Target) -> list[Constraint]:
    """Those on this target that can be told of any architecture."""
    return [each for each in constraints if each.concerns(target) and each.quantity != "accuracy"]


def _ends(space: Space) -> Codes:
    return space.encode([space.smallest(), space.largest()])


def _reach(
    text: str,
    quantity: str,
    values: Callable[[Codes], F64],
    space: Space,
    drawn: Codes,
    rng: np.random.Generator,
) -> Reach:
    pool = np.concatenate([drawn, _ends(space)])
    low = min(float(found.min()) for _, found in _evolution(space, pool, values, rng))
    high = max(float(-found.min()) for _, found in _evolution(space, pool, lambda codes: -values(codes), rng))
    return Reach(text, quantity, low, float(np.median(values(drawn))), high)


def _evolution(
    space: Space, pool: Codes, score: Callable[[Codes], F64], rng: np.random.Generator
) -> Iterator[tuple[Codes, F64]]:
    """Populations of different rows with ever smaller scores, and the scores, until the best stay the same."""
    # The least score, and how many have it: more of what meets all constraints is progress as well.
    best, stuck = (math.inf, 0), 0
    while stuck < PATIENCE:
        pool = _different(pool)
        scores = score(pool)
        yield pool, scores
        mixed = rng.permutation(len(pool))
        order = mixed[np.argsort(scores[mixed], kind="stable")[:PARENTS]]
        least = float(scores[order[0]])
        found = (least, -int(np.count_nonzero(scores == least)))
        stuck = 0 if found < best else stuck + 1
        best = min(best, found)
        mothers, fathers = pool[order[rng.integers(len(order), size=(2, CHILDREN))]]
        pool = np.concatenate([pool[order], mutate(space, crossover(space, mothers, fathers, rng), rng)])


def _different(rows: Codes) -> Codes:
    """Each row once."""
    return rows[np.unique(row_keys(rows), return_index=True)[1]]
