"""The videos that words on a command line, folders and lists of paths name."""

import pytest

from videofib.data.errors import ManifestError
from videofib.data.lists.found import find_videos, read_paths


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_files_and_urls_are_taken_as_named_and_folders_give_their_videos(tmp_path):
    touch(
        tmp_path, "b/2.MP4", "b/1.webm", "b/below/3.avi", "b/notes.txt", "b/.hidden/4.mp4", "b/__MACOSX/5.mp4", "x.dat"
    )
    url, file, missing = "https://host/v.mp4", str(tmp_path / "x.dat"), str(tmp_path / "none.mp4")
    below = [str(tmp_path / "b" / name) for name in ("1.webm", "2.MP4", "below/3.avi")]
    assert find_videos([url, str(tmp_path / "b"), file, missing]) == [url, *below, file, missing]


def test_a_folder_without_videos_is_named(tmp_path):
    touch(tmp_path, "a/1.mp4", "b/notes.txt")
    with pytest.raises(ManifestError, match="b: no videos in this folder"):
        find_videos([str(tmp_path / "a"), str(tmp_path / "b")])


def test_paths_of_a_list_start_at_its_folder(tmp_path):
    (tmp_path / "list").write_bytes(b"\xef\xbb\xbfa b.mp4\r\n \n/abs/c.mp4\nhttps://host/v.mp4 1")
    paths = [str(tmp_path / "a b.mp4"), "/abs/c.mp4", "https://host/v.mp4 1"]
    assert read_paths(tmp_path / "list") == paths
    assert read_paths(str(tmp_path / "list")) == paths


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"a.mp4\0\n", "not a text file"), (b" \n\r\n", "lists no videos"), (b"", "lists no videos")],
)
def test_what_is_not_a_list_of_paths_is_refused(tmp_path, content, said):
    (tmp_path / "list").write_bytes(content)
    with pytest.raises(ManifestError, match=f"list:? {said}"):
        read_paths(tmp_path / "list")


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(ManifestError, match=r"none.*No such file"):
        read_paths(tmp_path / "none")


def test_a_list_with_labels_is_told_from_paths_with_blanks(tmp_path):
    file = tmp_path / "list"
    touch(tmp_path, "a b.mp4")
    file.write_text("missing\nlost.mp4 0\na b.mp4 3\n")
    with pytest.raises(ManifestError, match="the lines seem to be paths with labels, such as 'missing'"):
        read_paths(file)
    file.write_text("lost.mp4 0\na b.mp4\na b.mp4 3\n")  # one is there as it stands
    assert len(read_paths(file)) == 3
    file.write_text("gone.mp4 0\ngone.mp4 1\n")  # neither is
    assert len(read_paths(file)) == 2


@pytest.mark.parametrize("ending", ["", " 3"])
def test_names_that_are_too_long_are_kept_for_the_reader_to_report(tmp_path, ending):
    name = "9" * 5000 + ".mp4"
    (tmp_path / "paths.txt").write_text(f"{name}{ending}\n")
    assert read_paths(tmp_path / "paths.txt") == [f"{tmp_path}/{name}{ending}"]
    assert find_videos([name]) == [name]


def test_pictures_of_a_folder_are_videos_or_frames_of_them(tmp_path):
    for name in ("a/img_1.jpg", "a/img_2.jpg", "b/c/1.png", "b/notes.txt", "._b.jpg", "__MACOSX/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    each = [str(tmp_path / name) for name in ("a/img_1.jpg", "a/img_2.jpg", "b/c/1.png")]
    assert find_videos([str(tmp_path)]) == each
    assert find_videos([str(tmp_path), each[1]], frame_folders=True) == [
        *(str(tmp_path / name) for name in ("a", "b/c")),
        each[1],
    ]
    (tmp_path / "b/v.mp4").touch()
    assert (
        find_videos([str(tmp_path)]) == find_videos([str(tmp_path)], frame_folders=True) == [str(tmp_path / "b/v.mp4")]
    )
