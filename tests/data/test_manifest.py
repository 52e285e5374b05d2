"""List files, manifests and folders of classes."""

import os

import pytest

from videofib.data.manifest import (
    ManifestError,
    ManifestRow,
    load_split,
    read_folder,
    read_list,
    read_manifest,
    verified,
    write_list,
    write_manifest,
)

AWKWARD = ["a b/c d.mp4", "quote's,comma;semi.mp4", "(1)+!.avi", "ünï.mp4", " leading.mp4", "#hash.mp4"]


@pytest.mark.parametrize("separator", [" ", ",", "\t", ";"])
def test_list_keeps_awkward_names(tmp_path, separator):
    rows = [(name, label) for label, name in enumerate(AWKWARD)]
    write_list(tmp_path / "train.csv", rows, separator=separator)
    records = read_list(tmp_path / "train.csv", separator=separator)
    assert [(record.video_id, record.label) for record in records] == rows
    assert records[0].path == str(tmp_path / AWKWARD[0])


def test_names_that_are_not_utf8_survive(tmp_path):
    name = os.fsdecode(b"caf\xe9.mp4")
    write_list(tmp_path / "train.csv", [(name, 0)])
    write_manifest(tmp_path / "manifest.csv", [ManifestRow(name, 0, "train", num_frames=7)])
    assert b"caf\xe9.mp4 0" in (tmp_path / "train.csv").read_bytes()
    assert [(r.video_id, r.num_frames) for r in read_list(tmp_path / "train.csv")] == [(name, 7)]


def test_windows_line_ends_blank_lines_and_byte_order_mark(tmp_path):
    (tmp_path / "l.csv").write_bytes(b"\xef\xbb\xbfa.mp4 3\r\n\r\n   \r\nb c.mp4  1 \r\n")
    assert [(r.video_id, r.label) for r in read_list(tmp_path / "l.csv")] == [("a.mp4", 3), ("b c.mp4", 1)]


def test_paths_start_at_the_prefix_or_the_list(tmp_path):
    (tmp_path / "l.csv").write_text("x/a.mp4 0\n/abs/b.mp4 1\n")
    assert [r.path for r in read_list(tmp_path / "l.csv")] == [str(tmp_path / "x/a.mp4"), "/abs/b.mp4"]
    assert [r.path for r in read_list(tmp_path / "l.csv", prefix="/p")] == ["/p/x/a.mp4", "/abs/b.mp4"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4 0\nb.mp4\n", r"l\.csv:2: expected 'path label'"),
        ("a.mp4 0\nb.mp4 dog\n", r"l\.csv:2: label 'dog' is no class index"),
        ("a.mp4 -1\n", r"l\.csv:1: label '-1' is no class index"),
        ("a.mp4 0\n\nb.mp4 1\na.mp4 1\n", r"l\.csv:4: 'a\.mp4' is listed already, on line 1"),
        ("\n\n", "lists no video"),
    ],
)
def test_bad_lists_are_refused_with_the_line(tmp_path, text, message):
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(ManifestError, match=message):
        read_list(tmp_path / "l.csv")


def test_missing_list_is_named(tmp_path):
    with pytest.raises(ManifestError, match=r"no list file at .*nowhere\.csv"):
        read_list(tmp_path / "nowhere.csv")


@pytest.mark.parametrize("name", ["two\nlines.mp4", "trailing ", ""])
def test_names_a_list_cannot_hold_are_refused_and_nothing_is_written(tmp_path, name):
    with pytest.raises(ManifestError, match="cannot hold"):
        write_list(tmp_path / "l.csv", [("good.mp4", 0), (name, 1)])
    assert list(tmp_path.iterdir()) == []


def test_manifest_round_trip(tmp_path):
    rows = [
        ManifestRow('a "b", c.mp4', 1, "train", 50, 29.97, 96, 64, 1.668, "h264", True, 12345, "ok", "", "raw/a.avi"),
        ManifestRow("d.mp4", 0, "test", status="corrupt", reason="no frame decodes,\nreally"),
    ]
    write_manifest(tmp_path / "manifest.csv", rows)
    assert read_manifest(tmp_path / "manifest.csv") == rows
    assert (tmp_path / "manifest.csv").read_text().splitlines()[0] == (
        "path,label,split,num_frames,fps,width,height,duration,codec,random_access,size,status,reason,source"
    )


def test_bad_manifests_are_refused_with_the_line(tmp_path):
    file = tmp_path / "manifest.csv"
    write_manifest(file, [ManifestRow("a.mp4", 1, "train")])
    good = file.read_text()
    file.write_text(good.replace("a.mp4,1", "a.mp4,one"))
    with pytest.raises(ManifestError, match=r"manifest\.csv:2: .*one"):
        read_manifest(file)
    file.write_text(good.replace("fps", "rate"))
    with pytest.raises(ManifestError, match="lacks the columns fps"):
        read_manifest(file)
    with pytest.raises(ManifestError, match="status 'fine'"):
        write_manifest(file, [ManifestRow("a.mp4", 1, "train", status="fine")])


def test_manifest_beside_the_list_adds_what_is_known_until_the_file_is_replaced(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x" * 10)
    write_list(tmp_path / "train.csv", [("a.mp4", 0), ("new.mp4", 1)])
    row = ManifestRow("a.mp4", 0, "train", num_frames=50, fps=25.0, random_access=True, size=10)
    write_manifest(tmp_path / "manifest.csv", [row])
    known, new = read_list(tmp_path / "train.csv")
    assert (known.num_frames, known.fps, known.random_access, known.size) == (50, 25.0, True, 10)
    assert (new.num_frames, new.fps, new.random_access, new.size) == (None, None, False, None)
    assert verified(known) == known

    (tmp_path / "a.mp4").write_bytes(b"x" * 11)
    replaced = verified(known)
    assert (replaced.num_frames, replaced.fps, replaced.random_access) == (None, None, False)


def make_folder(root, tree):
    for name in tree:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def test_folder_of_classes(tmp_path):
    make_folder(tmp_path, ["run/b.AVI", "run/a.mp4", "eat/c.webm", "eat/notes.txt", ".cache/x.mp4", "stray.mp4"])
    (tmp_path / "eat/folder.mp4").mkdir()
    records, classes = read_folder(tmp_path)
    assert classes == ["eat", "run"]
    assert [(r.video_id, r.label) for r in records] == [("eat/c.webm", 0), ("run/a.mp4", 1), ("run/b.AVI", 1)]


def test_a_class_missing_from_one_split_does_not_shift_labels(tmp_path):
    make_folder(tmp_path, ["train/a/1.mp4", "train/b/1.mp4", "train/c/1.mp4", "val/a/2.mp4", "val/c/2.mp4"])
    assert [r.label for r in load_split(tmp_path, "train")] == [0, 1, 2]
    assert [r.label for r in load_split(tmp_path, "val")] == [0, 2]


def test_a_list_is_preferred_to_a_folder(tmp_path):
    make_folder(tmp_path, ["train/a/1.mp4"])
    write_list(tmp_path / "train.csv", [("elsewhere.mp4", 5)])
    assert [r.video_id for r in load_split(tmp_path, "train")] == ["elsewhere.mp4"]


def test_folders_that_hold_nothing_are_refused(tmp_path):
    with pytest.raises(ManifestError, match=r"neither the list file .*test\.csv nor the folder of classes .*test"):
        load_split(tmp_path, "test")
    with pytest.raises(ManifestError, match="no folder of classes"):
        read_folder(tmp_path / "nowhere")
    make_folder(tmp_path, ["a/readme.txt"])
    with pytest.raises(ManifestError, match="has no videos"):
        read_folder(tmp_path)
    with pytest.raises(ManifestError, match=r"\['a'\] that are not among"):
        read_folder(tmp_path, ["b"])
