"""Pictures and the folders and tables that hold them, for the tests of data sets."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SIDE = 12


def pixels(seed: int, width: int = SIDE, height: int = SIDE, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(image: np.ndarray | Image.Image, form: str = "PNG", **options) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    with io.BytesIO() as buffer:
        image.save(buffer, form, **options)
        return buffer.getvalue()


def write_folder(root: Path, counts: dict[str, int], seed: int = 0, side: int = SIDE) -> Path:
    """A folder a class with this many random PNGs each; no two pictures are equal."""
    for label, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            picture = pixels(10_000 * seed + 1000 * label + i, side, side)
            (root / name / f"{seed}-{i:03d}.png").write_bytes(encoded(picture))
    return root


def rows(count: int, classes: int = 3, seed: int = 0) -> list[tuple[bytes, int]]:
    """Random PNGs with labels in turn."""
    return [(encoded(pixels(100_000 + 1000 * seed + i)), i % classes) for i in range(count)]


def write_parquet(
    path: Path, found: list, image: str = "image", label: str = "label", label_type=None, raw: bool = False
) -> Path:
    images = [picture if raw or picture is None else {"bytes": picture, "path": None} for picture, _ in found]
    image_type = pa.binary() if raw else pa.struct({"bytes": pa.binary(), "path": pa.string()})
    columns = {
        image: pa.array(images, image_type),
        label: pa.array([value for _, value in found], label_type),
        "extra": pa.array(range(len(found))),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def keys(images) -> set[bytes]:
    """Every image of a split, as bytes."""
    return {image.tobytes() for image in np.asarray(images.pixels)}
