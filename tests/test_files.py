"""A file that is replaced is the old one or the new one."""

import pytest

from videofib.files import replacing


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
