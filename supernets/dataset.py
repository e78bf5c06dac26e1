"""Images in, arrays out: what a supernet is trained and judged on.

`load` decodes a `DataSource` once into 8-bit arrays, cut into training, validation and test images, and keeps them in a
cache folder from which later loads map them into memory.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import isfinite, sqrt
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from search_spaces import digest
from supernets.datasource import TASK_OF_AXES, DataSource, TaskName
from supernets.errors import DataError
from supernets.listing import SPLITS, Labels
from supernets.readers import READERS
from supernets.splits import Progress, write_splits

__all__ = ["DataSource", "Dataset", "Images", "Progress", "load"]

FORMAT = "nas.images/1"
NOTES = "dataset.json"
AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Images:
    """`pixels` (n, channels, height, width), 8 bits each, and `labels`: (n,) classes, or (n, classes) whether it has each."""

    pixels: NDArray[np.uint8]
    labels: Labels

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.dtype != np.uint8:
            found = f"{self.pixels.dtype} of shape {self.pixels.shape}"
            raise DataError(f"pixels must be uint8 of shape (n, channels, height, width), not {found}")
        forms = ((1, np.dtype(np.int64)), (2, np.dtype(np.bool_)))
        if self.labels.shape[:1] != self.pixels.shape[:1] or (self.labels.ndim, self.labels.dtype) not in forms:
            found = f"{self.labels.dtype} of shape {self.labels.shape}"
            raise DataError(
                f"labels must be int64 of shape ({len(self.pixels)},), one for each image, or bool of shape "
                f"({len(self.pixels)}, classes), not {found}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def labels_an_image(self) -> float:
        """On average; above 0."""
        return 1.0 if self.labels.ndim == 1 else max(1, int(self.labels.sum())) / len(self.labels)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Images to train on, to choose by and to judge by, with the names of their classes.

    `skipped` says which images were left out and why. `id` is a digest of all pixels, labels and class names. `mean`
    and `std` are those of each channel of the training images, scaled to [0, 1].
    """

    train: Images
    validation: Images
    test: Images
    classes: tuple[str, ...]
    skipped: tuple[str, ...]
    name: str
    id: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise DataError(f"a data set needs two classes at least, not {list(self.classes)}")
        shape = self.train.pixels.shape[1:]
        for split in SPLITS:
            images: Images = getattr(self, split)
            if not len(images):
                raise DataError(f"the data set {self.name!r} has no {split} images")
            if images.pixels.shape[1:] != shape:
                raise DataError(f"{split} images have shape {images.pixels.shape[1:]}, those to train on {shape}")
            self._check_labels(split, images.labels)
        if len(self.mean) != shape[0] or len(self.std) != shape[0] or not all(map(isfinite, self.mean + self.std)):
            raise DataError(f"wanted a mean and a std for each of {shape[0]} channels, got {self.mean} and {self.std}")

    def _check_labels(self, split: str, labels: Labels) -> None:
        if labels.ndim != self.train.labels.ndim or (labels.ndim == 2 and labels.shape[1] != len(self.classes)):
            raise DataError(
                f"{split} labels have shape {labels.shape}, those to train on {self.train.labels.shape}, "
                f"and there are {len(self.classes)} classes"
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(self.classes):
            wrong = low if low < 0 else high
            raise DataError(f"a {split} image has label {wrong}; labels go from 0 to {len(self.classes) - 1}")

    @property
    def task(self) -> TaskName:
        """What is to be found out about an image."""
        return TASK_OF_AXES[self.train.labels.ndim]

    @staticmethod
    def of(
        train: Images,
        validation: Images,
        test: Images,
        classes: Sequence[str],
        name: str = "",
        skipped: Sequence[str] = (),
    ) -> Dataset:
        """A data set of these images, with its id and statistics worked out."""
        mean, std = _statistics(train.pixels)
        found = _contents((train, validation, test), classes)
        return Dataset(train, validation, test, tuple(classes), tuple(skipped), name, found, mean, std)


def load(source: DataSource, cache: Path | None = None, progress: Progress | None = None) -> Dataset:
    """The images of a source, decoded, resized and split; `DataError` says in one line what is wrong with them.

    With `cache`, arrays are kept in that folder and mapped into memory from there, until the source, one of its files'
    sizes or one of their times changes; a damaged entry is built again. `progress` hears of images decoded.
    """
    if cache is None:
        with TemporaryDirectory(prefix="images-") as folder:
            _build(source, Path(folder), progress)
            return _read(Path(folder), None)
    entry = cache / _cache_key(source)
    try:
        return _read(entry, "c")
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        shutil.rmtree(entry, ignore_errors=True)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        scratch = TemporaryDirectory(prefix=".partial-", dir=cache)
    except OSError as error:
        raise DataError(f"cannot write to the cache folder {cache}: {error.strerror}; give another one") from error
    with scratch as folder:
        built = Path(folder) / "entry"
        built.mkdir()
        _build(source, built, progress)
        try:
            built.rename(entry)
        except OSError:
            # Another process was faster with the same images.
            if not entry.is_dir():
                raise
    return _read(entry, "c")


def _build(source: DataSource, folder: Path, progress: Progress | None) -> None:
    """Write a cache entry: two array files a split, and the rest as JSON with a digest of its own."""
    listing = READERS[source.kind].read(source)
    classes, skipped = write_splits(source, listing, folder, progress)
    dataset = Dataset.of(*_read_images(folder, "c"), classes, listing.name, skipped)
    notes = {
        "format": FORMAT,
        "name": dataset.name,
        "classes": dataset.classes,
        "skipped": dataset.skipped,
        "id": dataset.id,
        "mean": dataset.mean,
        "std": dataset.std,
    }
    (folder / NOTES).write_text(json.dumps({**notes, "check": digest(notes)}), encoding="utf-8")


def _read(folder: Path, mode: Literal["c"] | None) -> Dataset:
    """Read what `_build` wrote; any of several errors where it is not what was written."""
    notes: dict[str, Any] = json.loads((folder / NOTES).read_text(encoding="utf-8"))
    check = notes.pop("check")
    images = _read_images(folder, mode)
    # Reading all of it takes 0.15 s for CIFAR-10, and training on damaged images would take the blame elsewhere.
    if check != digest(notes) or notes["format"] != FORMAT or notes["id"] != _contents(images, notes["classes"]):
        raise DataError(f"the cache entry {folder} is damaged; remove it")
    classes, skipped, mean, std = (tuple(notes[key]) for key in ("classes", "skipped", "mean", "std"))
    return Dataset(*images, classes, skipped, notes["name"], notes["id"], mean, std)


def _read_images(folder: Path, mode: Literal["c"] | None) -> tuple[Images, Images, Images]:
    # Copy on write rather than read-only: torch warns about arrays that it cannot write to. The file never changes.
    train, validation, test = (
        Images(
            np.load(folder / f"{split}.pixels.npy", mmap_mode=mode, allow_pickle=False),
            np.load(folder / f"{split}.labels.npy", allow_pickle=False),
        )
        for split in SPLITS
    )
    return train, validation, test


def _cache_key(source: DataSource) -> str:
    files = []
    for path in READERS[source.kind].files(source):
        status = path.stat()
        files.append([str(path.resolve()), status.st_size, status.st_mtime_ns])
    # Without the task where it says nothing new: entries from before there were tasks stay good.
    fields = {name: value for name, value in asdict(source).items() if name != "task" or source.many_labels}
    return digest({"format": FORMAT, "source": fields, "files": files}, length=16)


def _contents(splits: Sequence[Images], classes: Sequence[str]) -> str:
    found = []
    for images in splits:
        hashed = hashlib.sha256()
        for part in _parts(images.pixels):
            hashed.update(np.ascontiguousarray(part).data)
        hashed.update(np.ascontiguousarray(images.labels.astype("<i8")).data)
        found.append([list(images.pixels.shape), hashed.hexdigest()])
    return digest({"classes": list(classes), "splits": found})


def _statistics(pixels: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of pixels scaled to [0, 1]; exact sums of whole numbers.

    The deviation is never below one level of 255: dividing by it is safe where all images are of one colour.
    """
    channels = pixels.shape[1]
    sums, squares = [0] * channels, [0] * channels
    for part in _parts(pixels):
        wide = part.astype(np.uint16)
        for c in range(channels):
            sums[c] += int(wide[:, c].sum(dtype=np.uint64))
            squares[c] += int(np.square(wide[:, c]).sum(dtype=np.uint64))
    count = max(1, pixels[:, 0].size)
    means = [total / count for total in sums]
    deviations = [sqrt(max(0, q * count - s * s)) / count for s, q in zip(sums, squares, strict=True)]
    return tuple(mean / 255 for mean in means), tuple(max(1.0, deviation) / 255 for deviation in deviations)


def _parts(pixels: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    return (pixels[start : start + AT_ONCE] for start in range(0, len(pixels), AT_ONCE))
