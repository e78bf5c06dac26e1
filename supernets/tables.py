"""Sources that are tables: Parquet files, and data sets of the Hugging Face hub."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from supernets.datasource import DataSource, near_miss
from supernets.errors import DataError
from supernets.label_column import joined, names_of, read_labels
from supernets.listing import Listing, Part

ROWS_AT_ONCE = 256
# What the splits are called on the hub; others, as `unsupervised`, are not for us.
HUB_SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}


def parquet_files(source: DataSource) -> tuple[Path, ...]:
    return tuple(file for files in _split_files(source).values() for file in files)


def read_parquet(source: DataSource) -> Listing:
    """Rows of an encoded image and a label, in one file or in all files of a folder."""
    splits = _split_files(source)
    parts = tuple(_part(split, files, source) for split, files in splits.items())
    classes = source.classes or _class_names(splits["train"][0], source.label_column)
    return Listing(source.name or Path(source.path or "").resolve().stem, parts, classes)


def read_huggingface(source: DataSource) -> Listing:
    """A data set of the hub, or of its local cache."""
    try:
        import datasets
    except ImportError as error:
        raise DataError("data of the Hugging Face hub needs a package: pip install 'hwnas[huggingface]'") from error
    try:
        found = datasets.load_dataset(source.name)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"cannot load {source.name!r} from the Hugging Face hub ({reason}); check the name and the network, or "
            "give a copy of its Parquet files with kind 'parquet'"
        ) from error
    splits = {HUB_SPLITS[name]: table for name, table in found.items() if name in HUB_SPLITS}
    if "train" not in splits:
        raise DataError(f"{source.name!r} has no split 'train'; it has {', '.join(found)}")
    parts, classes = [], source.classes
    for split in sorted(splits, key=list(HUB_SPLITS.values()).index):
        table = splits[split]
        where = f"{source.name} ({split})"
        _check_columns(where, list(table.column_names), source)
        classes = classes or names_of(table.features[source.label_column])
        column = read_labels(_chunked(list(table[source.label_column]), where), where, source)
        encoded = table.select_columns([source.image_column]).cast_column(
            source.image_column, datasets.Image(decode=False)
        )
        pictures = partial(_hub_pictures, encoded, source.image_column)
        parts.append(Part(split, column.values, partial(_row_of_one, where), pictures, column.lengths))
    return Listing(str(source.name), tuple(parts), classes)


def _split_files(source: DataSource) -> dict[str, list[Path]]:
    """Split -> its files, `train` first. Files named as on the hub, as `test-00000-of-00002`, go to their split."""
    path = Path(source.path or "")
    files = _files_at(path)
    prefixes = {file: file.stem.partition("-")[0] for file in files}
    found = {"train": files}
    if set(prefixes.values()) <= set(HUB_SPLITS) and "train" in prefixes.values():
        found = {"train": []}
        for file, prefix in prefixes.items():
            found.setdefault(HUB_SPLITS[prefix], []).append(file)
    if source.test_path is not None:
        if "test" in found:
            raise DataError(f"{path} has {found['test'][0].name} already; drop test_path, or give other files as path")
        found["test"] = _files_at(Path(source.test_path))
    return found


def _files_at(path: Path) -> list[Path]:
    if not path.exists():
        raise DataError(f"{path} does not exist; give the path of a Parquet file, or of a folder of them")
    if path.is_file():
        return [path]
    found = sorted(path.glob("*.parquet"))
    if not found:
        raise DataError(f"the folder {path} has no .parquet file")
    return found


def _part(split: str, files: Sequence[Path], source: DataSource) -> Part:
    columns = []
    for file in files:
        schema = _table(file).schema_arrow
        _check_columns(str(file), schema.names, source)
        _check_image_type(file, schema, source.image_column)
        columns.append(read_labels(_read_column(file, source.label_column), str(file), source))
    found = joined(columns, f"{source.label_column!r} holds whole numbers in some of {files[0].parent}")
    place = partial(_row_of, files, [0, *accumulate(map(len, columns))])
    return Part(split, found.values, place, partial(_pictures, files, source.image_column), found.lengths)


def _table(file: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(file)
    except (OSError, pyarrow.ArrowException) as error:
        raise _broken(file, error) from error


def _read_column(file: Path, name: str) -> Any:
    import pyarrow

    try:
        return _table(file).read(columns=[name]).column(name)
    except (OSError, pyarrow.ArrowException) as error:
        raise _broken(file, error) from error


def _pictures(files: Sequence[Path], column: str) -> Iterator[bytes]:
    """The encoded images in the order of the rows; empty where there is none."""
    import pyarrow

    for file in files:
        try:
            for batch in _table(file).iter_batches(ROWS_AT_ONCE, columns=[column]):
                found = batch.column(0)
                encoded = found.field("bytes") if pyarrow.types.is_struct(found.type) else found
                present = found.is_valid().to_pylist()
                yield from (value or b"" if on else b"" for value, on in zip(encoded.to_pylist(), present, strict=True))
        except (OSError, pyarrow.ArrowException) as error:
            raise _broken(file, error) from error


def _hub_pictures(table: Any, column: str) -> Iterator[bytes | Path]:
    for row in table:
        found = row[column] or {}
        path = found.get("path")
        yield found.get("bytes") or (Path(path) if path else b"")


def _broken(file: Path, error: Exception) -> DataError:
    return DataError(f"{file} is not a readable Parquet file: {(str(error).splitlines() or ['empty'])[0]}")


def _check_columns(where: str, columns: Sequence[str], source: DataSource) -> None:
    for field in ("image_column", "label_column"):
        name = getattr(source, field)
        if name not in columns:
            hint = near_miss(name, tuple(columns))
            raise DataError(f"{where} has no column {name!r}{hint}; set {field} to one of {', '.join(columns)}")


def _check_image_type(file: Path, schema: Any, name: str) -> None:
    from pyarrow import types

    found = schema.field(name).type
    binary = (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary)
    inner = found.field("bytes").type if types.is_struct(found) and found.get_field_index("bytes") >= 0 else found
    if not any(check(inner) for check in binary):
        raise DataError(
            f"column {name!r} of {file} holds {found}; wanted encoded images: bytes, or struct{{bytes, path}}"
        )


def _class_names(file: Path, column: str) -> tuple[str, ...] | None:
    """The names that the hub's library writes beside whole-number labels, where it wrote the file."""
    try:
        features = json.loads((_table(file).schema_arrow.metadata or {})[b"huggingface"])["info"]["features"]
        return names_of(features[column])
    except (ValueError, KeyError, TypeError):
        return None


def _chunked(values: Sequence[object], where: str) -> Any:
    import pyarrow

    try:
        return pyarrow.chunked_array([pyarrow.array(values)])
    except pyarrow.ArrowException as error:
        raise DataError(f"the labels of {where} are not all of one kind ({str(error).splitlines()[0]})") from error


def _row_of_one(where: str, row: int) -> str:
    return f"row {row} of {where}"


def _row_of(files: Sequence[Path], starts: Sequence[int], i: int) -> str:
    """Where picture i is, with rows counted from 0 in each file."""
    which = bisect_right(starts, i) - 1
    return _row_of_one(str(files[which]), i - starts[which])
