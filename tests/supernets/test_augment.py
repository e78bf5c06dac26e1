"""Augmentation against slow references, and normalisation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from supernets.augment import Normalisation, augmented
from supernets.errors import SupernetError
from supernets.settings import Augmentation

# Time is no matter here: the machine may be busy with other things.
relaxed = settings(deadline=None, max_examples=60)
shapes = st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(shape, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=seeded(seed))


def coordinates(batch: int, height: int, width: int) -> torch.Tensor:
    """Images of two channels that say where each pixel was: its row and its column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns]).to(torch.uint8).expand(batch, 2, height, width).clone()


def reflected(size: int, shift: int) -> list[int]:
    """Positions seen after a shift: walk along the axis and turn at each border."""
    if size == 1:
        return [0]
    seen = []
    for start in range(size):
        position, step = start, 1 if shift > 0 else -1
        for _ in range(abs(shift)):
            if not 0 <= position + step < size:
                step = -step
            position += step
        seen.append(position)
    return seen


@relaxed
@given(shapes, st.integers(0, 9), st.booleans(), st.integers(0, 6), st.integers(0, 999))
def test_shape_and_type_are_kept_and_the_images_are_not_written_to(shape, shift, mirror, cutout, seed):
    x = noise(shape, seed)
    before = x.clone()
    y = augmented(x, Augmentation(shift, mirror, cutout), seeded(seed))
    assert y.shape == x.shape
    assert y.dtype == torch.uint8
    assert torch.equal(x, before)
    y.fill_(0)
    assert torch.equal(x, before)


@relaxed
@given(shapes, st.integers(0, 99))
def test_no_shift_no_mirror_and_no_cutout_is_the_identity(shape, seed):
    x = noise(shape, seed)
    assert torch.equal(augmented(x, Augmentation(0, False, 0), seeded(seed)), x)


def test_the_generator_decides_and_moves_on():
    x, augment = noise((16, 3, 8, 8)), Augmentation(4, True, 3)
    first = augmented(x, augment, seeded(1))
    assert torch.equal(augmented(x, augment, seeded(1)), first)
    assert not torch.equal(augmented(x, augment, seeded(2)), first)
    generator = seeded(1)
    assert torch.equal(augmented(x, augment, generator), first)
    assert not torch.equal(augmented(x, augment, generator), first)


def test_torchs_own_generator_is_neither_read_nor_moved():
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    augmented(noise((4, 1, 8, 8)), Augmentation(4, True, 3), seeded(1))
    assert torch.equal(torch.rand(3), wanted)


@relaxed
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 12), st.booleans(), st.integers(0, 999))
def test_every_image_is_shifted_with_reflected_borders_and_mirrored_at_most(height, width, shift, mirror, seed):
    x = coordinates(6, height, width)
    y = augmented(x, Augmentation(shift, mirror), seeded(seed))
    shifts = range(-shift, shift + 1)
    rows_of = [reflected(height, d) for d in shifts]
    columns_of = [reflected(width, d) for d in shifts]
    columns_of += [columns[::-1] for columns in columns_of] if mirror else []
    for rows_HW, columns_HW in y.long():
        # All columns were moved alike, and all rows.
        assert (rows_HW == rows_HW[:, :1]).all()
        assert (columns_HW == columns_HW[:1]).all()
        assert rows_HW[:, 0].tolist() in rows_of
        assert columns_HW[0].tolist() in columns_of


def test_the_walk_that_reflects_agrees_with_numpys_padding():
    for size in range(2, 8):
        for shift in range(13):
            padded = np.pad(np.arange(size), 12, mode="reflect")
            assert reflected(size, shift) == padded[12 + shift : 12 + shift + size].tolist()
            assert reflected(size, -shift) == padded[12 - shift : 12 - shift + size].tolist()


def test_every_shift_and_both_mirrors_come_equally_often():
    y = augmented(coordinates(4000, 9, 9), Augmentation(2, True), seeded(3)).long()
    firsts = y[:, 0, 4, 4].bincount(minlength=9)
    assert firsts[2:7].sum() == 4000
    assert (firsts[2:7] > 700).all()
    mirrored = (y[:, 1, 4, 4] > y[:, 1, 4, 5]).sum()
    assert 1850 < mirrored < 2150


def test_rows_and_columns_are_shifted_independently_and_each_image_by_its_own():
    y = augmented(coordinates(2000, 9, 9), Augmentation(3, False), seeded(4)).long()
    centres = {(int(row), int(column)) for row, column in y[:, :, 4, 4]}
    assert len(centres) == 49


def test_channels_stay_together():
    grey = noise((32, 1, 8, 8))
    x = torch.cat([grey, 255 - grey, grey // 2], dim=1)
    y = augmented(x, Augmentation(4, True), seeded(5))
    assert torch.equal(y[:, 1], 255 - y[:, 0])
    assert torch.equal(y[:, 2], y[:, 0] // 2)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_images_smaller_than_the_shift_take_pixels_of_their_own(size):
    x = coordinates(200, size, size)
    y = augmented(x, Augmentation(4, True), seeded(6)).long()
    # Reflection visits every place: with negative indices wrapped around instead, rows would repeat.
    allowed = [reflected(size, d) for d in range(-4, 5)]
    assert all(rows[:, 0].tolist() in allowed for rows in y[:, 0])


@relaxed
@given(st.integers(1, 10), st.integers(1, 10), st.integers(1, 12), st.integers(0, 999))
def test_cutout_greys_one_square_of_its_size_where_it_fits(height, width, side, seed):
    x = torch.where((grid := noise((6, 2, height, width), seed)) == 127, 128, grid).to(torch.uint8)
    y = augmented(x, Augmentation(0, False, side), seeded(seed))
    for before, after in zip(x, y, strict=True):
        grey = after[0] == 127
        assert torch.equal(after[1] == 127, grey)
        assert torch.equal(torch.where(grey, 0, after), torch.where(grey, 0, before))
        rows, columns = grey.any(1).nonzero()[:, 0], grey.any(0).nonzero()[:, 0]
        # A rectangle without holes, cut off at the border only, with its centre inside the image.
        for found, size in ((rows, height), (columns, width)):
            low, high = int(found.min()), int(found.max())
            assert len(found) == high - low + 1 <= side
            assert len(found) == side or low == 0 or high == size - 1
            assert len(found) >= min(size, side - side // 2)
        assert int(grey.sum()) == len(rows) * len(columns)


@pytest.mark.parametrize(("shift", "cutout"), [(-1, 0), (0, -1)])
def test_negative_sizes_are_refused(shift, cutout):
    with pytest.raises(SupernetError, match=f"must not be negative, got {shift}, {cutout}"):
        Augmentation(shift, True, cutout)


def test_normalisation_is_pixels_over_255_less_the_mean_over_the_deviation():
    x = noise((2, 3, 4, 5))
    mean, std = (0.1, 0.5, 0.7), (0.3, 0.2, 0.25)
    y = Normalisation(mean, std)(x)
    by_hand = (x.numpy() / 255.0 - np.reshape(mean, (1, 3, 1, 1))) / np.reshape(std, (1, 3, 1, 1))
    assert y.dtype == torch.float32
    assert y.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(y.numpy(), by_hand, rtol=1e-5, atol=1e-5)


def test_normalised_training_images_have_mean_0_and_deviation_1():
    x = noise((64, 2, 6, 6))
    scaled = x.double() / 255
    mean, std = (tuple(v.tolist()) for v in (scaled.mean((0, 2, 3)), scaled.std((0, 2, 3), correction=0)))
    y = Normalisation(mean, std)(x)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std((0, 2, 3), correction=0), torch.ones(2), atol=1e-5, rtol=0)
