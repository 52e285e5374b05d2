"""A file that is replaced is the old one or the new one."""

import errno
import hashlib
import os
from pathlib import Path

import av
import pytest

from videofib.files import describe, from_utf8, link_or_copy, remove_partial, replacing, sha256, to_utf8


def test_the_name_appears_when_the_block_ends(tmp_path):
    file = tmp_path / "new folder" / "and one in it" / "results.json"
    with replacing(file) as partial:
        partial.write_text("whole")
        assert not file.exists()
    assert file.read_text() == "whole"
    assert [entry.name for entry in file.parent.iterdir()] == ["results.json"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc, which only Linux has")
def test_nothing_stays_open(tmp_path):
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(3):
        with replacing(tmp_path / str(number)) as partial:
            partial.touch()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_failure_leaves_the_old_file_and_no_rest(tmp_path):
    file = tmp_path / "results.json"
    file.write_text("old")
    with pytest.raises(UnicodeEncodeError), replacing(file) as partial:
        partial.write_text("ha" * 100_000 + "\udc80")
    assert file.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


def test_what_killed_writers_left_is_removed_files_and_folders(tmp_path):
    kept = tmp_path / "folder" / "shard.safetensors"
    for file in (
        kept,
        tmp_path / ".a.partial",
        tmp_path / ".b.partial" / "shard",
        tmp_path / ".b.partial" / ".c.partial",
    ):
        file.parent.mkdir(exist_ok=True)
        file.write_text("half")
    remove_partial(tmp_path)
    assert sorted(tmp_path.rglob("*")) == [kept.parent, kept]


def test_a_folder_that_cannot_be_removed_is_left_and_the_others_are_removed(tmp_path, monkeypatch):
    """As on NFS, where a file that another process has open keeps its folder."""
    for name in (".a.partial", ".b.partial", ".c.partial"):
        (tmp_path / name).mkdir()
    rmdir = os.rmdir

    def busy(path, **options):
        if Path(path).name == ".b.partial":
            raise OSError(errno.ENOTEMPTY, "Directory not empty", path)
        rmdir(path, **options)

    monkeypatch.setattr(os, "rmdir", busy)
    remove_partial(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == [".b.partial"]


def test_an_error_names_the_file_and_not_its_temporary_name(tmp_path):
    (tmp_path / "results.json").mkdir()
    with pytest.raises(OSError, match="results") as caught, replacing(tmp_path / "results.json") as partial:
        partial.write_text("a folder has this name")
    assert (caught.value.filename, caught.value.filename2) == (str(tmp_path / "results.json"), None)
    assert str(caught.value) == f"[Errno 21] Is a directory: '{tmp_path / 'results.json'}'"
    assert describe(caught.value).startswith(f"{tmp_path / 'results.json'}: Is a directory")
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "other.json"):
        (tmp_path / "source").open()
    assert caught.value.filename == str(tmp_path / "source")  # an error of another file names that one
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


def test_an_error_of_pyav_names_the_file_too(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "a.mp4") as partial:
        av.open(str(partial))
    assert caught.value.filename == str(tmp_path / "a.mp4")
    assert caught.value.errno == errno.ENOENT
    assert not list(tmp_path.iterdir())


def test_a_librarys_own_words_are_kept_beside_the_file(tmp_path):
    with pytest.raises(OSError, match="encoder failed") as caught, replacing(tmp_path / "frame.jpg"):
        raise OSError("encoder failed")
    assert describe(caught.value) == f"{tmp_path / 'frame.jpg'}: encoder failed"


def test_an_error_without_a_file_or_a_text_is_described_by_what_there_is():
    assert describe(OSError(errno.ENOSPC, "No space left on device")) == "No space left on device"
    assert describe(OSError("the library's own words")) == "the library's own words"
    assert describe(OSError(errno.EIO, "Input/output error", b"a\xff")) == "a\udcff: Input/output error"


def test_a_second_name_replaces_a_file_and_follows_links(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "source").write_text("new")
    (tmp_path / "folder/link").symlink_to("../source")
    (tmp_path / "target").write_text("old")
    link_or_copy(tmp_path / "folder/link", tmp_path / "target")
    assert (tmp_path / "target").samefile(tmp_path / "source")
    assert not (tmp_path / "target").is_symlink()
    link_or_copy(tmp_path / "source", str(tmp_path / "target"))  # two names of one file already
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder", "source", "target"]


def test_where_no_hard_link_is_possible_a_second_name_is_a_copy(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)
    (tmp_path / "source").write_text("bytes")
    link_or_copy(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_text() == "bytes"
    assert not (tmp_path / "target").samefile(tmp_path / "source")


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, (1 << 20) + 1, 3 << 20])
def test_the_digest_is_that_of_all_bytes(tmp_path, size):
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    assert sha256(tmp_path / "file") == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("raw", [b"plain", b"caf\xe9", b"\\xe9", b"\\\xff\\", "日本".encode(), b"\xf0\x9f\\x"])
def test_names_that_are_not_utf8_come_back_as_they_were(raw):
    name = os.fsdecode(raw)
    assert from_utf8(to_utf8(name)) == name
    to_utf8(name).encode("utf-8")


def test_how_a_name_that_is_not_utf8_is_written():
    assert to_utf8("caf\udce9\\") == r"caf\xe9\\"
    with pytest.raises(UnicodeEncodeError):
        to_utf8("\ud800")
