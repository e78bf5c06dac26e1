"""Splits, statistics and the cache of data sets."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernets import dataset as dataset_module
from supernets.dataset import Dataset, DataSource, Images, load
from supernets.errors import DataError
from supernets.splits import split_of
from tests.supernets.pictures import encoded, keys, pixels, rows, write_folder, write_parquet

DIGITS = DataSource("digits", size=8, channels=1)
CIFAR = Path(__file__).parents[2].parent / "shared" / "data" / "cifar10-test.parquet"
SPLITS = ("train", "validation", "test")


@pytest.fixture
def folder(tmp_path) -> DataSource:
    return DataSource("folder", path=str(write_folder(tmp_path / "set", {"a": 60, "b": 60})), size=12)


def images(count: int = 4, channels: int = 3, side: int = 5, seed: int = 0, classes: int = 2) -> Images:
    rng = np.random.default_rng(seed)
    return Images(
        rng.integers(0, 256, (count, channels, side, side), dtype=np.uint8), np.arange(count, dtype=np.int64) % classes
    )


def count_builds(monkeypatch) -> list[str]:
    built = []
    write_splits = dataset_module.write_splits

    def counted(source, *rest):
        built.append(source.kind)
        return write_splits(source, *rest)

    monkeypatch.setattr(dataset_module, "write_splits", counted)
    return built


# Digits


def test_the_digits_are_all_there_in_fixed_splits():
    found = load(DIGITS)
    assert [len(getattr(found, split)) for split in SPLITS] == [1234, 189, 374]
    assert found.classes == tuple("0123456789")
    assert found.name == "digits"
    assert found.skipped == ()
    assert found.id == "c6dbe772f854"
    assert found.train.pixels.shape[1:] == (1, 8, 8)
    assert (found.train.pixels.min(), found.train.pixels.max()) == (0, 255)
    for split in SPLITS:
        assert set(getattr(found, split).labels) == set(range(10))


def test_digits_can_be_scaled_up_and_coloured():
    small, large = load(DIGITS), load(replace(DIGITS, size=24, channels=3, name="large digits"))
    assert large.train.pixels.shape == (len(small.train), 3, 24, 24)
    assert large.name == "large digits"
    # An image stays in its split when the size changes, and splits keep their order.
    for split in SPLITS:
        np.testing.assert_array_equal(getattr(large, split).labels, getattr(small, split).labels)


# Splits


@given(st.binary(min_size=32, max_size=32), st.floats(0, 0.49), st.floats(0, 0.49))
def test_a_larger_fraction_keeps_what_a_smaller_one_held_out(key, validation, test):
    found = split_of(key, validation, test)
    assert found in SPLITS
    if found != "train":
        assert split_of(key, validation + 0.01, test + 0.01) == found
    if found != "validation":
        assert split_of(key, 0.0, test) == found
    if found != "test":
        assert split_of(key, validation, 0.0) == found


@pytest.mark.parametrize(
    ("key", "split"), [(b"\x00" * 32, "test"), (b"\xff" * 32, "validation"), (b"\x80" * 32, "train")]
)
def test_test_is_cut_from_the_low_end_and_validation_from_the_high_end(key, split):
    assert split_of(key, 0.1, 0.2) == split
    assert split_of(key, 0.0, 0.0) == "train"


def test_adding_images_moves_none_of_the_others(folder):
    before = load(folder)
    write_folder(Path(folder.path), {"a": 50, "b": 50, "c": 80}, seed=5)
    after = load(folder)
    for split in SPLITS:
        assert keys(getattr(before, split)) < keys(getattr(after, split))


def test_splits_have_about_the_size_that_was_asked_for(tmp_path):
    source = DataSource("folder", path=str(write_folder(tmp_path, {"a": 500, "b": 500}, side=4)), size=4)
    found = load(replace(source, validation_fraction=0.25, test_fraction=0.25))
    # Three standard deviations of a binomial of 1000 at a quarter are 41.
    assert abs(len(found.validation) - 250) < 41
    assert abs(len(found.test) - 250) < 41


def test_copies_of_an_image_are_never_in_two_splits(tmp_path):
    write_folder(tmp_path, {"a": 40, "b": 40})
    for i in range(40):
        # The same pictures again: under another name, in another format, and in another class.
        write = (tmp_path / "a" / f"copy-{i}.bmp").write_bytes
        write(encoded(pixels(i), "BMP"))
        (tmp_path / "b" / f"copy-{i}.png").write_bytes(encoded(pixels(i)))
    found = load(DataSource("folder", path=str(tmp_path), size=12))
    assert sum(len(getattr(found, split)) for split in SPLITS) == 160
    train, validation, test = (keys(getattr(found, split)) for split in SPLITS)
    assert not train & validation
    assert not train & test
    assert not validation & test


def test_training_avoids_what_a_given_test_set_holds(tmp_path):
    write_parquet(tmp_path / "train.parquet", rows(90))
    write_parquet(tmp_path / "other.parquet", [*rows(5), *rows(5, seed=1)])
    found = load(
        DataSource("parquet", path=str(tmp_path / "train.parquet"), test_path=str(tmp_path / "other.parquet"), size=12)
    )
    assert len(found.test) == 10
    assert len(found.train) + len(found.validation) == 85
    assert not keys(found.test) & (keys(found.train) | keys(found.validation))
    assert found.skipped == tuple(
        f"row {i} of {tmp_path / 'train.parquet'}: the same image is in the test set" for i in range(5)
    )


def test_neither_names_nor_order_of_the_files_matter(tmp_path):
    found = rows(90)
    one = write_parquet(tmp_path / "one.parquet", found)
    two = write_parquet(tmp_path / "two.parquet", found[::-1])
    assert (
        load(DataSource("parquet", path=str(one), size=12)).id == load(DataSource("parquet", path=str(two), size=12)).id
    )


def test_the_first_part_of_a_split_is_not_all_of_one_class(folder):
    # Folders come class by class; whoever looks at the first images only must see all classes.
    labels = load(folder).train.labels
    assert 10 < labels[:40].sum() < 30


def test_splits_and_ids_are_the_same_in_another_process(folder):
    code = (
        "import sys; from supernets.dataset import DataSource, load; "
        "print(load(DataSource('folder', path=sys.argv[1], size=12)).id)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, folder.path],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == load(folder).id


def test_a_split_that_would_be_empty_is_refused(tmp_path):
    source = DataSource("folder", path=str(write_folder(tmp_path, {"a": 3, "b": 3})), size=12)
    with pytest.raises(
        DataError, match="no image is left for validation, of 6 in all; give more images or raise valid"
    ):
        load(replace(source, validation_fraction=1e-9, test_fraction=0.5))
    with pytest.raises(
        DataError, match="no image is left for test, of 6 in all; give more images or raise test_fraction"
    ):
        load(replace(source, validation_fraction=0.5, test_fraction=1e-9))
    with pytest.raises(DataError, match=r"no image is left for train, of 6 in all; give more images$"):
        load(replace(source, validation_fraction=0.5 - 1e-9, test_fraction=0.5))


def test_a_set_that_is_its_own_test_set_leaves_nothing_to_train_on(tmp_path):
    path = str(write_folder(tmp_path, {"a": 3, "b": 3}))
    with pytest.raises(
        DataError, match=r"no image is left for train, of 6 in all \(6 were left out, the first: .* the sa"
    ):
        load(DataSource("folder", path=path, test_path=path, size=12))


def test_a_class_without_an_image_to_train_on_is_named(tmp_path):
    write_folder(tmp_path, {"a": 60, "b": 60})
    held_out = next(seed for seed in range(5000, 9000) if split_of(key_of(pixels(seed)), 0.1, 0.2) != "train")
    (tmp_path / "rare").mkdir()
    (tmp_path / "rare" / "only.png").write_bytes(encoded(pixels(held_out)))
    source = DataSource("folder", path=str(tmp_path), size=12)
    with pytest.raises(
        DataError, match="the class 'rare' has no image to train on: all 1 of its images are held out; give"
    ):
        load(source)
    (tmp_path / "rare" / "only.png").write_bytes(b"broken")
    with pytest.raises(
        DataError, match=r"'rare' has no image to train on: none of its images can be used \(1 were left ou"
    ):
        load(replace(source, skip_bad=True))


def key_of(image: np.ndarray) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()


# The data types


@pytest.mark.parametrize(
    ("pixels", "labels", "message"),
    [
        (
            np.zeros((2, 3, 4), np.uint8),
            np.zeros(2, np.int64),
            r"pixels must be uint8 of shape \(n, channels, height, wid",
        ),
        (np.zeros((2, 3, 4, 4), np.float32), np.zeros(2, np.int64), r"not float32 of shape \(2, 3, 4, 4\)"),
        (
            np.zeros((2, 3, 4, 4), np.uint8),
            np.zeros(3, np.int64),
            r"labels must be int64 of shape \(2,\), one for each",
        ),
        (np.zeros((2, 3, 4, 4), np.uint8), np.zeros(2, np.int32), r"not int32 of shape \(2,\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(pixels, labels, message):
    with pytest.raises(DataError, match=message):
        Images(pixels, labels)


def test_mean_and_std_are_those_of_the_training_pixels():
    train = images(3000, side=4)
    found = Dataset.of(train, images(side=4), images(side=4), ("a", "b"))
    scaled = train.pixels / 255
    np.testing.assert_allclose(found.mean, scaled.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(found.std, scaled.std(axis=(0, 2, 3)), rtol=1e-9)


def test_a_single_colour_has_a_std_that_can_be_divided_by():
    flat = Images(np.full((4, 1, 5, 5), 51, np.uint8), np.array([0, 1, 0, 1]))
    found = Dataset.of(flat, flat, flat, ("a", "b"))
    assert found.mean == (0.2,)
    assert found.std == (1 / 255,)


def test_the_id_changes_with_every_content():
    base = (images(), images(), images())
    changed = images()
    changed.pixels[3, 2, 4, 4] ^= 1
    relabelled = Images(images().pixels, 1 - images().labels)
    found = [Dataset.of(*base, ("a", "b")).id, Dataset.of(*base, ("a", "c")).id]
    found += [
        Dataset.of(*base[:i], other, *base[i + 1 :], ("a", "b")).id for i in range(3) for other in (changed, relabelled)
    ]
    assert len(set(found)) == 8
    assert Dataset.of(*base, ("a", "b"), name="other", skipped=("x",)).id == found[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ("a",)}, r"needs two classes at least, not \['a'\]"),
        ({"test": images(0)}, "the data set 'set' has no test images"),
        ({"test": images(side=6)}, r"test images have shape \(3, 6, 6\), those to train on \(3, 5, 5\)"),
        ({"validation": images(classes=3)}, "a validation image has label 2; labels go from 0 to 1"),
        ({"train": Images(images().pixels, images().labels - 1)}, "a train image has label -1; labels go from 0 to 1"),
        ({"mean": (0.5,)}, "wanted a mean and a std for each of 3 channels"),
        ({"std": (0.5, 0.5, float("nan"))}, "wanted a mean and a std for each of 3 channels"),
    ],
)
def test_a_data_set_that_does_not_fit_together_is_refused(change, message):
    good = Dataset.of(images(), images(), images(), ("a", "b"), "set")
    with pytest.raises(DataError, match=message):
        replace(good, **change)


# The cache


def test_a_cached_set_is_the_same_and_mapped_into_memory(folder, tmp_path, monkeypatch):
    built = count_builds(monkeypatch)
    plain, first, second = load(folder), load(folder, tmp_path / "cache"), load(folder, tmp_path / "cache")
    assert built == ["folder", "folder"]
    assert not isinstance(plain.train.pixels, np.memmap)
    assert isinstance(first.train.pixels, np.memmap)
    for found in (first, second):
        assert replace(found, train=plain.train, validation=plain.validation, test=plain.test) == plain
        for split in SPLITS:
            np.testing.assert_array_equal(getattr(found, split).pixels, getattr(plain, split).pixels)
            np.testing.assert_array_equal(getattr(found, split).labels, getattr(plain, split).labels)


def test_writing_to_mapped_images_leaves_the_cache_as_it_was(folder, tmp_path):
    found = load(folder, tmp_path / "cache")
    before = found.train.pixels[0].copy()
    found.train.pixels[0] = 0
    np.testing.assert_array_equal(load(folder, tmp_path / "cache").train.pixels[0], before)


def test_what_was_skipped_is_remembered(folder, tmp_path):
    (Path(folder.path) / "a" / "bad.png").write_bytes(b"broken")
    source = replace(folder, skip_bad=True)
    assert load(source, tmp_path / "cache").skipped == load(source, tmp_path / "cache").skipped != ()


@pytest.mark.parametrize(
    "change",
    [
        lambda source, root: (source, (root / "a" / "new.png").write_bytes(encoded(pixels(777)))),
        lambda source, root: (source, (root / "a" / "0-000.png").unlink()),
        lambda source, root: (source, (root / "a" / "0-000.png").write_bytes(encoded(pixels(778)))),
        lambda source, root: (source, (root / "a" / "0-000.png").rename(root / "b" / "moved.png")),
        lambda source, root: (replace(source, size=8), None),
        lambda source, root: (replace(source, channels=1), None),
        lambda source, root: (replace(source, validation_fraction=0.2), None),
    ],
)
def test_a_change_of_the_source_is_seen(folder, tmp_path, monkeypatch, change):
    built = count_builds(monkeypatch)
    before = load(folder, tmp_path / "cache")
    source, _ = change(folder, Path(folder.path))
    assert load(source, tmp_path / "cache").id != before.id
    assert len(built) == 2


def flip_a_pixel(entry: Path) -> None:
    path = entry / "train.pixels.npy"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def shorten(entry: Path) -> None:
    path = entry / "train.pixels.npy"
    path.write_bytes(path.read_bytes()[:-100])


def change_a_mean(entry: Path) -> None:
    notes = json.loads((entry / "dataset.json").read_text())
    notes["mean"][0] += 0.1
    (entry / "dataset.json").write_text(json.dumps(notes))


def pickle_an_array(entry: Path) -> None:
    np.save(entry / "test.labels.npy", np.array([{"a": 1}]), allow_pickle=True)


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_pixel,
        shorten,
        change_a_mean,
        pickle_an_array,
        lambda entry: (entry / "train.labels.npy").unlink(),
        lambda entry: (entry / "train.labels.npy").write_bytes(b""),
        lambda entry: (entry / "test.pixels.npy").write_bytes(b"\x93NUMPY garbage"),
        lambda entry: (entry / "dataset.json").write_text("{"),
        lambda entry: (entry / "dataset.json").write_text("[]"),
        lambda entry: (entry / "dataset.json").write_text("{}"),
    ],
)
def test_a_damaged_cache_entry_is_built_again(folder, tmp_path, monkeypatch, damage):
    cache = tmp_path / "cache"
    before = load(folder, cache)
    (entry,) = cache.iterdir()
    damage(entry)
    built = count_builds(monkeypatch)
    after = load(folder, cache)
    assert built == ["folder"]
    assert after.id == before.id
    assert load(folder, cache).id == before.id
    assert built == ["folder"]


def test_a_load_that_fails_leaves_nothing_in_the_cache(folder, tmp_path):
    (Path(folder.path) / "a" / "bad.png").write_bytes(b"broken")
    with pytest.raises(DataError, match="bad image"):
        load(folder, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_second_process_that_was_faster_is_no_error(folder, tmp_path, monkeypatch):
    cache, write_splits = tmp_path / "cache", dataset_module.write_splits

    def slow(source, listing, place, progress):
        monkeypatch.setattr(dataset_module, "write_splits", write_splits)
        load(folder, cache)
        return write_splits(source, listing, place, progress)

    monkeypatch.setattr(dataset_module, "write_splits", slow)
    assert load(folder, cache).id == load(folder).id
    assert len(list(cache.iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_named(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write to the cache folder .*file: .*; give another one"):
        load(folder, tmp_path / "file")


def test_progress_goes_up_to_the_total(folder):
    heard = []
    load(folder, progress=lambda done, total: heard.append((done, total)))
    assert heard == sorted(heard)
    assert heard[-1] == (120, 120)


# Real images


@pytest.mark.skipif(not CIFAR.exists(), reason="the CIFAR-10 files are not on this machine")
def test_real_jpegs_are_read(tmp_path):
    rows = pq.ParquetFile(CIFAR).read_row_group(0).slice(0, 1000)
    pq.write_table(rows, tmp_path / "slice.parquet")
    found = load(DataSource("parquet", path=str(tmp_path / "slice.parquet"), size=32))
    assert found.train.pixels.shape[1:] == (3, 32, 32)
    assert sum(len(getattr(found, split)) for split in SPLITS) == 1000
    assert all(0.4 < mean < 0.55 for mean in found.mean)
    assert all(0.2 < std < 0.3 for std in found.std)
