"""Choices, spaces and architectures.

A population is an integer matrix `(n, choices)`: entry `[i, j]` is the index of the value that architecture i takes on
choice j. A matrix is *canonical* when every inactive entry is 0, so that two rows are equal exactly when they build the
same network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import SpaceError

SPACE_FORMAT = "nas.space/1"

Value = int | float | str
Codes = NDArray[np.int16]
Json = Any


def canonical_json(document: Json) -> str:
    """The one text of a JSON document: sorted keys, no spaces."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(document: Json, length: int = 12) -> str:
    """The first `length` hexadecimal digits of the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical_json(document).encode()).hexdigest()[:length]


@dataclass(frozen=True, slots=True)
class When:
    """A condition: `choice` is active and takes one of `values`."""

    choice: str
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise SpaceError(f"a condition waits for no value of {self.choice!r}")
        if len(set(self.values)) != len(self.values):
            raise SpaceError(f"a condition on {self.choice!r} repeats a value in {list(self.values)}")


def deep_enough(choice: str, depths: Sequence[int], block: int) -> When | None:
    """That a stage whose depth is this choice has a block of this number, from 0; None where it has it at every depth."""
    having = tuple(depth for depth in depths if depth > block)
    return None if having == tuple(depths) else When(choice, having)


@dataclass(frozen=True, slots=True)
class Choice:
    """A named axis and its values, ordered from the cheapest to the most expensive."""

    name: str
    values: tuple[Value, ...]
    when: When | None = None

    def __post_init__(self) -> None:
        if not self.name or not self.values:
            raise SpaceError(f"choice {self.name!r} needs a name and at least one value")
        if len(set(self.values)) != len(self.values):
            raise SpaceError(f"choice {self.name!r} repeats a value in {list(self.values)}")

    @property
    def kind(self) -> str:
        """What the choice decides: the last part of its name, as `kernel` in `s1.b0.kernel`."""
        return self.name.rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class Arch:
    """One architecture: the active choices of a space, in the space's order. Made by a `Space`, so always canonical."""

    space_id: str
    items: tuple[tuple[str, Value], ...]

    @property
    def id(self) -> str:
        """12 hexadecimal digits that name this architecture in files and tables."""
        return digest(self.to_json())

    @property
    def values(self) -> dict[str, Value]:
        return dict(self.items)

    def to_json(self) -> dict[str, Json]:
        return {"space": self.space_id, "choices": dict(self.items)}


@dataclass(frozen=True, eq=False)
class Space:
    """An ordered set of choices over the networks that one family can build.

    `settings` is the family's own JSON: whatever is fixed over the whole space, as widths or the number of classes.
    Two spaces are equal when their definitions are.
    """

    family: str
    settings: Mapping[str, Json]
    choices: tuple[Choice, ...]

    def __post_init__(self) -> None:
        seen: dict[str, Choice] = {}
        for choice in self.choices:
            if choice.name in seen:
                raise SpaceError(f"the space has two choices named {choice.name!r}")
            if choice.when is not None:
                parent = seen.get(choice.when.choice)
                if parent is None:
                    raise SpaceError(
                        f"choice {choice.name!r} depends on {choice.when.choice!r}, which is not before it"
                    )
                if not set(choice.when.values) <= set(parent.values):
                    raise SpaceError(f"choice {choice.name!r} waits for a value that {parent.name!r} never takes")
            seen[choice.name] = choice

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Space) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    @cached_property
    def id(self) -> str:
        return digest(self.to_json())

    @cached_property
    def columns(self) -> dict[str, int]:
        """Choice name -> its column in a code matrix."""
        return {choice.name: j for j, choice in enumerate(self.choices)}

    @cached_property
    def cardinalities(self) -> NDArray[np.int16]:
        return np.array([len(choice.values) for choice in self.choices], dtype=np.int16)

    @cached_property
    def size(self) -> int:
        """The exact number of different architectures, counted over the trees that the conditions form."""
        # Children come after their parents, so a pass from the back sees every child before its parent.
        ways = {choice.name: dict.fromkeys(choice.values, 1) for choice in self.choices}
        total = 1
        for choice in reversed(self.choices):
            below = sum(ways[choice.name].values())
            if choice.when is None:
                total *= below
            else:
                for value in choice.when.values:
                    ways[choice.when.choice][value] *= below
        return total

    def active(self, codes: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
        """Which entries of a `(n, choices)` matrix count; same shape."""
        mask = np.ones(codes.shape, dtype=np.bool_)
        for j, choice in enumerate(self.choices):
            if choice.when is not None:
                parent = self.columns[choice.when.choice]
                opens = np.array([value in choice.when.values for value in self.choices[parent].values])
                mask[:, j] = mask[:, parent] & opens[codes[:, parent]]
        return mask

    def canonical(self, codes: NDArray[np.integer[Any]]) -> Codes:
        """The same architectures with every inactive entry set to 0; `(n, choices)`."""
        self._check(codes)
        return np.where(self.active(codes), codes, 0).astype(np.int16)

    def sample(self, rng: np.random.Generator, n: int, allowed: Mapping[str, Sequence[int]] | None = None) -> Codes:
        """`n` canonical rows, each choice uniform over its values, or over the indices `allowed` for its name."""
        codes = np.empty((n, len(self.choices)), dtype=np.int16)
        for j, choice in enumerate(self.choices):
            indices = (allowed or {}).get(choice.name)
            codes[:, j] = rng.integers(len(choice.values), size=n) if indices is None else rng.choice(indices, size=n)
        return self.canonical(codes)

    def smallest(self) -> Arch:
        """Every choice at its first value."""
        return self.decode(np.zeros((1, len(self.choices)), dtype=np.int16))[0]

    def largest(self) -> Arch:
        """Every choice at its last value."""
        return self.decode(self.cardinalities[None] - 1)[0]

    def arch(self, values: Mapping[str, Value]) -> Arch:
        """The architecture with these values. Values of inactive choices may be given and are dropped."""
        unknown = [name for name in values if name not in self.columns]
        if unknown:
            raise SpaceError(f"the space has no choice named {unknown[0]!r}; it has {', '.join(self.columns)}")
        codes = np.zeros((1, len(self.choices)), dtype=np.int16)
        for j, choice in enumerate(self.choices):
            if choice.name in values:
                codes[0, j] = _index(choice, values[choice.name])
        arch = self.decode(codes)[0]
        missing = [name for name, _ in arch.items if name not in values]
        if missing:
            raise SpaceError(f"the architecture gives no value for {missing[0]!r}")
        return arch

    def encode(self, archs: Iterable[Arch]) -> Codes:
        """Canonical codes `(n, choices)` of architectures of this space."""
        rows = []
        for arch in archs:
            if arch.space_id != self.id:
                raise SpaceError(f"architecture {arch.id} belongs to space {arch.space_id}, not to {self.id}")
            row = [0] * len(self.choices)
            for name, value in arch.items:
                row[self.columns[name]] = _index(self.choices[self.columns[name]], value)
            rows.append(row)
        return np.array(rows, dtype=np.int16).reshape(len(rows), len(self.choices))

    def decode(self, codes: NDArray[np.integer[Any]]) -> list[Arch]:
        """One `Arch` a row; rows need not be canonical."""
        self._check(codes)
        mask = self.active(codes)
        return [
            Arch(
                self.id, tuple((c.name, c.values[k]) for c, k, on in zip(self.choices, row, active, strict=True) if on)
            )
            for row, active in zip(codes.tolist(), mask.tolist(), strict=True)
        ]

    def to_json(self) -> dict[str, Json]:
        choices: list[Json] = []
        for choice in self.choices:
            entry: dict[str, Json] = {"name": choice.name, "values": list(choice.values)}
            if choice.when is not None:
                entry["when"] = {"choice": choice.when.choice, "values": list(choice.when.values)}
            choices.append(entry)
        return {"format": SPACE_FORMAT, "family": self.family, "settings": dict(self.settings), "choices": choices}

    @staticmethod
    def from_json(document: Json) -> Space:
        """Read what `to_json` wrote; `SpaceError` names what is wrong."""
        if not isinstance(document, dict) or document.get("format") != SPACE_FORMAT:
            found = document.get("format") if isinstance(document, dict) else type(document).__name__
            raise SpaceError(f"not a space definition: wanted format {SPACE_FORMAT!r}, found {found!r}")
        for key, kind, wanted in (("family", str, "a name"), ("settings", dict, "an object")):
            if not isinstance(document.get(key), kind):
                raise SpaceError(
                    f"broken space definition: {key} must be {wanted}, not {type(document.get(key)).__name__}"
                )
        try:
            choices = []
            for entry in document["choices"]:
                when = entry.get("when")
                condition = None if when is None else When(when["choice"], tuple(when["values"]))
                choices.append(Choice(entry["name"], tuple(entry["values"]), condition))
            return Space(document["family"], document["settings"], tuple(choices))
        except (KeyError, TypeError, AttributeError) as error:
            raise SpaceError(f"broken space definition: {type(error).__name__} {error}") from error

    def arch_from_json(self, document: Json) -> Arch:
        """Read what `Arch.to_json` wrote, refusing an architecture of another space."""
        if not isinstance(document, dict) or not isinstance(document.get("choices"), dict):
            raise SpaceError("not an architecture: wanted an object with 'space' and 'choices'")
        if document.get("space") != self.id:
            raise SpaceError(f"the architecture belongs to space {document.get('space')}, not to {self.id}")
        return self.arch(document["choices"])

    def _check(self, codes: NDArray[np.integer[Any]]) -> None:
        if codes.ndim != 2 or codes.shape[1] != len(self.choices):
            raise SpaceError(f"wanted codes of shape (n, {len(self.choices)}), got {codes.shape}")
        if codes.size and (codes.min() < 0 or (codes >= self.cardinalities).any()):
            raise SpaceError("a code lies outside the values of its choice")


def row_keys(codes: NDArray[np.integer[Any]]) -> NDArray[np.void]:
    """One value a row, equal where rows are: `(n, choices)` -> `(n,)`.

    The bytes of a row: `np.unique(axis=0)` takes 3.1 ms for 2,560 rows of `mobilenet_v3`, `np.unique` of these 0.3.
    """
    return np.ascontiguousarray(codes).view(np.dtype((np.void, codes.itemsize * codes.shape[1]))).ravel()


def first_rows(codes: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Where each different row stands for the first time, in order."""
    return np.sort(np.unique(row_keys(codes), return_index=True)[1])


def _index(choice: Choice, value: Value) -> int:
    try:
        return choice.values.index(value)
    except ValueError:
        raise SpaceError(f"{choice.name} cannot be {value!r}; it is one of {list(choice.values)}") from None
