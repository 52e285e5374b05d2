"""What the classes of a data set are called: ``classes.txt``, or its folders."""

import pytest

from videofib.data.errors import ManifestError
from videofib.data.lists.classes_file import read_class_names
from videofib.data.lists.manifest import load_split, split_class_names
from videofib.data.lists.shard_index import shard_class_names


@pytest.mark.parametrize(
    "content",
    [
        b"red\ngreen\nblue\n",
        b"red\ngreen\nblue",
        b"red\r\ngreen\r\nblue\r\n",
        b"red\rgreen\rblue\r",
        b"\xef\xbb\xbfred\ngreen\nblue\n",
        b"red \n green\nblue\n\n  \r\n",
    ],
)
def test_line_i_names_label_i_however_lines_end(content, tmp_path):
    (tmp_path / "classes.txt").write_bytes(content)
    assert read_class_names(tmp_path / "classes.txt") == ["red", "green", "blue"]


def test_names_are_whole_lines_of_any_characters(tmp_path):
    (tmp_path / "classes.txt").write_bytes("jouer aux échecs, assis\u2028debout\n".encode() + b"caf\xe9\n")
    assert read_class_names(tmp_path / "classes.txt") == ["jouer aux échecs, assis\u2028debout", "caf\udce9"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"red\n\nblue\n", r"classes\.txt:2: blank line, which would shift the labels after it"),
        (b"\nred\n", r"classes\.txt:1: blank line"),
        (b"red\nblue\nred\n", r"classes\.txt: its classes have the name 'red' twice, at positions 0 and 2"),
        (b"", r"classes\.txt: names no classes"),
        (b"\r\n \r\n", r"classes\.txt: names no classes"),
        ("red\nblue\n".encode("utf-16"), r"classes\.txt: not a text file in UTF-8"),
    ],
)
def test_files_that_would_name_labels_wrongly_are_refused(content, message, tmp_path):
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(ManifestError, match=message):
        read_class_names(tmp_path / "classes.txt")


def make_folder(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_folders_of_all_splits_name_the_labels_of_each(tmp_path):
    make_folder(tmp_path, "train/run/1.mp4", "train/walk/1.mp4", "test/eat/1.mp4", "test/walk/2.mp4")
    for split in ("train", "test"):
        assert split_class_names(tmp_path, split) == ["eat", "run", "walk"]
    assert [record.label for record in load_split(tmp_path, "test")] == [0, 2]


def test_classes_txt_numbers_folders_too(tmp_path):
    make_folder(tmp_path, "test/run/1.mp4", "test/eat/1.mp4")
    (tmp_path / "classes.txt").write_text("walk\nrun\neat\n")
    assert split_class_names(tmp_path, "test") == ["walk", "run", "eat"]
    assert [(record.video_id, record.label) for record in load_split(tmp_path, "test")] == [
        ("run/1.mp4", 1),
        ("eat/1.mp4", 2),
    ]
    (tmp_path / "classes.txt").write_text("walk\nrun\n")
    with pytest.raises(ManifestError, match=r"test has class folders that .*'eat' is not among the classes"):
        load_split(tmp_path, "test")


def test_a_list_alone_names_nothing(tmp_path):
    make_folder(tmp_path, "train/run/1.mp4", "test.csv")
    assert split_class_names(tmp_path, "test") is None
    assert split_class_names(tmp_path, "val") is None
    assert split_class_names(tmp_path / "nowhere", "train") is None


def test_classes_beside_shards_are_read_from_folders_and_urls(tmp_path):
    for folder in (tmp_path, f"file://{tmp_path}"):
        assert shard_class_names(folder) is None
    (tmp_path / "classes.txt").write_text("red\nblue\n")
    for folder in (tmp_path, f"file://{tmp_path}"):
        assert shard_class_names(folder) == ["red", "blue"]
    (tmp_path / "classes.txt").write_text("red\n\nblue\n")
    with pytest.raises(ManifestError, match=r"^file://.*classes\.txt:2: blank line"):
        shard_class_names(f"file://{tmp_path}")
    with pytest.raises(ManifestError, match="the names of the classes are unknown: nosuch://"):
        shard_class_names("nosuch://bucket")
