"""Folders of classes: what is listed, and that groups never straddle the split."""

import re
from collections import Counter

import pytest

from videofib.prep.items import PrepareError
from videofib.prep.sets.folder import read_root


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            (root / name).mkdir()
        else:
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
    assert sorted(notes["ignored"]) == [".hidden", "a/folder", "a/note.txt", "stray.mp4"]


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


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train/w/a.mp4", "valid/w/b.mp4"], {"a": "train", "b": "val+test"}),
        (["training/w/a.mp4", "validation/w/b.mp4"], {"a": "train", "b": "val+test"}),
        (["Train/w/a.mp4", "TEST/w/b.mp4"], {"a": "train", "b": "val+test"}),
        (["TRAIN/w/a.mp4", "dev/w/b.mp4", "Testing/w/c.mp4"], {"a": "train", "b": "val", "c": "test"}),
        (["Test/w/a.mp4"], {"a": "val+test"}),
        (["train/w/person1/a.mp4", "val/w/person2/deep/b.mp4"], {"a": "train", "b": "val+test"}),
        (["w/g01/a.mp4", "run/g02/b.mp4", "run/c.mp4"], {"a": "train", "b": "train", "c": "train"}),
        (["train/a.mp4", "bus/b.mp4"], {"a": "train", "b": "train"}),  # vehicles
        (["train/w/a.mp4", "annotations/notes.json", "test/"], {"a": "train"}),
    ],
)
def test_splits_and_classes_are_found_as_people_call_and_nest_them(tmp_path, names, expected):
    items, _, notes = read_root(touch(tmp_path, *names))
    assert {item.source.stem: "+".join(item.splits) for item in items} == expected
    unused = {name.split("/")[0] for name in names} - {item.name.split("/")[0] for item in items}
    assert set(notes["ignored"]) == unused


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/w/a.mp4", "walk/b.mp4"], "has train, as if it were divided, beside walk, with videos, too"),
        (["train/w/a.mp4", "Training/w/b.mp4"], "has Training and train, both the train split; join or remove one"),
        (["train/a.mp4", "val/b.mp4"], "has videos directly in train, val; expected"),
        (["walk/train/a.mp4", "walk/test/b.mp4"], r"has splits below walk \(test, train\)"),
        (["data/train/walk/a.mp4"], r"has splits below data \(train\).*use --videos .*/data$"),
        (["videos/walk/a.mp4", "videos/run/b.mp4"], r"a single class, videos, .* 2 folders \(run, walk\).*/videos$"),
        (["train_256/walk/a.mp4", "val_256/walk/b.mp4"], "train_256, val_256, which look like splits; rename"),
        (["walk/a.zip", "run/b.zip", "run/c.zip", "note.txt"], "found 2 folders and 3 .zip, 1 .txt files"),
        (["walk/clip/1.jpg", "walk/clip/2.jpg"], "found 1 folders and 2 .jpg files"),
        (["a.mp4", "b.mp4"], "found 0 folders and 2 .mp4 files"),
    ],
)
def test_other_layouts_are_refused_with_what_was_found(tmp_path, names, message):
    with pytest.raises(PrepareError, match=message):
        read_root(touch(tmp_path, *names))


def test_a_folder_without_videos_is_reported_and_shifts_no_label(tmp_path):
    items, classes, notes = read_root(touch(tmp_path, "jump/", "kick/a.zip", "run/a.mp4", "walk/b.mp4"))
    assert classes == ["run", "walk"]
    assert [item.label for item in items] == [0, 1]
    assert notes == {"ignored": ["jump", "kick/a.zip"], "empty_classes": ["jump", "kick"]}


def test_links_are_followed_but_not_to_where_they_come_from(tmp_path):
    touch(tmp_path / "data", "run/a.mp4", "walk/b.mp4")
    touch(tmp_path / "elsewhere", "c.mp4")
    (tmp_path / "data/run/loop").symlink_to("..")  # walk is no part of run
    (tmp_path / "data/run/self").symlink_to(".")
    (tmp_path / "data/skip").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to("data")
    items, _, notes = read_root(tmp_path / "link")
    assert [item.name for item in items] == ["run/a.mp4", "skip/c.mp4", "walk/b.mp4"]
    assert notes["ignored"] == ["run/loop", "run/self"]


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
    with pytest.raises(PrepareError, match="found 0 folders and no files"):
        read_root(tmp_path)
    touch(tmp_path, "train/a/1.mp4")
    with pytest.raises(PrepareError, match="is already divided"):
        read_root(tmp_path, val_fraction=0.5)
