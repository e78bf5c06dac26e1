"""Decoded images, cut into training, validation and test, written as one array file each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from supernets.datasource import DataSource
from supernets.decoding import Decoded, decode_all
from supernets.errors import DataError
from supernets.listing import SPLITS, Labels, Listing, Part, number

TELL_EVERY = 100
AT_ONCE = 256

Progress = Callable[[int, int], None]
"""Told how many images are done, and of how many."""


@dataclass(slots=True)
class Rows:
    """What became of the pictures so far: one entry for each that was kept, in the order of the scratch file.

    `places` is where an image with this key is, while copies of it are to be one image.
    """

    splits: list[str] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    labels: list[tuple[int, ...]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    places: dict[bytes, int] = field(default_factory=dict)


def split_of(key: bytes, validation_fraction: float, test_fraction: float) -> str:
    """The split of an image from its SHA-256 alone: the same whatever else is in the set.

    Test is cut from the low end of [0, 1) and validation from the high end, so that changing one fraction moves no
    image of the other.
    """
    # 53 bits: what a float holds, so that this stays below 1.
    position = (int.from_bytes(key[:8], "big") >> 11) / 2**53
    if position < test_fraction:
        return "test"
    return "validation" if position >= 1 - validation_fraction else "train"


def write_splits(
    source: DataSource, listing: Listing, folder: Path, progress: Progress | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Decode a listing into `SPLIT.pixels.npy` and `SPLIT.labels.npy`; returns the classes and what was skipped.

    Each split is in the order of its images' digests: any first part of it is a random sample, and neither names nor
    places of the images change the result.
    """
    classes, labels = number(listing)
    scratch = folder / "decoded"
    with scratch.open("wb") as file:
        rows = _decode(source, listing, labels, file, progress)
    _check_splits(source, classes, rows)
    shape = (len(rows.keys), source.channels, source.size, source.size)
    decoded = np.memmap(scratch, dtype=np.uint8, mode="r", shape=shape)
    splits, numbers = np.array(rows.splits), _as_array(rows.labels, len(classes), source.many_labels)
    order = np.array(sorted(range(len(rows.keys)), key=lambda i: (rows.keys[i], rows.labels[i])))
    for split in SPLITS:
        chosen = order[splits[order] == split]
        np.save(folder / f"{split}.labels.npy", numbers[chosen])
        _gather(decoded, chosen, folder / f"{split}.pixels.npy")
    del decoded
    scratch.unlink()
    return classes, tuple(rows.skipped)


def _decode(
    source: DataSource,
    listing: Listing,
    labels: Sequence[NDArray[np.int64]],
    file: BinaryIO,
    progress: Progress | None,
) -> Rows:
    """Decode all parts into `file`, one image after the other; test and validation first, so that training can avoid
    what they hold."""
    given = {part.split for part in listing.parts}
    validation_fraction = 0.0 if "validation" in given else source.validation_fraction
    test_fraction = 0.0 if "test" in given else source.test_fraction
    rows, done, total = Rows(), 0, sum(map(len, listing.parts))
    held: dict[bytes, str] = {}
    parts = sorted(zip(listing.parts, labels, strict=True), key=lambda pair: -SPLITS.index(pair[0].split))
    for part, column in parts:
        decoded = decode_all(part.pictures(), source.size, source.channels)
        for i, (found, own) in enumerate(zip(decoded, part.grouped(column), strict=True)):
            done += 1
            if progress is not None and (done % TELL_EVERY == 0 or done == total):
                progress(done, total)
            if isinstance(found, str):
                _skip(source, rows, part, i, found)
            elif held.get(found.key, part.split) != part.split:
                rows.skipped.append(f"{part.place(i)}: the same image is in the {held[found.key]} set")
            else:
                split = part.split
                if split == "train":
                    split = split_of(found.key, validation_fraction, test_fraction)
                else:
                    held[found.key] = split
                _keep(rows, file, split, found, own, merging=source.many_labels)
    return rows


def _skip(source: DataSource, rows: Rows, part: Part, i: int, reason: str) -> None:
    if not source.skip_bad:
        raise DataError(
            f"bad image {part.place(i)}: {reason}; repair or remove it, or set skip_bad to leave such images out"
        )
    rows.skipped.append(f"{part.place(i)}: {reason}")


def _keep(rows: Rows, file: BinaryIO, split: str, found: Decoded, labels: tuple[int, ...], *, merging: bool) -> None:
    """With `merging`, a copy of an image adds its labels to those that are there; it is in the same split, by its key."""
    if merging:
        place = rows.places.setdefault(found.key, len(rows.keys))
        if place < len(rows.keys):
            rows.labels[place] = tuple(sorted({*rows.labels[place], *labels}))
            return
    file.write(found.pixels.tobytes())
    rows.splits.append(split)
    rows.keys.append(found.key)
    rows.labels.append(labels)


def _as_array(found: Sequence[tuple[int, ...]], classes: int, many: bool) -> Labels:
    """Labels of images as `Images` has them."""
    if not many:
        return np.array([label for (label,) in found], dtype=np.int64)
    table = np.zeros((len(found), classes), dtype=np.bool_)
    for row, labels in enumerate(found):
        table[row, list(labels)] = True
    return table


def _check_splits(source: DataSource, classes: Sequence[str], rows: Rows) -> None:
    count = len(rows.keys)
    left_out = f" ({len(rows.skipped)} were left out, the first: {rows.skipped[0]})" if rows.skipped else ""
    for split in SPLITS:
        if split not in rows.splits:
            fraction = "" if split == "train" else f" or raise {split}_fraction"
            raise DataError(f"no image is left for {split}, of {count} in all{left_out}; give more images{fraction}")
    train = [labels for labels, split in zip(rows.labels, rows.splits, strict=True) if split == "train"]
    trained = Counter(label for labels in train for label in labels)
    for label, name in enumerate(classes):
        if not trained[label]:
            elsewhere = sum(label in labels for labels in rows.labels)
            what = f"all {elsewhere} of its images are held out" if elsewhere else "none of its images can be used"
            raise DataError(f"the class {name!r} has no image to train on: {what}{left_out}; give more images of it")
    for label, name in enumerate(classes):
        if trained[label] == len(train):
            raise DataError(
                f"all {len(train)} images to train on have the class {name!r}{left_out}; give images without it, or drop "
                "that label"
            )


def _gather(decoded: NDArray[np.uint8], rows: NDArray[np.int64], path: Path) -> None:
    """Write these rows as an array file, some at a time: they need not fit into memory."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(rows), *decoded.shape[1:])}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(rows), AT_ONCE):
            file.write(decoded[rows[start : start + AT_ONCE]].tobytes())
