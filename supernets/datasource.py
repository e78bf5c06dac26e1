"""Where the images of a job come from, as the `data:` section of a job file says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from difflib import get_close_matches
from typing import Literal

from supernets.errors import DataError

# Kind of source -> the fields that it needs, and those that it also takes.
PLACES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "digits": ((), ()),
    "folder": (("path",), ("test_path",)),
    "parquet": (("path",), ("test_path",)),
    "huggingface": (("name",), ()),
}
MIN_PX, MAX_PX = 4, 1024

TaskName = Literal["single_label", "multi_label"]
TASK_OF_AXES: Mapping[int, TaskName] = {1: "single_label", 2: "multi_label"}
"""By the axes that labels have: whole numbers (n,), or for each class whether an image has it (n, classes)."""


@dataclass(frozen=True, slots=True)
class DataSource:
    """Which images, and how they become arrays.

    Every image is resized to `size` px square (shorter side, then the centre). Fractions are of the images that no
    given test or validation set holds; an image's split depends on its pixels alone. `name` is a Hugging Face dataset
    for that kind, and what the dataset is called for the others. `classes` gives the classes in the order of their
    labels. With `skip_bad`, images that cannot be read are left out and listed instead of refused. `task` says whether an
    image has one class (`single_label`) or any number of them (`multi_label`); then copies of an image are one image with
    the labels of all.
    """

    kind: str
    _: KW_ONLY
    size: int
    path: str | None = None
    test_path: str | None = None
    name: str | None = None
    image_column: str = "image"
    label_column: str = "label"
    channels: int = 3
    validation_fraction: float = 0.1
    test_fraction: float = 0.2
    skip_bad: bool = False
    classes: tuple[str, ...] | None = None
    task: TaskName = "single_label"

    def __post_init__(self) -> None:
        if self.kind not in tuple(PLACES):
            raise DataError(
                f"unknown kind of data {self.kind!r}{near_miss(self.kind, PLACES)}; known: {_listed(PLACES)}"
            )
        self._check_places()
        if not _whole(self.size) or not MIN_PX <= self.size <= MAX_PX:
            raise DataError(f"size must be a whole number of pixels from {MIN_PX} to {MAX_PX}, not {self.size!r}")
        if not _whole(self.channels) or self.channels not in (1, 3):
            raise DataError(f"channels must be 1 (grey) or 3 (colour), not {self.channels!r}")
        for name in ("validation_fraction", "test_fraction"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
                raise DataError(f"{name} must be a number between 0 and 1, not {value!r}")
        if self.validation_fraction + self.test_fraction >= 1:
            raise DataError("validation_fraction and test_fraction together must be below 1: training needs images too")
        if self.classes is not None:
            self._check_classes(self.classes)
        if self.task not in TASK_OF_AXES.values():
            raise DataError(f"data.task must be one of {', '.join(TASK_OF_AXES.values())}, not {self.task!r}")

    @property
    def many_labels(self) -> bool:
        """Whether an image may have several labels, or none."""
        return self.task == TASK_OF_AXES[2]

    def _check_places(self) -> None:
        needs, takes = PLACES[self.kind]
        for name in ("path", "test_path", "name"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise DataError(f"data.{name} must be a text that is not empty, not {value!r}")
            if value is None and name in needs:
                raise DataError(f"data of kind {self.kind!r} needs {name!r}")
            if value is not None and name != "name" and name not in needs + takes:
                raise DataError(f"data of kind {self.kind!r} takes no {name!r}; drop it")

    @staticmethod
    def _check_classes(classes: tuple[str, ...]) -> None:
        if not isinstance(classes, tuple) or not all(isinstance(name, str) and name for name in classes):
            raise DataError(f"classes must be a tuple of names, not {classes!r}")
        if len(classes) < 2:
            raise DataError(f"classes must name two at least, not {list(classes)}")
        repeated = [name for name in classes if classes.count(name) > 1]
        if repeated:
            raise DataError(f"classes names {repeated[0]!r} twice")


def near_miss(name: object, known: Mapping[str, object] | tuple[str, ...]) -> str:
    """`; did you mean 'x'?` for the closest known name, or nothing where none is close."""
    near = get_close_matches(str(name), tuple(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(names)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
