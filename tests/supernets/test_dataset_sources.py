"""Folders, tables and the hub: what is read, and what is said about what cannot be."""

import json
import os
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from supernets.dataset import DataSource, load
from supernets.datasource import PLACES
from supernets.errors import DataError, SupernetError
from supernets.readers import READERS
from tests.supernets.fake_hub import Table, fake_datasets, table
from tests.supernets.pictures import encoded, keys, pixels, rows, write_folder, write_parquet

FOLDER = {"kind": "folder", "size": 12}
PARQUET = {"kind": "parquet", "size": 12}
HUB = {"kind": "huggingface", "size": 12, "name": "someone/something"}


def test_every_kind_has_a_reader():
    assert set(PLACES) == set(READERS)


def test_a_data_error_is_a_value_error():
    assert issubclass(DataError, SupernetError)
    assert issubclass(SupernetError, ValueError)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "fodler"}, "unknown kind of data 'fodler'; did you mean 'folder'.; known: digits, folder, parquet"),
        ({"kind": ["digits"]}, "unknown kind of data"),
        ({"kind": "folder"}, "data of kind 'folder' needs 'path'"),
        ({"kind": "parquet"}, "data of kind 'parquet' needs 'path'"),
        ({"kind": "huggingface"}, "data of kind 'huggingface' needs 'name'"),
        ({"kind": "digits", "path": "x"}, "data of kind 'digits' takes no 'path'; drop it"),
        ({"kind": "huggingface", "name": "x", "test_path": "y"}, "takes no 'test_path'"),
        ({"kind": "folder", "path": ""}, "data.path must be a text that is not empty, not ''"),
        ({"kind": "folder", "path": 3}, "data.path must be a text that is not empty, not 3"),
        ({"size": 0}, "size must be a whole number of pixels from 4 to 1024, not 0"),
        ({"size": 2000}, "size must be a whole number of pixels from 4 to 1024, not 2000"),
        ({"size": 8.0}, "size must be a whole number"),
        ({"size": True}, "size must be a whole number"),
        ({"channels": 2}, r"channels must be 1 \(grey\) or 3 \(colour\), not 2"),
        ({"validation_fraction": 0}, "validation_fraction must be a number between 0 and 1, not 0"),
        ({"test_fraction": 1.0}, "test_fraction must be a number between 0 and 1, not 1.0"),
        ({"test_fraction": float("nan")}, "test_fraction must be a number between 0 and 1, not nan"),
        ({"test_fraction": "0.1"}, "test_fraction must be a number between 0 and 1, not '0.1'"),
        ({"test_fraction": 0.5, "validation_fraction": 0.5}, "together must be below 1"),
        ({"classes": ("a",)}, r"classes must name two at least, not \['a'\]"),
        ({"classes": ("a", "b", "a")}, "classes names 'a' twice"),
        ({"classes": ["a", "b"]}, "classes must be a tuple of names"),
        ({"classes": ("a", "")}, "classes must be a tuple of names"),
    ],
)
def test_a_source_that_makes_no_sense_is_refused(fields, message):
    with pytest.raises(DataError, match=message):
        DataSource(**{"kind": "digits", "size": 8, **fields})


# Folders


def test_a_folder_gives_its_classes_in_the_order_of_their_names(tmp_path):
    write_folder(tmp_path / "flowers", {"tulip": 40, "rose": 40, "aster": 40})
    found = load(DataSource(**FOLDER, path=str(tmp_path / "flowers")))
    assert found.classes == ("aster", "rose", "tulip")
    assert found.name == "flowers"
    tulips = {pixels(i).transpose(2, 0, 1).tobytes() for i in range(40)}
    for images in (found.train, found.validation, found.test):
        is_tulip = [image.tobytes() in tulips for image in images.pixels]
        np.testing.assert_array_equal(is_tulip, images.labels == 2)
    assert len(found.train) + len(found.validation) + len(found.test) == 120


def test_classes_can_be_given_in_another_order(tmp_path):
    write_folder(tmp_path, {"a": 30, "b": 60})
    found = load(DataSource(**FOLDER, path=str(tmp_path), classes=("b", "a")))
    assert found.classes == ("b", "a")
    assert sum((images.labels == 0).sum() for images in (found.train, found.validation, found.test)) == 60


@pytest.mark.parametrize("form", ["jpg", "JPEG", "png", "bmp", "webp", "gif", "tif", "tiff"])
def test_pictures_are_found_by_their_suffix(tmp_path, form):
    write_folder(tmp_path, {"a": 30, "b": 30})
    kind = {"jpg": "JPEG", "tif": "TIFF"}.get(form.lower(), form.upper())
    (tmp_path / "a" / f"more.{form}").write_bytes(encoded(pixels(99), "TIFF" if kind == "TIFF" else kind))
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    (tmp_path / "a" / "._hidden.png").write_text("what macOS leaves")
    (tmp_path / "README.md").write_text("no class")
    found = load(DataSource(**FOLDER, path=str(tmp_path)))
    assert len(found.train) + len(found.validation) + len(found.test) == 61


def test_a_test_folder_is_used_as_it_is(tmp_path):
    write_folder(tmp_path / "a", {"x": 30, "y": 30})
    write_folder(tmp_path / "b", {"x": 5}, seed=1)
    found = load(DataSource(**FOLDER, path=str(tmp_path / "a"), test_path=str(tmp_path / "b")))
    assert len(found.test) == 5
    assert len(found.train) + len(found.validation) == 60
    assert set(found.test.labels) == {0}


@pytest.mark.parametrize(
    ("layout", "given"),
    [
        (("train", "test"), {"test": 6}),
        (("train", "val"), {"validation": 6}),
        (("train", "val", "test"), {"validation": 6, "test": 6}),
    ],
)
def test_folders_of_splits_are_recognised(tmp_path, layout, given):
    for seed, split in enumerate(layout):
        write_folder(tmp_path / split, {"x": 30, "y": 30} if split == "train" else {"x": 3, "y": 3}, seed)
    found = load(DataSource(**FOLDER, path=str(tmp_path)))
    assert found.classes == ("x", "y")
    assert found.name == tmp_path.name
    for split, count in given.items():
        assert len(getattr(found, split)) == count
    assert len(found.train) + len(found.validation) + len(found.test) == 60 + 6 * len(given)


def test_a_class_named_train_is_only_a_class_beside_others(tmp_path):
    write_folder(tmp_path, {"train": 30, "plane": 30, "test": 30})
    assert load(DataSource(**FOLDER, path=str(tmp_path))).classes == ("plane", "test", "train")


def test_what_is_wrong_with_a_folder_is_said_in_one_line(tmp_path):
    good = write_folder(tmp_path / "good", {"a": 20, "b": 20})
    write_folder(tmp_path / "hole", {"a": 3})
    (tmp_path / "hole" / "b").mkdir()
    write_folder(tmp_path / "one", {"a": 30})
    write_folder(tmp_path / "deep" / "a" / "inner", {"x": 1})
    write_folder(tmp_path / "typo", {"a": 1, "bb": 1}, seed=3)
    write_folder(tmp_path / "split" / "train", {"a": 3, "b": 3})
    write_folder(tmp_path / "split" / "test", {"a": 3, "b": 3})
    (tmp_path / "none").mkdir()
    (tmp_path / "file").write_text("")
    cases = [
        ({"path": "missing"}, "the folder .*missing does not exist; give the path of a folder that holds one folder a"),
        ({"path": "file"}, "file is a file; give the path of a folder"),
        ({"path": "hole"}, r"the class folder .*hole/b has no image; add some \(.jpg, .*\) or remove the folder"),
        ({"path": "none"}, "none has no folder of images; it needs one for each class"),
        ({"path": "one"}, "a classifier needs two classes at least, and one has only 'a'"),
        ({"path": "deep"}, "the class folder .*deep/a holds the folder 'inner'; images lie directly in the folder of"),
        ({"path": "good", "test_path": "missing"}, "the folder .*missing does not exist"),
        ({"path": "good", "test_path": "none"}, "none has no folder of images"),
        ({"path": "good", "test_path": "typo"}, "typo/bb is none of the classes a, b; did you mean 'b'"),
        ({"path": "good", "classes": ("a", "c")}, "good/b is none of the classes a, c"),
        ({"path": "good", "classes": ("a", "b", "c")}, "good has no folder for the class 'c'"),
        ({"path": "split", "test_path": "good"}, "split has a test folder already; drop test_path, or give .*train as"),
    ]
    assert good.exists()
    for fields, message in cases:
        places = {key: str(tmp_path / value) if "path" in key else value for key, value in fields.items()}
        with pytest.raises(DataError, match=message) as caught:
            load(DataSource(**FOLDER, **places))
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    write_folder(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "b").chmod(0)
    with pytest.raises(DataError, match="b cannot be read: Permission denied"):
        load(DataSource(**FOLDER, path=str(tmp_path)))


def test_a_bad_image_is_named(tmp_path):
    write_folder(tmp_path, {"a": 30, "b": 30})
    (tmp_path / "b" / "bad.png").write_bytes(b"not a picture")
    with pytest.raises(
        DataError, match=r"bad image .*b/bad.png: it cannot be read .*; repair or remove it, or set skip_"
    ):
        load(DataSource(**FOLDER, path=str(tmp_path)))


def test_bad_images_are_skipped_and_listed_when_asked(tmp_path):
    write_folder(tmp_path, {"a": 30, "b": 30})
    clean = load(DataSource(**FOLDER, path=str(tmp_path)))
    (tmp_path / "a" / "empty.jpg").write_bytes(b"")
    (tmp_path / "b" / "bad.png").write_bytes(b"not a picture")
    found = load(DataSource(**FOLDER, path=str(tmp_path), skip_bad=True))
    assert found.id == clean.id
    assert [line.split(": ")[0] for line in found.skipped] == [
        str(tmp_path / "a" / "empty.jpg"),
        str(tmp_path / "b" / "bad.png"),
    ]
    assert found.skipped[0].endswith(": it is empty")


# Parquet


@pytest.mark.parametrize("raw", [False, True])
def test_a_parquet_file_gives_images_and_labels(tmp_path, raw):
    found = rows(90)
    path = write_parquet(tmp_path / "set.parquet", found, raw=raw)
    dataset = load(DataSource(**PARQUET, path=str(path)))
    assert dataset.classes == ("0", "1", "2")
    assert dataset.name == "set"
    label_of = {pixels(100_000 + i).transpose(2, 0, 1).tobytes(): i % 3 for i in range(90)}
    for images in (dataset.train, dataset.validation, dataset.test):
        assert [label_of[image.tobytes()] for image in images.pixels] == images.labels.tolist()


def test_a_folder_of_parquet_files_is_one_set(tmp_path):
    whole = write_parquet(tmp_path / "whole.parquet", rows(90))
    write_parquet(tmp_path / "parts" / "a.parquet", rows(90)[:50])
    write_parquet(tmp_path / "parts" / "b.parquet", rows(90)[50:])
    assert (
        load(DataSource(**PARQUET, path=str(whole))).id == load(DataSource(**PARQUET, path=str(tmp_path / "parts"))).id
    )


def test_parquet_files_named_as_on_the_hub_go_to_their_splits(tmp_path):
    write_parquet(tmp_path / "train-00000-of-00002.parquet", rows(40))
    write_parquet(tmp_path / "train-00001-of-00002.parquet", rows(40, seed=1))
    write_parquet(tmp_path / "validation-00000-of-00001.parquet", rows(7, seed=2))
    write_parquet(tmp_path / "test-00000-of-00001.parquet", rows(9, seed=3))
    found = load(DataSource(**PARQUET, path=str(tmp_path)))
    assert (len(found.train), len(found.validation), len(found.test)) == (80, 7, 9)
    with pytest.raises(DataError, match=r"has test-00000-of-00001.parquet already; drop test_path"):
        load(DataSource(**PARQUET, path=str(tmp_path), test_path=str(tmp_path / "test-00000-of-00001.parquet")))


@pytest.mark.parametrize(
    "label_type", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_labels_may_be_names(tmp_path, label_type):
    named = [(picture, ("oak", "elm", "fir")[label]) for picture, label in rows(60)]
    write_parquet(tmp_path / "train.parquet", named, label_type=label_type)
    write_parquet(tmp_path / "other.parquet", [(encoded(pixels(1)), "fir")], label_type=label_type)
    places = {"path": str(tmp_path / "train.parquet"), "test_path": str(tmp_path / "other.parquet")}
    found = load(DataSource(**PARQUET, **places))
    assert found.classes == ("elm", "fir", "oak")
    assert found.test.labels.tolist() == [1]
    ordered = load(DataSource(**PARQUET, **places, classes=("oak", "elm", "fir")))
    assert ordered.test.labels.tolist() == [2]


@pytest.mark.parametrize("label_type", [pa.int8(), pa.uint64(), pa.bool_(), pa.dictionary(pa.int8(), pa.int32())])
def test_labels_may_be_whole_numbers_of_any_width(tmp_path, label_type):
    found = [(picture, bool(label) if pa.types.is_boolean(label_type) else label) for picture, label in rows(60, 2)]
    path = write_parquet(tmp_path / "set.parquet", found, label_type=label_type)
    assert load(DataSource(**PARQUET, path=str(path))).classes == ("0", "1")


def test_class_names_are_taken_from_what_the_hub_writes(tmp_path):
    plain = write_parquet(tmp_path / "plain.parquet", rows(60))
    features = {"label": {"names": ["oak", "elm", "fir"], "_type": "ClassLabel"}}
    noted = pq.read_table(plain).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(noted, tmp_path / "noted.parquet")
    assert load(DataSource(**PARQUET, path=str(tmp_path / "noted.parquet"))).classes == ("oak", "elm", "fir")


def test_columns_may_have_other_names(tmp_path):
    path = write_parquet(tmp_path / "set.parquet", rows(60), image="img", label="fine")
    found = load(DataSource(**PARQUET, path=str(path), image_column="img", label_column="fine"))
    assert found.id == load(DataSource(**PARQUET, path=str(write_parquet(tmp_path / "b.parquet", rows(60))))).id


@pytest.mark.parametrize(
    ("change", "fields", "message"),
    [
        ({5: -1}, {}, r"row 5 of .*set.parquet has label -1; labels go from 0 upwards"),
        ({5: None}, {}, r"row 5 of .*set.parquet has no label; give it one, or remove the row"),
        ({5: 3}, {"classes": ("a", "b", "c")}, r"row 5 of .* has label 3; labels go from 0 to 2, one for each class"),
        ({5: 9}, {}, "the labels of set go up to 9, but none is 3; number them from 0 without gaps, or name all `cla"),
        ({5: 2**40}, {}, "go up to 1099511627776, but none is 3"),
        (
            {},
            {"label_column": "lable"},
            "has no column 'lable'; did you mean 'label'.; set label_column to one of image, ",
        ),
        ({}, {"image_column": "pixels"}, "has no column 'pixels'; set image_column to one of image, label, extra"),
        ({}, {"image_column": "extra"}, r"column 'extra' of .* holds int64; wanted encoded images: bytes, or struct"),
        ({}, {"label_column": "image"}, "the column 'image' of .* holds struct<.*>; wanted whole numbers or names"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_in_one_line(tmp_path, change, fields, message):
    found = [(picture, change.get(i, label)) for i, (picture, label) in enumerate(rows(60))]
    path = write_parquet(tmp_path / "set.parquet", found, label_type=pa.int64())
    with pytest.raises(DataError, match=message) as caught:
        load(DataSource(**PARQUET, path=str(path), **fields))
    assert "\n" not in str(caught.value)


def test_rows_are_counted_in_their_own_file(tmp_path):
    write_parquet(tmp_path / "a.parquet", rows(50))
    write_parquet(tmp_path / "b.parquet", [*rows(3, seed=1), (encoded(pixels(0)), -4)])
    with pytest.raises(DataError, match=r"row 3 of .*b.parquet has label -4"):
        load(DataSource(**PARQUET, path=str(tmp_path)))


def test_a_name_that_is_no_class_is_refused_with_the_near_miss(tmp_path):
    named = [(picture, ("oak", "elm")[label]) for picture, label in rows(60, 2)]
    path = write_parquet(tmp_path / "set.parquet", [*named, (encoded(pixels(0)), "oka")])
    with pytest.raises(
        DataError, match=r"row 60 of .* has label 'oka', which is none of the classes oak, elm; did you mean"
    ):
        load(DataSource(**PARQUET, path=str(path), classes=("oak", "elm")))


def test_numbers_and_names_do_not_mix(tmp_path):
    write_parquet(tmp_path / "a" / "a.parquet", rows(50))
    write_parquet(tmp_path / "a" / "b.parquet", [(encoded(pixels(0)), "one")])
    with pytest.raises(DataError, match=r"'label' holds whole numbers in some of .* and names in others"):
        load(DataSource(**PARQUET, path=str(tmp_path / "a")))
    places = {"path": str(tmp_path / "a" / "a.parquet"), "test_path": str(tmp_path / "a" / "b.parquet")}
    with pytest.raises(DataError, match="labels are whole numbers in one set and names in another"):
        load(DataSource(**PARQUET, **places))


def test_labels_beyond_sixty_four_bits_are_refused(tmp_path):
    found = [*rows(9), (encoded(pixels(0)), 2**64 - 1)]
    path = write_parquet(tmp_path / "set.parquet", found, label_type=pa.uint64())
    with pytest.raises(DataError, match="has labels beyond 64 bits"):
        load(DataSource(**PARQUET, path=str(path)))


@pytest.mark.parametrize("raw", [False, True])
def test_a_row_without_a_picture_is_a_bad_image(tmp_path, raw):
    found = [(None if i == 7 else picture, label) for i, (picture, label) in enumerate(rows(90))]
    path = write_parquet(tmp_path / "set.parquet", found, raw=raw)
    with pytest.raises(DataError, match=r"bad image row 7 of .*set.parquet: it is empty; repair or remove it"):
        load(DataSource(**PARQUET, path=str(path)))
    assert len(load(DataSource(**PARQUET, path=str(path), skip_bad=True)).skipped) == 1


def test_a_parquet_path_that_leads_nowhere_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.parquet").write_text("not a table at all")
    (tmp_path / "nothing.parquet").write_text("")
    for name, message in [
        ("missing", "missing does not exist; give the path of a Parquet file, or of a folder of them"),
        ("empty", "empty has no .parquet file"),
        ("text.parquet", "text.parquet is not a readable Parquet file: "),
        ("nothing.parquet", "nothing.parquet is not a readable Parquet file: "),
    ]:
        with pytest.raises(DataError, match=message) as caught:
            load(DataSource(**PARQUET, path=str(tmp_path / name)))
        assert "\n" not in str(caught.value)


def test_a_damaged_page_is_an_error_of_its_file(tmp_path):
    path = write_parquet(tmp_path / "set.parquet", rows(200))
    data = bytearray(path.read_bytes())
    # The image column comes first; its page header is among the first bytes.
    data[4:400] = bytes(396)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"set.parquet"):
        load(DataSource(**PARQUET, path=str(path)))


def test_a_table_without_rows_has_no_classes(tmp_path):
    path = write_parquet(tmp_path / "set.parquet", [], label_type=pa.int64())
    with pytest.raises(DataError, match="a classifier needs two classes at least, and set has none"):
        load(DataSource(**PARQUET, path=str(path)))


# The Hugging Face hub


def test_a_hub_set_gives_its_splits_and_names(monkeypatch):
    names = ["oak", "elm", "fir"]
    answer = {"test": table(8, names, 1), "train": table(60, names), "unsupervised": table(5, names, 2)}
    monkeypatch.setitem(sys.modules, "datasets", fake_datasets(answer))
    found = load(DataSource(**HUB))
    assert found.classes == ("oak", "elm", "fir")
    assert found.name == "someone/something"
    assert (len(found.train) + len(found.validation), len(found.test)) == (60, 8)
    assert keys(found.test) == {pixels(101_000 + i).transpose(2, 0, 1).tobytes() for i in range(8)}


def test_a_hub_set_that_was_loaded_once_needs_no_hub(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", fake_datasets({"train": table(60)}))
    first = load(DataSource(**HUB), tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", fake_datasets(ConnectionError("no network")))
    assert load(DataSource(**HUB), tmp_path).id == first.id


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            ConnectionError("Couldn't reach the Hub\nat all"),
            r"cannot load 'someone/something' .*Couldn't reach the Hub\);",
        ),
        (FileNotFoundError("no such dataset"), "check the name and the network, or give a copy of its Parquet files"),
        (ValueError("Config name is missing"), "Config name is missing"),
        ({"test": table(5)}, "'someone/something' has no split 'train'; it has test"),
        (
            {"train": Table({"img": [], "label": []})},
            "has no column 'image'; did you mean 'img'.; set image_column to one",
        ),
        ({"train": table(60), "test": Table({"image": [{}], "label": [-1]})}, r"row 0 of .* \(test\) has label -1"),
        ({"train": Table({"image": [{}, None], "label": [0, None]})}, r"row 1 of .* \(train\) has no label"),
        ({"train": Table({"image": [{}, None], "label": [0, 1]})}, r"row 0 of .* \(train\): it is empty"),
    ],
)
def test_what_is_wrong_with_a_hub_set_is_said_in_one_line(monkeypatch, answer, message):
    monkeypatch.setitem(sys.modules, "datasets", fake_datasets(answer))
    with pytest.raises(DataError, match=message) as caught:
        load(DataSource(**HUB))
    assert "\n" not in str(caught.value)


def test_without_the_package_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"needs a package: pip install 'hwnas\[huggingface\]'"):
        load(DataSource(**HUB))


def test_the_real_package_reads_a_local_set(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    datasets = pytest.importorskip("datasets", reason="the extra 'huggingface' is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "home")
    write_parquet(tmp_path / "set" / "train-00000-of-00001.parquet", rows(60))
    write_parquet(tmp_path / "set" / "test-00000-of-00001.parquet", rows(8, seed=1))
    source = DataSource("huggingface", name=str(tmp_path / "set"), size=12)
    found = load(source)
    assert found.id == load(DataSource("parquet", path=str(tmp_path / "set"), size=12)).id
