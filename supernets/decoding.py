"""One picture as a file holds it -> pixels of a fixed size."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from supernets.errors import DataError
from supernets.side_by_side import side_by_side

Picture = bytes | Path | NDArray[np.uint8]
"""An encoded image, a file that holds one, or grey pixels (height, width)."""

# Not all that Pillow can read: its list includes formats that run another program, as EPS does.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")

# 263,000 mutated files gave OSError, SyntaxError, ValueError, struct.error; Pillow may raise the rest too.
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    struct.error,
    zlib.error,
)

THREADS = 4
# Pictures handed to a thread at once; one by one, small JPEGs took 20% longer.
CHUNK = 32


@dataclass(frozen=True, slots=True)
class Decoded:
    """`pixels` (channels, size, size), and `key`: SHA-256 of the RGB pixels before resizing."""

    pixels: NDArray[np.uint8]
    key: bytes


def decode(picture: Picture, size: int, channels: int) -> Decoded:
    """Upright, grey or RGB without alpha, shorter side resized to `size` with antialiasing, cropped to the centre.

    The key does not depend on `size` or `channels`, so an image stays in its split when these change. `DataError` says
    what is wrong with the picture, to be put behind its name.
    """
    try:
        image = _rgb(_open(picture))
        key = hashlib.sha256(image.tobytes()).digest()
        pixels = np.asarray(_squared(image if channels == 3 else image.convert("L"), size))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"it has more than {Image.MAX_IMAGE_PIXELS:,} pixels") from error
    except DataError:
        raise
    except UNREADABLE as error:
        raise DataError(f"it cannot be read ({_reason(error)})") from error
    return Decoded(np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 0, 1)), key)


def decode_all(pictures: Iterable[Picture], size: int, channels: int) -> Iterator[Decoded | str]:
    """Each picture decoded, in order, on some threads; what is wrong with it where it cannot be."""

    def decode_chunk(chunk: list[Picture]) -> list[Decoded | str]:
        return [_decoded_or_reason(picture, size, channels) for picture in chunk]

    source = iter(pictures)
    chunks = iter(lambda: list(islice(source, CHUNK)), [])
    for chunk in side_by_side(decode_chunk, chunks, THREADS):
        yield from chunk


def _decoded_or_reason(picture: Picture, size: int, channels: int) -> Decoded | str:
    try:
        return decode(picture, size, channels)
    except DataError as error:
        return str(error)


def _open(picture: Picture) -> Image.Image:
    """The decoded image, turned upright as its EXIF orientation says."""
    if isinstance(picture, np.ndarray):
        return Image.fromarray(picture)
    data = picture.read_bytes() if isinstance(picture, Path) else picture
    if not data:
        raise DataError("it is empty")
    image: Image.Image = Image.open(BytesIO(data), formats=FORMATS)
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise DataError(f"it has more than {limit:,} pixels")
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow clips 16 bits at 255, which turns nearly all of such an image white.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise DataError("it has 32 bits a channel; convert it to 8 bits")
    elif image.mode == "P":
        image = image.convert("RGBA")  # straight to RGB warns where the palette has transparent entries
    return image.convert("RGB")


def _squared(image: Image.Image, size: int) -> Image.Image:
    if image.size == (size, size):
        return image
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))


def _reason(error: BaseException) -> str:
    # Pillow names the buffer's address here, which says nothing.
    if isinstance(error, UnidentifiedImageError):
        return f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image"
    return (str(error).splitlines() or [type(error).__name__])[0]
