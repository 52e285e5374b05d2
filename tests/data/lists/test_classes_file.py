"""What the classes of a data set are called: ``classes.txt``, or its folders."""

import pytest

from videofib.data.errors import ManifestError
from videofib.data.lists.classes_file import read_class_names
from videofib.data.lists.shard_index import shard_class_names
from videofib.data.lists.splits import load_split, split_class_names


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
    (tmp_path / "classes.txt").write_bytes("jouer aux échecs, assis – 座る\n".encode() + b"caf\xe9\n")
    assert read_class_names(tmp_path / "classes.txt") == ["jouer aux échecs, assis – 座る", "caf\udce9"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"red\n\nblue\n", r"classes\.txt:2: blank line, which would shift the labels after it"),
        (b"\nred\n", r"classes\.txt:1: blank line"),
        (b"red\nblue\nred\n", r"classes\.txt: its classes have the name 'red' twice, at positions 0 and 2"),
        (
            "red\nblue\u2028green\n".encode(),
            r"classes\.txt: its classes have the name '.*', at position 1, with a line end",
        ),
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


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        *(("training", "valid", "testing"), ("Train", "VALIDATION", "Test"), ("TRAINING", "dev", "TESTING")),
        *(("train", "validate", "test"), ("train", "Val", "test")),
    ],
)
def test_folders_of_splits_have_the_names_that_preparation_knows(tmp_path, train, val, test):
    make_folder(tmp_path, f"{train}/run/1.mp4", f"{train}/walk/2.mp4", f"{val}/walk/3.mp4", f"{test}/eat/4.mp4")
    make_folder(tmp_path, "train.txt", "dev kit/run/5.mp4", ".test/run/6.mp4")
    found = {split: load_split(tmp_path, split) for split in ("train", "val", "test")}
    ids = {split: [(record.video_id, record.label) for record in records] for split, records in found.items()}
    assert ids == {
        "train": [("run/1.mp4", 1), ("walk/2.mp4", 2)],
        "val": [("walk/3.mp4", 2)],
        "test": [("eat/4.mp4", 0)],
    }
    assert all(split_class_names(tmp_path, split) == ["eat", "run", "walk"] for split in found)


def test_two_folders_of_one_split_are_refused_and_one_without_classes_is_none(tmp_path):
    make_folder(tmp_path, "train/run/1.mp4", "val/run/2.mp4", "dev/notes.txt", "Test/run.mp4")
    assert [record.video_id for record in load_split(tmp_path, "val")] == ["run/2.mp4"]
    with pytest.raises(
        ManifestError, match=r"no test split: neither the list file .*test\.csv nor a folder .*/test with"
    ):
        load_split(tmp_path, "test")
    make_folder(tmp_path, "dev/run/3.mp4")
    with pytest.raises(ManifestError, match="has dev and val, both the val split; join or remove one"):
        load_split(tmp_path, "val")


def test_folders_whose_names_look_the_same_are_one_class_across_splits_and_refused_within_one(tmp_path):
    composed, decomposed = "p\u00e9tanque", "pe\u0301tanque"
    make_folder(tmp_path, f"train/{composed}/1.mp4", "train/run/2.mp4", f"val/{decomposed}/3.mp4")
    assert len(split_class_names(tmp_path, "train")) == 2
    labels = {record.video_id[0]: record.label for record in load_split(tmp_path, "train")}
    assert [record.label for record in load_split(tmp_path, "val")] == [labels["p"]]
    make_folder(tmp_path, f"train/{decomposed}/4.mp4")
    with pytest.raises(ManifestError, match=r"class folders that cannot be used: have the name .* twice"):
        load_split(tmp_path, "train")


def test_a_folder_whose_name_has_a_line_end_is_no_class(tmp_path):
    make_folder(tmp_path, "train/run/1.mp4", "val/walk\u2028fast/2.mp4")
    with pytest.raises(
        ManifestError, match=r"cannot be used: they have the name 'walk.u2028fast', at position 1, with"
    ):
        load_split(tmp_path, "train")


def test_names_that_are_not_utf8_are_classes_and_videos(tmp_path):
    make_folder(tmp_path, "train/caf\udce9/\udcff.mp4", "train/run/1.mp4")
    assert split_class_names(tmp_path, "train") == ["caf\udce9", "run"]
    assert [record.path for record in load_split(tmp_path, "train")] == [
        *(f"{tmp_path}/train/{name}" for name in ("caf\udce9/\udcff.mp4", "run/1.mp4")),
    ]


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
