"""Folders of classes: what is listed, and that groups never straddle the split."""

import re
from collections import Counter

import pytest

from videofib.prep.prepare import PrepareError
from videofib.prep.sets.folder import read_root


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def names_of(items, split):
    return [item.name for item in items if split in item.splits]


def test_without_options_everything_is_for_training(tmp_path):
    touch(tmp_path, "b/2.mp4", "b/1.AVI", "a/x.webm", "a/note.txt", "stray.mp4", ".hidden/x.mp4")
    (tmp_path / "a/folder").mkdir()
    items, classes, notes = read_root(tmp_path)
    assert classes == ["a", "b"]
    assert [(item.name, item.label, item.splits) for item in items] == [
        ("a/x.webm", 0, ("train",)),
        ("b/1.AVI", 1, ("train",)),
        ("b/2.mp4", 1, ("train",)),
    ]
    assert sorted(notes["ignored"]) == ["a/folder", "a/note.txt", "stray.mp4"]


LEFTOVERS = [
    "__MACOSX/walk/._a.mp4",
    "lost+found/b.mp4",
    "@eaDir/walk/a.mp4",
    "walk/._a.mp4",
    "walk/@eaDir/a.mp4/x.jpg",
]


def test_leftovers_of_archives_and_drives_are_neither_classes_nor_videos(tmp_path):
    touch(tmp_path, "walk/a.mp4", "Run/b.mp4", *LEFTOVERS)
    items, classes, notes = read_root(tmp_path)
    assert classes == ["Run", "walk"]  # __MACOSX would come between them, and shift the label of walk
    assert [item.name for item in items] == ["Run/b.mp4", "walk/a.mp4"]
    assert notes["ignored"] == ["@eaDir", "__MACOSX", "lost+found", "walk/._a.mp4", "walk/@eaDir"]


def test_folders_beside_the_splits_are_reported(tmp_path):
    touch(tmp_path, "train/walk/a.mp4", "valid/walk/b.mp4")
    items, _, notes = read_root(tmp_path)
    assert [item.splits for item in items] == [("train",)]
    assert notes["ignored"] == ["valid"]


def test_without_groups_the_same_fraction_of_every_class_is_held_out(tmp_path):
    touch(tmp_path, *(f"{label}/{i}.mp4" for label, count in (("a", 10), ("b", 20)) for i in range(count)))
    items, _, _ = read_root(tmp_path, val_fraction=0.2)
    assert Counter(item.label for item in items if "val" in item.splits) == {0: 2, 1: 4}
    assert names_of(items, "val") == names_of(items, "test")
    assert not set(names_of(items, "val")) & set(names_of(items, "train"))
    assert names_of(read_root(tmp_path, val_fraction=0.2)[0], "val") == names_of(items, "val")
    assert names_of(read_root(tmp_path, val_fraction=0.2, seed=1)[0], "val") != names_of(items, "val")


def test_entire_groups_are_held_out(tmp_path):
    touch(tmp_path, *(f"{label}/v_g{g}_c{c}.mp4" for label in "abc" for g in range(10) for c in range(3)))
    items, _, _ = read_root(tmp_path, val_fraction=0.3, group_regex=r"_g(\d+)_")
    groups = {split: {re.search(r"_g\d+_", name)[0] for name in names_of(items, split)} for split in ("train", "val")}
    assert not groups["train"] & groups["val"]
    assert len(names_of(items, "val")) == 27


def test_two_people_of_weizmann_are_held_out(shared_data):
    items, classes, _ = read_root(shared_data / "weizmann", group_regex=r"^([a-z]+)_", val_groups=["moshe", "shahar"])
    assert len(classes) == 10
    assert (len(names_of(items, "train")), len(names_of(items, "test"))) == (70, 20)
    assert {re.match(r"\w+/([a-z]+)_", name)[1] for name in names_of(items, "val")} == {"moshe", "shahar"}


def test_a_divided_folder_keeps_its_division(tmp_path):
    touch(tmp_path, "train/a/1.mp4", "train/b/1.mp4", "val/b/2.mp4")
    items, classes, _ = read_root(tmp_path)
    assert classes == ["a", "b"]
    assert [(item.name, item.label, item.splits) for item in items] == [
        ("train/a/1.mp4", 0, ("train",)),
        ("train/b/1.mp4", 1, ("train",)),
        ("val/b/2.mp4", 1, ("val", "test")),
    ]
    touch(tmp_path, "test/c/3.mp4")
    items, classes, _ = read_root(tmp_path)
    assert classes == ["a", "b", "c"]
    assert names_of(items, "val") == ["val/b/2.mp4"]
    assert names_of(items, "test") == ["test/c/3.mp4"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_fraction": 1.5}, "--val-fraction is 1.5"),
        ({"val_groups": ["x"]}, "--val-groups needs --group-regex"),
        ({"val_groups": ["x"], "group_regex": "^(.)", "val_fraction": 0.5}, "cannot be used with --val-fraction"),
        ({"val_groups": ["x"], "group_regex": "^(.)"}, r"\['x'\] do not occur; the groups are \['1', '2'\]"),
        ({"val_fraction": 0.5, "group_regex": "^g"}, "does not match a/1.mp4"),
        ({"val_fraction": 0.5, "group_regex": "("}, "is not a regular expression"),
    ],
)
def test_options_that_do_not_apply_are_refused(tmp_path, options, message):
    touch(tmp_path, "a/1.mp4", "a/2.mp4")
    with pytest.raises(PrepareError, match=message):
        read_root(tmp_path, **options)


def test_unusable_folders_are_refused(tmp_path):
    with pytest.raises(PrepareError, match="no folders of classes"):
        read_root(tmp_path)
    touch(tmp_path, "train/a/1.mp4")
    with pytest.raises(PrepareError, match="is already divided"):
        read_root(tmp_path, val_fraction=0.5)
