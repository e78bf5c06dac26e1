"""What a Parquet file of images holds. To be called in a process that may run out of anything.

All pages are decompressed, in pieces: what passes here can be read in bounded memory later. The first images are decoded.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import pyarrow
import pyarrow.parquet
from PIL import Image
from pyarrow import types

from nas.service.refusal import UploadRefused, shown
from supernets.decoding import decode
from supernets.errors import DataError

Json = Any

MOST_ROWS = 20_000_000
MOST_COLUMNS = 200
MOST_CLASSES = 100_000
MOST_LABEL_BYTES = 1000
MOST_LABELS = 100
"""Of an image, on average: a repeated list takes no place in the file, and all of it in memory."""
MOST_GROWTH = 20
"""Bytes of images for one of the file. Images are compressed by themselves: more says that one is there many times."""
MOST_PIXELS = 50_000_000
ROWS_AT_ONCE = 64
LOOKED_AT = 8
BUFFER_BYTES = 1 << 20
SLACK_BYTES = 64 << 20


def inspect_parquet(descriptor: int) -> dict[str, Json]:
    """{rows, classes, columns, image, label, image_bytes} of an open file. Raises `UploadRefused`."""
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `decode` counts pixels itself
    Image.MAX_IMAGE_PIXELS = MOST_PIXELS
    size = os.fstat(descriptor).st_size
    try:
        with os.fdopen(os.dup(descriptor), "rb") as raw:
            file = pyarrow.parquet.ParquetFile(raw, buffer_size=BUFFER_BYTES, pre_buffer=False, memory_map=False)
            columns = _columns(file)
            image, label = _chosen(file.schema_arrow)
            classes = _classes(file, label)
            image_bytes = _scan(file, image, MOST_GROWTH * size + SLACK_BYTES)
    except MemoryError:  # one of Arrow's exceptions too
        raise
    except (pyarrow.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UploadRefused(f"this Parquet file cannot be read: {shown(reason, 200)}") from error
    rows = int(file.metadata.num_rows)
    found = {"rows": rows, "classes": classes, "columns": columns}
    return {**found, "image": image, "label": label, "image_bytes": image_bytes}


def _columns(file: Any) -> dict[str, str]:
    """Type of each column by its name."""
    schema, metadata = file.schema_arrow, file.metadata
    if not 1 <= metadata.num_rows <= MOST_ROWS:
        raise UploadRefused(f"it has {metadata.num_rows:,} rows; wanted 1 to {MOST_ROWS:,}")
    if metadata.num_columns > MOST_COLUMNS or len(set(schema.names)) != len(schema.names):
        raise UploadRefused(f"wanted at most {MOST_COLUMNS} columns, each with a name of its own")
    return {shown(each.name, 200): shown(str(each.type), 200) for each in schema}


def _chosen(schema: Any) -> tuple[str, str]:
    """The columns of images and of labels: `image` and `label`, else the first that can be one."""
    images = sorted((each.name for each in schema if _holds_images(each.type)), key=lambda name: name != "image")
    labels = sorted((each.name for each in schema if _holds_labels(each.type)), key=lambda name: name != "label")
    if not images or not labels:
        lacking = (
            "images: bytes, or struct{bytes, path}"
            if not images
            else "labels: whole numbers or names, or lists of them"
        )
        raise UploadRefused(f"no column holds {lacking}; columns are {shown(', '.join(schema.names), 200)}")
    return images[0], labels[0]


def _holds_images(kind: Any) -> bool:
    inner = kind.field("bytes").type if types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
    return bool(types.is_binary(inner) or types.is_large_binary(inner) or types.is_binary_view(inner))


def _holds_labels(kind: Any) -> bool:
    inner = kind.value_type if _lists(kind) else kind
    value = inner.value_type if types.is_dictionary(inner) else inner
    checks = (types.is_integer, types.is_boolean, types.is_string, types.is_large_string, types.is_string_view)
    return any(check(value) for check in checks)


def _lists(kind: Any) -> bool:
    return bool(types.is_list(kind) or types.is_large_list(kind))


def _classes(file: Any, label: str) -> int:
    """How many labels there are."""
    found: set[Json] = set()
    seen = labels = 0
    for batch in file.iter_batches(4096, columns=[label], use_threads=False):
        column = batch.column(0)
        seen += len(column)
        if column.null_count:
            raise UploadRefused(f"a row has no {shown(label)!r}; give it one, or remove the row")
        if _lists(column.type):
            column = column.flatten()
            labels += len(column)
            if column.null_count:
                raise UploadRefused(f"a row has a null among its {shown(label)!r}; take it out")
            if labels > MOST_LABELS * max(seen, MOST_LABELS):
                raise UploadRefused(f"it has more than {MOST_LABELS} labels an image; are some repeated?")
        found.update(column.unique().to_pylist())
        if len(found) > MOST_CLASSES:
            raise UploadRefused(f"it has more than {MOST_CLASSES:,} different labels")
    if any(isinstance(each, str) and len(each) > MOST_LABEL_BYTES for each in found):
        raise UploadRefused(f"a label is longer than {MOST_LABEL_BYTES:,} characters")
    return len(found)


def _scan(file: Any, image: str, most_bytes: int) -> int:
    """Read all images, decode the first ones; the bytes of all."""
    seen = total = 0
    for batch in file.iter_batches(ROWS_AT_ONCE, columns=[image], use_threads=False):
        column = batch.column(0)
        encoded = column.field("bytes") if types.is_struct(column.type) else column
        for i in range(min(len(encoded), max(0, LOOKED_AT - seen))):
            _decode(encoded[i].as_py() or b"", seen + i)
        seen += len(encoded)
        total += encoded.nbytes
        if total > most_bytes:
            raise UploadRefused(f"its images unpack to more than {MOST_GROWTH} times the file; are some repeated?")
    if seen != file.metadata.num_rows:
        raise UploadRefused(f"it says that it has {file.metadata.num_rows:,} rows, and has {seen:,}")
    return int(total)


def _decode(picture: bytes, row: int) -> None:
    try:
        decode(picture, 32, 3)
    except DataError as error:
        raise UploadRefused(f"the image of row {row}: {shown(str(error), 200)}") from error
