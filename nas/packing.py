"""A folder of images as one Parquet file, which is what a service takes: a row is an `image` (bytes and path) and a `label`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nas.connection import ClientError

# What the service decodes.
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
ROWS_AT_ONCE = 256


def pack(root: Path, file: Path) -> None:
    """Write all images of a folder of class folders. Images keep their bytes."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ClientError("packing a folder of images needs pyarrow: pip install pyarrow") from error
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema([("image", image), ("label", pyarrow.string())])
    count = 0
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        for rows in _batches(root):
            writer.write_batch(pyarrow.RecordBatch.from_pylist(rows, schema))
            count += len(rows)
    if not count:
        raise ClientError(f"{root} has no images; it needs one folder a class ({', '.join(SUFFIXES)})", 422, "invalid")


def pack_parquet(root: Path, file: Path) -> None:
    """Write the rows of all Parquet files of a folder into one."""
    import pyarrow.parquet

    tables = [pyarrow.parquet.ParquetFile(path) for path in sorted(root.glob("*.parquet"))]
    with pyarrow.parquet.ParquetWriter(file, tables[0].schema_arrow) as writer:
        for table in tables:
            for batch in table.iter_batches(ROWS_AT_ONCE):
                writer.write_batch(batch)


def split_folders(root: Path) -> dict[str, Path]:
    """`path`, and `test_path` where the folder has `train` and `test`; {"path": root} for one that has none of these."""
    inner = {folder.name: folder for folder in _folders(root)}
    if "val" in inner and "train" in inner:
        raise ClientError(
            f"{root} has a val folder, which a service does not take apart; give {inner['train']} as data.path, and "
            "data.validation_fraction",
            422,
            "invalid",
        )
    return {"path": inner["train"], "test_path": inner["test"]} if set(inner) == {"train", "test"} else {"path": root}


def _batches(root: Path) -> Iterator[list[dict[str, object]]]:
    rows: list[dict[str, object]] = []
    for folder in _folders(root):
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
                rows.append(
                    {"image": {"bytes": path.read_bytes(), "path": f"{folder.name}/{path.name}"}, "label": folder.name}
                )
            if len(rows) == ROWS_AT_ONCE:
                yield rows
                rows = []
    if rows:
        yield rows


def _folders(root: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones."""
    try:
        return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise ClientError(f"the folder {root} cannot be read: {error.strerror}", 422, "invalid") from error
