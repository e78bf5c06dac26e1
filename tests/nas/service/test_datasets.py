"""Images of jobs on the machine that runs them."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from nas.errors import JobError
from nas.service.blobs import Blobs
from nas.service.datasets import FILES, IMAGES, UNUSED_S, forget_unused, local
from nas.service.errors import NotFound
from supernets.dataset import DataSource


class FakeUploads:
    """Uploads by their id, as their content's digest."""

    def __init__(self, **digests: str) -> None:
        self.digests = digests

    def get(self, upload_id: str, owner: str | None = None) -> SimpleNamespace:
        if upload_id not in self.digests:
            raise NotFound(f"{upload_id}: there is no such upload")
        return SimpleNamespace(sha256=self.digests[upload_id])


@pytest.fixture
def blobs(tmp_path) -> Blobs:
    return Blobs(str(tmp_path / "blobs"))


def parquet(path: str, test_path: str | None = None) -> DataSource:
    return DataSource("parquet", size=8, path=path, test_path=test_path)


def test_an_upload_becomes_a_file_once(blobs, tmp_path):
    sha256 = blobs.put(iter([b"images"])).sha256
    uploads, work = FakeUploads(u1=sha256), tmp_path / "work"
    found = local(parquet("upload:u1", "upload:u1"), uploads, blobs, work, {})
    assert found.path == found.test_path == str(work / FILES / f"{sha256}.parquet")
    assert Path(found.path).read_bytes() == b"images"
    written = Path(found.path).stat().st_mtime_ns
    blobs.delete(sha256)
    assert local(parquet("upload:u1"), uploads, blobs, work, {}).path == found.path
    assert Path(found.path).stat().st_mtime_ns == written, "decoded images go by it"


def test_registered_images_have_a_name(blobs, tmp_path):
    named = {"photos": "/srv/photos.parquet"}
    assert local(parquet("data:photos"), FakeUploads(), blobs, tmp_path, named).path == "/srv/photos.parquet"
    with pytest.raises(JobError, match="has no images 'data:cats'; it has photos, or upload"):
        local(parquet("data:cats"), FakeUploads(), blobs, tmp_path, named)
    with pytest.raises(JobError, match="has no images '/etc/passwd'"):
        local(parquet("/etc/passwd"), FakeUploads(), blobs, tmp_path, named)


def test_an_upload_that_is_gone_is_told(blobs, tmp_path):
    with pytest.raises(NotFound, match="u2"):
        local(parquet("upload:u2"), FakeUploads(), blobs, tmp_path, {})


def test_a_damaged_blob_leaves_no_file(blobs, tmp_path):
    sha256 = blobs.put(iter([b"images"])).sha256
    blobs.path(sha256).chmod(0o600)
    blobs.path(sha256).write_bytes(b"others")
    with pytest.raises(Exception, match=sha256[:8]):
        local(parquet("upload:u1"), FakeUploads(u1=sha256), blobs, tmp_path / "work", {})
    assert list((tmp_path / "work" / FILES).iterdir()) == []


def test_source_of_images_that_need_no_file_stays_as_it_is(blobs, tmp_path):
    digits = DataSource("digits", size=8, channels=1)
    assert local(digits, FakeUploads(), blobs, tmp_path, {}) == digits


def test_what_nobody_has_read_for_long_is_removed(tmp_path):
    old, new = tmp_path / IMAGES / "old", tmp_path / IMAGES / "new"
    files = [old / "a.npy", new / "a.npy", tmp_path / FILES / "old.parquet", tmp_path / FILES / "new.parquet"]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / IMAGES / "empty").mkdir()
    for path in (files[0], old, files[2]):
        long_ago_s = path.stat().st_mtime - 2 * UNUSED_S
        os.utime(path, (long_ago_s, long_ago_s))
    forget_unused(tmp_path)
    assert sorted(path.name for folder in (IMAGES, FILES) for path in (tmp_path / folder).iterdir()) == [
        "empty",
        "new",
        "new.parquet",
    ]
