"""Images with any number of labels: what is read from tables, folders and the hub, and what is said about what cannot be."""

import json
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernets.dataset import Dataset, DataSource, Images, _cache_key, load
from supernets.errors import DataError
from supernets.label_column import joined, read_labels
from supernets.listing import SPLITS, Part
from tests.supernets.fake_hub import Table, fake_datasets
from tests.supernets.mosaics import mosaics, write_mosaic_folder, write_mosaics
from tests.supernets.pictures import encoded, pixels, rows, write_parquet

COUNT = 80
MANY = {"size": 16, "channels": 1, "task": "multi_label"}
SOURCE = DataSource("parquet", path="set.parquet", size=12, task="multi_label")
TREES = ("oak", "elm", "fir")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Mosaics of digits as a Parquet file of lists."""
    return write_mosaics(tmp_path_factory.mktemp("mosaics") / "set.parquet", COUNT)


def of_trees(path, label_lists, label_type=None, seed=0):
    """Random pictures with these lists of labels."""
    found = [
        (picture, labels) for (picture, _), labels in zip(rows(len(label_lists), seed=seed), label_lists, strict=True)
    ]
    return write_parquet(path, found, label_type=label_type)


def some(count=60):
    """Lists of up to three trees: all of them come up, and each is missing somewhere."""
    return [[tree for k, tree in enumerate(TREES) if (i + 1) >> k & 1] for i in range(count)]


def labelled(dataset):
    """Of every image its names."""
    for split in SPLITS:
        images = getattr(dataset, split)
        for image, row in zip(images.pixels, images.labels, strict=True):
            yield image.tobytes(), {dataset.classes[k] for k in np.flatnonzero(row)}


# What is read


def test_lists_of_whole_numbers_are_rows_of_yes_and_no(whole):
    dataset = load(DataSource("parquet", path=str(whole), **MANY))
    assert dataset.task == "multi_label"
    assert dataset.classes == tuple("0123456789")
    wanted = {
        image.tobytes(): {str(k) for k in np.flatnonzero(row)} for image, row in zip(*mosaics(COUNT), strict=True)
    }
    assert dict(labelled(dataset)) == wanted
    for split in SPLITS:
        assert getattr(dataset, split).labels.dtype == np.bool_


def test_a_picture_in_the_folders_of_several_classes_is_one_image_with_all_these_labels(whole, tmp_path):
    folder = write_mosaic_folder(tmp_path / "folders", COUNT)
    assert len(list(folder.rglob("*.png"))) > 2 * COUNT
    # In one of the folders the picture has another name and another format, and the same pixels.
    first = next(folder.rglob("3.png"))
    first.with_name("renamed.bmp").write_bytes(encoded(mosaics(COUNT)[0][3], "BMP"))
    first.unlink()
    found = load(DataSource("folder", path=str(folder), **MANY))
    assert found.id == load(DataSource("parquet", path=str(whole), **MANY)).id


def test_a_row_for_each_image_and_label_is_the_same_as_lists(whole, tmp_path):
    found = [(encoded(image), int(k)) for image, row in zip(*mosaics(COUNT), strict=True) for k in np.flatnonzero(row)]
    long = write_parquet(tmp_path / "long.parquet", found)
    assert (
        load(DataSource("parquet", path=str(long), **MANY)).id
        == load(DataSource("parquet", path=str(whole), **MANY)).id
    )


@pytest.mark.parametrize(
    "label_type",
    [
        pa.list_(pa.string()),
        pa.large_list(pa.large_string()),
        pa.list_(pa.dictionary(pa.int8(), pa.string())),
    ],
)
def test_lists_may_hold_names_be_empty_and_say_a_label_twice(tmp_path, label_type):
    lists = [*some(), [], ["fir", "oak", "fir"]]
    found = load(replace(SOURCE, path=str(of_trees(tmp_path / "set.parquet", lists, label_type))))
    assert found.classes == ("elm", "fir", "oak")
    by_image = dict(labelled(found))
    for i, labels in enumerate(lists):
        assert by_image[pixels(100_000 + i).transpose(2, 0, 1).tobytes()] == set(labels)
    ordered = load(replace(SOURCE, path=str(tmp_path / "set.parquet"), classes=TREES))
    assert ordered.classes == TREES
    assert dict(labelled(ordered)) == by_image


def test_files_of_empty_lists_and_of_plain_labels_go_with_files_of_lists(tmp_path):
    of_trees(tmp_path / "a.parquet", some())
    of_trees(tmp_path / "b.parquet", [[], []], seed=1)
    of_trees(tmp_path / "c.parquet", ["oak", "oak"], seed=2)
    found = load(replace(SOURCE, path=str(tmp_path)))
    counts = sum(getattr(found, split).labels.sum(0) for split in SPLITS)
    assert dict(zip(found.classes, counts.tolist(), strict=True)) == {
        tree: sum(tree in labels for labels in some()) + 2 * (tree == "oak") for tree in TREES
    }
    assert sum(len(getattr(found, split)) for split in SPLITS) == 64


@pytest.mark.parametrize("wrapped", [lambda label: {"feature": label, "_type": "Sequence"}, lambda label: [label]])
def test_class_names_of_lists_are_taken_from_what_the_hub_writes(whole, tmp_path, wrapped):
    names = [f"digit {k}" for k in range(10)]
    features = {"label": wrapped({"names": names, "_type": "ClassLabel"})}
    noted = pq.read_table(whole).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(noted, tmp_path / "noted.parquet")
    assert load(DataSource("parquet", path=str(tmp_path / "noted.parquet"), **MANY)).classes == tuple(names)


def test_a_hub_set_of_lists_gives_its_names(monkeypatch):
    class OfLists(Table):
        @property
        def features(self):
            return {"image": SimpleNamespace(), "label": SimpleNamespace(feature=SimpleNamespace(names=list(TREES)))}

    images = [{"bytes": picture, "path": None} for picture, _ in rows(60)]
    lists = [[TREES.index(tree) for tree in labels] for labels in some()]
    monkeypatch.setitem(sys.modules, "datasets", fake_datasets({"train": OfLists({"image": images, "label": lists})}))
    found = load(DataSource("huggingface", name="someone/something", size=12, task="multi_label"))
    assert found.classes == TREES
    assert [len(labels) for _, labels in labelled(found)].count(3) == sum(len(labels) == 3 for labels in lists)


def test_training_avoids_what_a_given_test_set_holds(whole, tmp_path):
    held_out = write_mosaics(tmp_path / "test.parquet", 12)
    found = load(DataSource("parquet", path=str(whole), test_path=str(held_out), **MANY))
    assert len(found.test) == 12
    assert len(found.train) + len(found.validation) == COUNT - 12


@given(st.lists(st.lists(st.integers(0, 5), max_size=4), min_size=1, max_size=12), st.booleans())
def test_every_picture_gets_its_own_labels_wherever_they_stand(lists, large):
    kind = (pa.large_list if large else pa.list_)(pa.int64())
    # In two pieces, of which the second begins in the middle of its buffer.
    array = pa.array(lists, kind)
    column = pa.chunked_array([array[: len(lists) // 2], array[len(lists) // 2 :]], kind)
    found = joined([read_labels(column, "here", SOURCE), read_labels(column, "here", SOURCE)], "")
    part = Part("train", found.values, "row {}".format, lambda: [], found.lengths)
    assert len(part) == 2 * len(lists)
    assert list(part.grouped(np.asarray(found.values))) == [tuple(sorted(set(each))) for each in lists] * 2
    owners = [i for i, each in enumerate([*lists, *lists]) for _ in each]
    assert [part.place_of(k) for k in range(len(owners))] == [f"row {i}" for i in owners]


# What is refused


@pytest.mark.parametrize(
    ("lists", "kind", "fields", "message"),
    [
        (some(), None, {"task": "single_label"}, "the column 'label' of .* holds lists of labels; set data.task to mult"),
        ([*some(), None], None, {}, "row 60 of .* has no label; give it one, or remove the row"),
        ([*some(), ["oak", None]], None, {}, "row 60 of .* has a null among its labels; take it out"),
        ([*some(), [], ["ivy"]], None, {"classes": TREES}, "row 61 of .* has label 'ivy', which is none of the classes oak"),
        ([*([[0, 1], [2]] * 30), [0, 3]], None, {"classes": TREES}, "row 60 of .* has label 3; labels go from 0 to 2"),
        ([*([[0, 1], [2]] * 30), [-1]], None, {}, "row 60 of .* has label -1; labels go from 0 upwards"),
        ([[0, 3], [1]] * 30, None, {}, "the labels of set go up to 3, but none is 2"),
        ([[["oak"]]] * 9, None, {}, "'label' of .* holds list<.*list<.*>>; wanted lists of whole numbers or of names"),
        ([[0.5]] * 9, None, {}, "'label' of .* holds list<.*double>; wanted lists of whole numbers or of names"),
        ([[True, False]] * 9, None, {}, "'label' of .* holds list<.*bool>; wanted lists of whole numbers or of names"),
        ([0.5] * 9, None, {}, "'label' of .* holds double; wanted whole numbers or names, or lists of them"),
        ([[]] * 60, pa.list_(pa.int64()), {}, "a classifier needs two classes at least, and set has none"),
        ([[]] * 60, None, {}, "a classifier needs two classes at least, and set has none"),
        ([["oak", "elm"], ["oak"]] * 40, None, {}, r"all \d+ images to train on have the class 'oak'; give images without"),
        (some(), None, {"classes": (*TREES, "ivy")}, "the class 'ivy' has no image to train on: none of its images can"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_labels_is_said_in_one_line(tmp_path, lists, kind, fields, message):
    path = of_trees(tmp_path / "set.parquet", lists, kind)
    with pytest.raises(DataError, match=message) as caught:
        load(replace(SOURCE, path=str(path), **fields))
    assert "\n" not in str(caught.value)


def test_numbers_and_names_do_not_mix(tmp_path, monkeypatch):
    of_trees(tmp_path / "a.parquet", some())
    of_trees(tmp_path / "b.parquet", [[0], [1, 2]], seed=1)
    with pytest.raises(DataError, match=r"'label' holds whole numbers in some of .* and names in others"):
        load(replace(SOURCE, path=str(tmp_path)))
    answer = fake_datasets({"train": Table({"image": [{}, {}], "label": [[1], ["oak"]]})})
    monkeypatch.setitem(sys.modules, "datasets", answer)
    with pytest.raises(DataError, match=r"labels of x .* are not all of one kind"):
        load(DataSource("huggingface", name="x", size=12, task="multi_label"))


def test_a_task_that_does_not_exist_is_refused():
    with pytest.raises(DataError, match=r"data\.task must be one of single_label, multi_label, not 'many'"):
        replace(SOURCE, task="many")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((4, 3), np.int64), r"or bool of shape \(4, classes\), not int64 of shape \(4, 3\)"),
        (np.zeros((3, 3), np.bool_), r"not bool of shape \(3, 3\)"),
        (np.zeros((4, 3, 1)), r"not float64 of shape \(4, 3, 1\)"),
    ],
)
def test_label_arrays_that_do_not_fit_are_refused(labels, message):
    with pytest.raises(DataError, match=message):
        Images(np.zeros((4, 1, 5, 5), np.uint8), labels)


def test_splits_of_different_tasks_or_classes_are_refused():
    def images(labels):
        return Images(np.zeros((len(labels), 1, 5, 5), np.uint8), labels)

    many = images(np.eye(4, 3, dtype=np.bool_))
    for other in (images(np.zeros(4, np.int64)), images(np.eye(4, dtype=np.bool_))):
        with pytest.raises(
            DataError, match=r"test labels have shape .*, those to train on .*, and there are 3 classes"
        ):
            Dataset.of(many, many, other, TREES)


# What was there before


def test_ids_and_cache_entries_of_single_labels_are_what_they_were(tmp_path):
    digits = DataSource("digits", size=8, channels=1)
    assert load(digits).id == "c6dbe772f854"
    assert _cache_key(digits) == "e2d5c40a7f3d7f7d"
    assert _cache_key(replace(digits, task="multi_label")) != _cache_key(digits)


def test_a_cached_set_of_lists_is_the_same(whole, tmp_path):
    path = shutil.copy(whole, tmp_path / "set.parquet")
    source = DataSource("parquet", path=str(path), **MANY)
    first, second = load(source, tmp_path / "cache"), load(source, tmp_path / "cache")
    assert first.id == second.id == load(source).id
    for split in SPLITS:
        np.testing.assert_array_equal(getattr(first, split).labels, getattr(second, split).labels)
    relabelled = Images(first.train.pixels, ~first.train.labels)
    assert Dataset.of(relabelled, first.validation, first.test, first.classes).id != first.id
