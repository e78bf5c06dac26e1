"""Writing a file: all of it or nothing."""

import errno
import os

import pytest

from search_spaces import files
from search_spaces.files import write_bytes


def test_a_file_is_replaced_at_once_and_never_written_into(tmp_path):
    path = tmp_path / "a.json"
    write_bytes(path, b"old" * 1000)
    with path.open("rb") as reader:
        write_bytes(path, b"new")
        assert reader.read() == b"old" * 1000
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_disk_that_is_full_leaves_what_was_there_and_names_the_file(tmp_path, monkeypatch, before):
    path = tmp_path / "a.json"
    if before is not None:
        write_bytes(path, before)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_bytes(path, b"new")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert [each.read_bytes() for each in tmp_path.iterdir()] == ([] if before is None else [before])


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent"):
        write_bytes(tmp_path / "absent" / "a.json", b"new")
