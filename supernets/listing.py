"""What a source holds, before anything is decoded: the pictures of each given split with their labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from supernets.datasource import near_miss
from supernets.decoding import Picture
from supernets.errors import DataError

SPLITS = ("train", "validation", "test")

Labels = NDArray[np.int64] | NDArray[np.bool_]
"""Of n images, as `supernets.datasource.TASK_OF_AXES` says."""


@dataclass(frozen=True, slots=True)
class Part:
    """The pictures that a source gives for one split; `place` says where picture i is, for messages.

    `values` are class names, or whole numbers from 0: one for each picture, or as many as `lengths` says.
    """

    split: str
    values: Sequence[str] | NDArray[np.int64]
    place: Callable[[int], str]
    pictures: Callable[[], Iterable[Picture]]
    lengths: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.values if self.lengths is None else self.lengths)

    def place_of(self, value: int) -> str:
        """Where the picture is that has value number so many."""
        if self.lengths is None:
            return self.place(value)
        return self.place(int(np.searchsorted(np.cumsum(self.lengths), value, side="right")))

    def grouped(self, labels: NDArray[np.int64]) -> Iterator[tuple[int, ...]]:
        """The labels of each picture, each of them once and in order, from those of all values."""
        if self.lengths is None:
            yield from ((label,) for label in labels.tolist())
            return
        start = 0
        for end in np.cumsum(self.lengths).tolist():
            yield tuple(sorted(set(labels[start:end].tolist())))
            start = end


@dataclass(frozen=True, slots=True)
class Listing:
    """A source's parts, with the classes where the source names them."""

    name: str
    parts: tuple[Part, ...]
    classes: tuple[str, ...] | None = None


def number(listing: Listing) -> tuple[tuple[str, ...], list[NDArray[np.int64]]]:
    """The classes, and the values of each part as indices into them; `DataError` names the first that has none."""
    kinds = {isinstance(part.values, np.ndarray) for part in listing.parts if len(part.values)}
    if len(kinds) > 1:
        raise DataError("labels are whole numbers in one set and names in another; write both in the same way")
    classes, labels = (_check_numbers if kinds == {True} else _number_names)(listing)
    if len(classes) < 2:
        found = f"only {classes[0]!r}" if classes else "none"
        raise DataError(f"a classifier needs two classes at least, and {listing.name} has {found}")
    return classes, labels


def _number_names(listing: Listing) -> tuple[tuple[str, ...], list[NDArray[np.int64]]]:
    classes = listing.classes
    if classes is None:
        classes = tuple(sorted({str(value) for part in listing.parts for value in part.values}))
    index = {name: i for i, name in enumerate(classes)}
    for part in listing.parts:
        for i, value in enumerate(part.values):
            if value not in index:
                hint = near_miss(value, classes)
                raise DataError(
                    f"{part.place_of(i)} has label {value!r}, which is none of the classes {_some(classes)}{hint}"
                )
    return classes, [np.array([index[str(value)] for value in part.values], dtype=np.int64) for part in listing.parts]


def _check_numbers(listing: Listing) -> tuple[tuple[str, ...], list[NDArray[np.int64]]]:
    labels = [np.asarray(part.values, dtype=np.int64) for part in listing.parts]
    highest = max((int(column.max()) for column in labels if len(column)), default=-1)
    count = highest + 1 if listing.classes is None else len(listing.classes)
    for part, column in zip(listing.parts, labels, strict=True):
        outside = np.flatnonzero((column < 0) | (column >= count))
        if len(outside):
            wanted = "0 upwards" if listing.classes is None else f"0 to {count - 1}, one for each class"
            row = int(outside[0])
            raise DataError(f"{part.place_of(row)} has label {column[row]}; labels go from {wanted}")
    if listing.classes is not None:
        return listing.classes, labels
    used = np.unique(np.concatenate(labels))
    if len(used) != count:
        # The first place where the sorted labels leave the count 0, 1, 2, ...
        gap = int(np.flatnonzero(used != np.arange(len(used)))[0])
        raise DataError(
            f"the labels of {listing.name} go up to {highest}, but none is {gap}; number them from 0 without gaps, "
            "or name all `classes`"
        )
    return tuple(map(str, range(count))), labels


def _some(names: Sequence[str], limit: int = 10) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
