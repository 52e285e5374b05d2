"""Lists and folders of classes whose videos are pictures or folders of frames."""

import numpy as np
import pytest

from videofib.data.errors import ManifestError
from videofib.data.lists.manifest import read_folder, read_list
from videofib.data.lists.mistakes import path_hint
from videofib.data.lists.splits import load_split


def listed(tmp_path, text, **options):
    (tmp_path / "train.csv").write_text(text)
    return read_list(tmp_path / "train.csv", **options)


@pytest.mark.parametrize("separator", [" ", ",", "\t"])
def test_rows_of_tsn_have_a_number_of_frames(separator, tmp_path):
    rows = [("some dir/v_a 1", 120, 3), ("v,b" if separator == " " else "v b", 7, 0), ("/abs/c", 1, 11)]
    text = "".join(f"{path}{separator}{count}{separator}{label}\n" for path, count, label in rows)
    records = listed(tmp_path, text, separator=separator, frame_counts=True)
    assert [(r.video_id, r.num_frames, r.label) for r in records] == rows
    assert records[0].path == str(tmp_path / rows[0][0])
    assert records[0].fps is None
    assert not records[0].random_access
    assert records.num_frames.tolist() == [120, 7, 1]


def test_rows_of_tsn_may_have_several_classes(tmp_path):
    records = listed(tmp_path, "a 12 3,7\nb 9 1\n", frame_counts=True, multi_label=True)
    assert [(r.video_id, r.num_frames, r.labels) for r in records] == [("a", 12, (3, 7)), ("b", 9, (1,))]


@pytest.mark.parametrize("line", ["v 3", "v 0 3", "v -1 3", "v 1.5 3", "v many 3", " 12 3", "v 99999999999 3"])
def test_a_row_without_a_number_of_frames_is_named(line, tmp_path):
    with pytest.raises(ManifestError, match=r"train\.csv:2: expected 'folder num_frames label' with"):
        listed(tmp_path, f"v_a 12 0\n{line}\n", frame_counts=True)


def test_a_folder_that_is_listed_twice_is_an_error_whatever_its_numbers(tmp_path):
    with pytest.raises(ManifestError, match=r"train\.csv:3: 'a' is already listed on line 1"):
        listed(tmp_path, "a 12 0\nb 12 0\na 13 1\n", frame_counts=True)


def test_numbers_of_frames_that_nobody_has_announced_are_guessed(tmp_path):
    assert path_hint("v_a 120") == "; if the number before the label is that of the frames in a folder, set " + (
        "DATA.FRAME_COUNTS True"
    )
    assert path_hint("v_a120") == ""
    assert [r.video_id for r in listed(tmp_path, "v_a 120 3\n")] == ["v_a 120"]  # a folder may have such a name


def test_pictures_without_labels_are_a_list(tmp_path):
    records = listed(tmp_path, "a b.jpg\nc.PNG\nd.mp4\n", needs_labels=False)
    assert [r.video_id for r in records] == ["a b.jpg", "c.PNG", "d.mp4"]
    assert not records.has_labels


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def test_folders_of_classes_may_hold_pictures(tmp_path):
    touch(tmp_path / "train", "b/2.jpg", "b/1.PNG", "a/x.webp", "a/notes.txt", "a/._x.webp", "a/sub/y.txt")
    records = load_split(tmp_path, "train")
    assert [(r.video_id, r.label) for r in records] == [("a/x.webp", 0), ("b/1.PNG", 1), ("b/2.jpg", 1)]


def test_folders_of_classes_may_hold_folders_of_frames(tmp_path):
    touch(tmp_path, "a/v1/img_1.jpg", "a/v2/img_1.jpg", "a/empty/notes.txt", "a/.hidden/1.jpg", "b/v1/1.png")
    records, classes = read_folder(tmp_path)
    assert classes == ["a", "b"]
    assert [(r.video_id, r.label) for r in records] == [("a/v1", 0), ("a/v2", 0), ("b/v1", 1)]
    assert all(r.seems_there() for r in records)


def test_beside_videos_pictures_are_thumbnails(tmp_path):
    touch(tmp_path, "a/v.mp4", "a/v.jpg", "b/w.jpg", "b/v1/1.png")
    assert [r.video_id for r in read_folder(tmp_path)[0]] == ["a/v.mp4"]


def test_pictures_and_folders_of_frames_together_are_an_error(tmp_path):
    touch(tmp_path, "a/v1/img_1.jpg", "b/w.jpg")
    with pytest.raises(ManifestError, match=r"such as b/w\.jpg, beside folders of frames, such as a/v1"):
        read_folder(tmp_path)


def test_facts_of_counts_are_as_long_as_the_list(tmp_path):
    facts = listed(tmp_path, "a 12 0\nb 9 1\n", frame_counts=True).facts
    assert {len(getattr(facts, name)) for name in facts.COLUMNS} == {2}
    assert np.array_equal(facts.num_frames, [12, 9])
