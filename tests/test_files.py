"""A file that is replaced is the old one or the new one."""

import pytest

from videofib.files import remove_partial, replacing


def test_the_name_appears_when_the_block_ends(tmp_path):
    file = tmp_path / "new folder" / "results.json"
    with replacing(file) as partial:
        partial.write_text("whole")
        assert not file.exists()
    assert file.read_text() == "whole"
    assert [entry.name for entry in file.parent.iterdir()] == ["results.json"]


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
