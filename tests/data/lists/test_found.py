"""Lists of paths without labels."""

import pytest

from videofib.data.errors import ManifestError
from videofib.data.lists.found import find_videos, read_paths


def test_paths_start_at_the_folder_of_the_list(tmp_path):
    (tmp_path / "paths.txt").write_text("a b.mp4\n\n/data/c.mp4\r\nhttps://x.test/d.mp4\n")
    assert read_paths(tmp_path / "paths.txt") == [f"{tmp_path}/a b.mp4", "/data/c.mp4", "https://x.test/d.mp4"]


@pytest.mark.parametrize("ending", ["", " 3"])
def test_names_that_are_too_long_are_kept_for_the_reader_to_report(tmp_path, ending):
    name = "9" * 5000 + ".mp4"
    (tmp_path / "paths.txt").write_text(f"{name}{ending}\n")
    assert read_paths(tmp_path / "paths.txt") == [f"{tmp_path}/{name}{ending}"]
    assert find_videos([name]) == [name]


def test_labels_are_noticed(tmp_path):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "paths.txt").write_text("a.mp4 0\n")
    with pytest.raises(ManifestError, match=r"seem to be paths with labels, such as 'a\.mp4 0'"):
        read_paths(tmp_path / "paths.txt")
