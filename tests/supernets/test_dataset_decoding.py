"""What becomes of one picture."""

import random
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from supernets.decoding import CHUNK, FORMATS, Decoded, decode, decode_all
from supernets.errors import DataError
from tests.supernets.pictures import encoded, pixels

LOSSLESS = [form for form in FORMATS if form not in ("JPEG", "GIF")]
HELD_BY = {
    "JPEG": ("1", "L", "RGB", "CMYK"),
    "PNG": ("1", "L", "P", "RGB", "RGBA", "LA"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "WEBP": ("L", "RGB", "RGBA"),
    "GIF": ("1", "L", "P", "RGB"),
    "TIFF": ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK"),
}
VALID = [encoded(pixels(0), form, **({"lossless": True} if form == "WEBP" else {})) for form in FORMATS]


@pytest.mark.parametrize("form", LOSSLESS)
def test_a_picture_of_the_wanted_size_comes_as_it_is(form):
    image = pixels(1)
    found = decode(encoded(image, form, **({"lossless": True} if form == "WEBP" else {})), 12, 3)
    np.testing.assert_array_equal(found.pixels, image.transpose(2, 0, 1))
    assert found.pixels.flags.c_contiguous


@pytest.mark.parametrize(("form", "mode"), [(form, mode) for form, modes in HELD_BY.items() for mode in modes])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_of_every_format_becomes_grey_or_colour(form, mode, channels):
    image = Image.fromarray(pixels(2, 20, 14)).convert(mode)
    found = decode(encoded(image, form), 8, channels).pixels
    assert found.shape == (channels, 8, 8)
    assert found.dtype == np.uint8


def test_a_palette_with_transparent_entries_makes_no_warning():
    image = Image.fromarray(pixels(3)).convert("P")
    data = encoded(image, transparency=bytes([0, 255] * 128))
    assert decode(data, 12, 3).pixels.shape == (3, 12, 12)


def test_an_array_file_and_bytes_of_one_picture_give_the_same(tmp_path):
    grey = pixels(4, channels=1)
    path = tmp_path / "grey.png"
    path.write_bytes(encoded(grey))
    found = [decode(picture, 8, 3) for picture in (grey, path, path.read_bytes())]
    assert len({each.key for each in found}) == 1
    for each in found:
        np.testing.assert_array_equal(each.pixels, found[0].pixels)


def test_the_shorter_side_is_kept_and_the_centre_cropped():
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    assert (decode(encoded(wide), 10, 3).pixels == 200).all()
    assert (decode(encoded(wide.transpose(1, 0, 2)), 10, 3).pixels == 200).all()
    scaled = Image.fromarray(wide).resize((15, 5), Image.Resampling.BILINEAR).crop((5, 0, 10, 5))
    np.testing.assert_array_equal(decode(encoded(wide), 5, 3).pixels, np.asarray(scaled).transpose(2, 0, 1))


def test_a_crop_without_scaling_moves_no_pixel():
    wide = pixels(5, width=13, height=8)
    np.testing.assert_array_equal(decode(encoded(wide), 8, 3).pixels, wide[:, 2:10].transpose(2, 0, 1))


def test_scaling_down_averages_instead_of_picking():
    chequers = np.indices((64, 64)).sum(axis=0).astype(np.uint8) % 2 * 255
    found = decode(encoded(chequers), 8, 1).pixels
    assert 120 <= found.min() <= found.max() <= 135


def test_sixteen_bits_keep_their_scale():
    ramp = np.linspace(0, 65535, 144).reshape(12, 12).astype(np.uint16)
    np.testing.assert_array_equal(decode(encoded(ramp), 12, 1).pixels[0], ramp >> 8)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_thirty_two_bits_are_refused(dtype):
    with pytest.raises(DataError, match="it has 32 bits a channel; convert it to 8 bits"):
        decode(encoded(pixels(6, channels=1).astype(dtype), "TIFF"), 8, 1)


def test_a_photograph_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # the top row is the right side: turn by 90 degrees clockwise
    image = pixels(7)
    found = decode(encoded(image, exif=exif), 12, 3).pixels
    np.testing.assert_array_equal(found, np.rot90(image, -1).transpose(2, 0, 1))


def test_the_key_depends_on_the_picture_alone():
    first, second = pixels(8), pixels(9)
    key = decode(encoded(first), 8, 3).key
    assert {
        decode(encoded(first, form), size, c).key for form in ("PNG", "BMP") for size in (4, 16) for c in (1, 3)
    } == {key}
    assert decode(encoded(second), 8, 3).key != key


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty"),
        (b"no image at all", "it cannot be read .not a JPEG, PNG, BMP, WEBP, GIF or TIFF image"),
        (encoded(pixels(10), "JPEG")[:-40], "it cannot be read .*truncated"),
        # Pillow reads PPM as well; what is not asked for stays closed, as EPS, which runs Ghostscript.
        (encoded(pixels(10), "PPM"), "it cannot be read .not a JPEG"),
    ],
)
def test_what_is_no_picture_is_refused(data, message):
    with pytest.raises(DataError, match=message) as caught:
        decode(data, 8, 3)
    assert "\n" not in str(caught.value)
    assert "0x" not in str(caught.value)


@pytest.mark.parametrize("side", [9_500, 14_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side):
    # 90 and 196 megapixels: Pillow warns of the first and raises at the other.
    bomb = bomb_of(side)
    with pytest.raises(DataError, match=f"it has more than {Image.MAX_IMAGE_PIXELS:,} pixels"):
        decode(bomb, 8, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DataError, match=f"it has more than {Image.MAX_IMAGE_PIXELS:,} pixels"):
            decode(bomb, 8, 3)


def bomb_of(side: int) -> bytes:
    """A PNG that says it is this large."""
    data = bytearray(encoded(Image.new("1", (8, 8))))
    # Width and height are at byte 16, the CRC of the header at 29.
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(VALID), st.integers(0, 2**32), st.integers(0, 8), st.floats(0, 1))
def test_a_damaged_file_is_decoded_or_refused_and_nothing_else(data, seed, flips, kept):
    rng = random.Random(seed)
    damaged = bytearray(data)
    for _ in range(flips):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    damaged = damaged[: max(1, round(len(damaged) * kept))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (found,) = decode_all([bytes(damaged)], 8, 3)
    assert found.startswith("it ") if isinstance(found, str) else found.pixels.shape == (3, 8, 8)


def test_many_pictures_come_in_order_with_the_bad_ones_named():
    count = 9 * CHUNK + 5
    pictures = [b"broken" if i % 7 == 3 else pixels(i, channels=1) for i in range(count)]
    found = list(decode_all(iter(pictures), 12, 1))
    assert len(found) == count
    for picture, each in zip(pictures, found, strict=True):
        if isinstance(each, Decoded):
            np.testing.assert_array_equal(each.pixels[0], picture)
        else:
            assert picture == b"broken"
            assert each.startswith("it cannot be read")


def test_pictures_are_not_read_far_ahead():
    read = 0

    def source():
        nonlocal read
        for i in range(100 * CHUNK):
            read += 1
            yield pixels(i % 50, channels=1)

    found = decode_all(source(), 12, 1)
    next(found)
    assert read <= 20 * CHUNK
    found.close()
