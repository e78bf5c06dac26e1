"""Images with any number of labels, from data that is at hand: four handwritten digits each, labelled with those there."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import load_digits

from supernets.dataset import Dataset, Images
from tests.supernets.pictures import encoded

SIDE = 16
DIGITS = 10


def mosaics(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Grey pixels (n, 16, 16), two digits by two, and whether each digit is there (n, 10); each is in a third of the images."""
    found, rng = load_digits(), np.random.default_rng(seed)
    chosen = rng.integers(0, len(found.images), (count, 2, 2))
    tiles = np.rint(found.images * (255 / 16)).astype(np.uint8)[chosen]
    labels = (found.target[chosen].reshape(count, 4, 1) == np.arange(DIGITS)).any(1)
    return tiles.transpose(0, 1, 3, 2, 4).reshape(count, SIDE, SIDE), labels


def mosaic_dataset(train: int, held_out: int = 64) -> Dataset:
    """As `load` would give them, without files."""
    pixels, labels = mosaics(train + 2 * held_out)
    images = Images(pixels[:, None].copy(), labels)
    parts = np.split(np.arange(len(pixels)), [train, train + held_out])
    own = [Images(images.pixels[part], images.labels[part]) for part in parts]
    return Dataset.of(*own, tuple(map(str, range(DIGITS))), "mosaics")


def write_mosaics(path: Path, count: int, seed: int = 0) -> Path:
    """A Parquet file with a list of whole numbers a row."""
    pixels, labels = mosaics(count, seed)
    columns = {
        "image": pa.array([{"bytes": encoded(each), "path": None} for each in pixels]),
        "label": pa.array([np.flatnonzero(row).tolist() for row in labels], pa.list_(pa.int64())),
    }
    pq.write_table(pa.table(columns), path)
    return path


def write_mosaic_folder(root: Path, count: int, seed: int = 0) -> Path:
    """The same images as folders of classes: a picture lies in the folder of each digit that it shows."""
    for i, (pixels, row) in enumerate(zip(*mosaics(count, seed), strict=True)):
        picture = encoded(pixels)
        for label in np.flatnonzero(row):
            (root / str(label)).mkdir(parents=True, exist_ok=True)
            (root / str(label) / f"{i}.png").write_bytes(picture)
    return root
