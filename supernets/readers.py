"""The kinds of source: each lists its files and its pictures."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from supernets.datasource import DataSource, near_miss
from supernets.decoding import SUFFIXES
from supernets.errors import DataError
from supernets.listing import Listing, Part
from supernets.tables import parquet_files, read_huggingface, read_parquet

# The layouts in which `path` holds a folder a split, and the splits that these are.
LAYOUTS = ({"train", "test"}, {"train", "val"}, {"train", "val", "test"})
SPLIT_OF = {"train": "train", "val": "validation", "test": "test"}


@dataclass(frozen=True, slots=True)
class Reader:
    """`files` are those whose change makes a cached copy stale; `read` lists what there is to decode."""

    files: Callable[[DataSource], tuple[Path, ...]]
    read: Callable[[DataSource], Listing]


def read_digits(source: DataSource) -> Listing:
    """The 1,797 handwritten digits of 8x8 px that scikit-learn brings along (UCI, Alpaydin and Kaynak 1998)."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = np.rint(found.images * (255 / 16)).astype(np.uint8)
    labels = found.target.astype(np.int64)
    part = Part("train", labels, "digit {}".format, lambda: iter(images))
    return Listing(source.name or "digits", (part,), source.classes)


def read_folder(source: DataSource) -> Listing:
    """One folder a class, in `path` and `test_path`, or in `path/train`, `path/val` and `path/test`."""
    roots = _split_folders(source)
    found = {split: _class_folders(root) for split, root in roots.items()}
    classes = source.classes or tuple(folder.name for folder in found["train"])
    parts = []
    for split, folders in found.items():
        for folder in folders:
            if folder.name not in classes:
                hint = near_miss(folder.name, classes)
                raise DataError(f"the folder {folder} is none of the classes {', '.join(classes)}{hint}")
        if not folders:
            raise DataError(f"{roots[split]} has no folder of images; it needs one for each class")
        files = [file for pictures in folders.values() for file in pictures]
        labels = [folder.name for folder, pictures in folders.items() for _ in pictures]
        parts.append(Part(split, labels, partial(_path_of, files), partial(iter, files)))
    trained = {folder.name for folder in found["train"]}
    absent = [name for name in classes if name not in trained]
    if absent:
        raise DataError(f"{roots['train']} has no folder for the class {absent[0]!r}")
    return Listing(source.name or Path(source.path or "").resolve().name, tuple(parts), classes)


def folder_files(source: DataSource) -> tuple[Path, ...]:
    roots = _split_folders(source).values()
    return tuple(file for root in roots for pictures in _class_folders(root).values() for file in pictures)


def no_files(source: DataSource) -> tuple[Path, ...]:
    """For a source that is named, not kept in files of ours: the name is all there is to compare."""
    return ()


READERS: dict[str, Reader] = {
    "digits": Reader(no_files, read_digits),
    "folder": Reader(folder_files, read_folder),
    "parquet": Reader(parquet_files, read_parquet),
    "huggingface": Reader(no_files, read_huggingface),
}


def _split_folders(source: DataSource) -> dict[str, Path]:
    """Split -> its folder of class folders, `train` first."""
    root = Path(source.path or "")
    folders = {folder.name: folder for folder in _inside(root)[0]}
    if set(folders) in LAYOUTS:
        found = {SPLIT_OF[name]: folders[name] for name in ("train", "val", "test") if name in folders}
    else:
        found = {"train": root}
    if source.test_path is not None:
        if "test" in found:
            raise DataError(f"{root} has a test folder already; drop test_path, or give {found['train']} as path")
        found["test"] = Path(source.test_path)
    return found


def _class_folders(root: Path) -> dict[Path, list[Path]]:
    """Class folder -> its pictures, both sorted by name."""
    found = {}
    for folder in _inside(root)[0]:
        inner, files = _inside(folder)
        if inner:
            raise DataError(
                f"the class folder {folder} holds the folder {inner[0].name!r}; images lie directly in the folder of "
                "their class, and folders of splits are named train, val and test"
            )
        found[folder] = [file for file in files if file.suffix.lower() in SUFFIXES]
        if not found[folder]:
            raise DataError(
                f"the class folder {folder} has no image; add some ({', '.join(SUFFIXES)}) or remove the folder"
            )
    return found


def _inside(root: Path) -> tuple[list[Path], list[Path]]:
    """The folders and the files of a folder, sorted, without the hidden ones."""
    if not root.exists():
        raise DataError(f"the folder {root} does not exist; give the path of a folder that holds one folder a class")
    if not root.is_dir():
        raise DataError(f"{root} is a file; give the path of a folder that holds one folder a class")
    folders: list[Path] = []
    files: list[Path] = []
    try:
        # Not iterdir: a million images would be asked one by one whether they are folders.
        with os.scandir(root) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    (folders if entry.is_dir() else files).append(Path(entry.path))
    except OSError as error:
        raise DataError(f"the folder {root} cannot be read: {error.strerror}") from error
    return sorted(folders), sorted(files)


def _path_of(files: list[Path], i: int) -> str:
    return str(files[i])
