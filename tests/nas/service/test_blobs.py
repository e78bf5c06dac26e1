"""Blobs: whole or not there, checked when they are read, healed when they are put again."""

import hashlib
import io
import os
import secrets
import threading
from errno import ENOSPC
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.service.blobs import Blob, BlobDamaged, BlobMissing, Blobs, TooLarge
from nas.service.errors import ServiceError, Unavailable

pytest_plugins = ["tests.nas.service.buckets"]


@pytest.fixture(params=["folder", "memory", "s3"])
def store(request, tmp_path, monkeypatch) -> Blobs:
    """An empty store of each kind; what comes in for a bucket lies in the test's own folder."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if request.param == "s3":
        return Blobs(request.getfixturevalue("bucket"))
    return Blobs(tmp_path / "blobs" if request.param == "folder" else f"memory://{secrets.token_hex(8)}")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def damage(store: Blobs, name: str, content: bytes) -> None:
    """Write something else in the place of a blob."""
    file = Path(store._place.incoming) / "other"
    file.write_bytes(content)
    store._place.adopt(file, name)
    file.unlink(missing_ok=True)


def files(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize("how", [bytes, io.BytesIO, lambda content: iter([content[:3], b"", content[3:]])])
def test_what_is_put_is_read_under_its_digest(store, how):
    content = b"weights" * 1000
    blob = store.put(how(content))
    assert blob == Blob(sha256(content), len(content))
    assert store.read(blob.sha256) == content
    assert store.exists(blob.sha256)
    assert list(store.walk()) == [blob]


def test_a_file_is_put_and_stays_where_it_is(store, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"model")
    assert store.read(store.put(path).sha256) == b"model"
    assert path.read_bytes() == b"model"
    with pytest.raises(FileNotFoundError):
        store.put(tmp_path / "absent")


@given(content=st.binary(max_size=200), sizes=st.lists(st.integers(1, 50), max_size=20))
def test_reading_in_pieces_gives_the_content(content, sizes, tmp_path_factory):
    store = Blobs("memory://pieces")
    with store.open(store.put(content).sha256) as file:
        assert b"".join([*(file.read(size) for size in sizes), file.read()]) == content


def test_a_part_can_be_read(store):
    with store.open(store.put(b"0123456789").sha256) as file:
        file.seek(4)
        assert file.read(3) == b"456"
        assert file.read() == b"789"


@pytest.mark.parametrize("name", ["", "0" * 64, "../../etc/passwd", "A" * 64, "0" * 64 + "\n"])
def test_what_is_not_there_is_missing(store, name):
    with pytest.raises(BlobMissing):
        store.open(name)
    assert not store.exists(name)
    assert store.path(name) is None


def test_too_much_is_refused_before_it_is_stored(store, tmp_path):
    sent = []
    much = (sent.append(i) or b"x" * 1000 for i in range(100))
    with pytest.raises(TooLarge, match="10,000 bytes"):
        store.put(much, limit_bytes=10_000)
    assert len(sent) == 11
    assert list(store.walk()) == []
    assert files(tmp_path) == []


def test_as_much_as_the_limit_is_taken(store):
    assert store.put(b"x" * 10, limit_bytes=10).bytes == 10


@pytest.mark.parametrize("wrong", [b"weightz", b"weight", b"weights and more", b""])
def test_damage_is_found_at_the_end_of_reading_and_healed_by_putting_again(store, wrong):
    blob = store.put(b"weights")
    damage(store, blob.sha256, wrong)
    with store.open(blob.sha256) as file, pytest.raises(BlobDamaged, match=blob.sha256):
        list(iter(lambda: file.read(3), b""))
    assert not store.exists(blob.sha256)
    with pytest.raises(BlobMissing):
        store.read(blob.sha256)
    store.put(b"weights")
    assert store.read(blob.sha256) == b"weights"


def test_what_was_damaged_is_kept_for_whoever_looks_for_the_reason(tmp_path):
    store = Blobs(tmp_path)
    blob = store.put(b"weights")
    damage(store, blob.sha256, b"weightz")
    with pytest.raises(BlobDamaged):
        store.read(blob.sha256)
    assert [path.read_bytes() for path in tmp_path.rglob("*.damaged")] == [b"weightz"]
    assert list(store.walk()) == []


def test_a_late_reader_of_a_damaged_file_does_not_take_the_healed_one_away(tmp_path):
    store = Blobs(tmp_path)
    blob = store.put(b"weights")
    damage(store, blob.sha256, b"weightz")
    with store.open(blob.sha256) as late:
        damage(store, blob.sha256, b"weights")  # healed; the late reader has the old file open
        with pytest.raises(BlobDamaged):
            late.read()
    assert store.read(blob.sha256) == b"weights"


def test_a_file_of_another_size_is_replaced_by_putting(store):
    blob = store.put(b"weights")
    damage(store, blob.sha256, b"wei")
    store.put(b"weights")
    assert store.read(blob.sha256) == b"weights"


def test_deleting_takes_it_away_and_may_be_done_twice(store):
    blob = store.put(b"weights")
    store.delete(blob.sha256)
    store.delete(blob.sha256)
    assert list(store.walk()) == []


def test_many_put_the_same_at_once(store):
    content = os.urandom(300_000)
    threads = [threading.Thread(target=store.put, args=(content,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [blob.sha256 for blob in store.walk()] == [sha256(content)]
    assert store.read(sha256(content)) == content


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    store = Blobs(tmp_path)

    def full(file, chunk):
        raise OSError(ENOSPC, os.strerror(ENOSPC))

    monkeypatch.setattr("nas.service.blobs._write", full)
    with pytest.raises(Unavailable, match="No space left"):
        store.put(b"weights")
    assert files(tmp_path) == []


def test_a_stream_that_breaks_off_leaves_nothing_and_its_error_is_kept(store, tmp_path):
    def broken():
        yield b"half"
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        store.put(broken())
    assert list(store.walk()) == []
    assert files(tmp_path) == []


def test_a_blob_is_synced_before_it_has_its_name(tmp_path, monkeypatch):
    """And its folder after it."""
    store, steps = Blobs(tmp_path), []
    replace = Path.replace
    monkeypatch.setattr("nas.service.places._sync", lambda path: steps.append(("sync", path)))
    monkeypatch.setattr(Path, "replace", lambda path, to: (steps.append(("rename", to)), replace(path, to))[1])
    name = store.put(b"weights").sha256
    place = tmp_path / name[:2] / name[2:4]
    assert steps[0][0] == "sync"
    assert steps[1] == ("rename", place / name)
    assert {path for what, path in steps[2:]} >= {place, place.parent, tmp_path}


def test_leftovers_are_swept_when_they_are_old(store):
    fresh, old = (store._place.incoming / f"{name}.part" for name in ("fresh", "old"))
    fresh.write_bytes(b"abc")
    old.write_bytes(b"abcd")
    os.utime(old, (0, 0))
    assert store.sweep(3600.0) == 4
    assert fresh.exists()
    assert not old.exists()


def test_the_store_says_whether_it_can_be_written(store, tmp_path):
    store.check()
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable):
        Blobs(tmp_path / "file" / "blobs")


def test_places_that_may_hold_a_part_of_a_file_are_refused():
    with pytest.raises(ServiceError, match="not under 'sftp'"):
        Blobs("sftp://host/blobs")


def test_a_file_url_is_a_folder(tmp_path):
    blob = Blobs(f"file://{tmp_path}").put(b"weights")
    assert Blobs(tmp_path).read(blob.sha256) == b"weights"
