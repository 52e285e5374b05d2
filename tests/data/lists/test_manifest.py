"""List files, manifests and folders of classes."""

import os
import re
import subprocess
import sys
from dataclasses import replace

import pyarrow
import pytest
from pyarrow import parquet

from videofib.data.lists.manifest import (
    ManifestError,
    ManifestRow,
    read_folder,
    read_list,
    read_manifest,
    write_list,
    write_manifest,
)
from videofib.data.lists.record import verified
from videofib.data.lists.splits import load_split
from videofib.files import from_utf8, to_utf8

AWKWARD = ["a b/c d.mp4", "quote's,comma;semi.mp4", "(1)+!.avi", "ünï.mp4", " leading.mp4", "#hash.mp4"]


@pytest.mark.parametrize("separator", [" ", ",", "\t", ";"])
def test_list_keeps_awkward_names(tmp_path, separator):
    rows = [(name, label) for label, name in enumerate(AWKWARD)]
    write_list(tmp_path / "train.csv", rows, separator=separator)
    records = read_list(tmp_path / "train.csv", separator=separator)
    assert [(record.video_id, record.label) for record in records] == rows
    assert records[0].path == str(tmp_path / AWKWARD[0])


@pytest.mark.parametrize("folder", [b"plain", b"vid\xe9os"])
def test_names_that_are_not_utf8_survive(tmp_path, folder):
    name, folder = os.fsdecode(b"caf\xe9.mp4"), tmp_path / os.fsdecode(folder)
    folder.mkdir()
    row = ManifestRow(name, 0, "train", num_frames=7)
    write_list(folder / "train.csv", [(name, 0)])
    write_manifest(folder / "manifest.parquet", [row])
    assert b"caf\xe9.mp4 0" in (folder / "train.csv").read_bytes()
    assert [(r.video_id, r.num_frames) for r in read_list(folder / "train.csv")] == [(name, 7)]
    assert read_manifest(folder / "manifest.parquet") == [row]


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        (b"a/caf\xe9.mp4", r"a/caf\xe9.mp4"),
        (rb"a/caf\xe9.mp4", r"a/caf\\xe9.mp4"),  # a backslash in the name itself is another name
        (b"\\\xff\\x", r"\\\xff\\x"),
        ("ünï 東.mp4".encode(), "ünï 東.mp4"),
    ],
)
def test_every_file_name_has_one_form_in_the_manifest(raw, kept):
    assert to_utf8(os.fsdecode(raw)) == kept
    assert from_utf8(kept) == os.fsdecode(raw)


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
        ("a.mp4 0\nb.mp4 dog\n", r"l\.csv:2: label 'dog' is not a class index"),
        ("a.mp4 -1\n", r"l\.csv:1: label '-1' is not a class index"),
        ("a.mp4 0\n\nb.mp4 1\na.mp4 1\n", r"l\.csv:4: 'a\.mp4' is already listed on line 1"),
        ("", "lists no videos"),
        ("\n\n", "lists no videos"),
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
def test_names_a_list_cannot_contain_are_refused_and_nothing_is_written(tmp_path, name):
    with pytest.raises(ManifestError, match="cannot contain"):
        write_list(tmp_path / "l.csv", [("good.mp4", 0), (name, 1)])
    assert list(tmp_path.iterdir()) == []


ROW = ManifestRow("a.mp4", 1, "train", 50, 29.97, 1.668, 96, 64, "h264", 90, True, 12345, "0f" * 32, source="raw/a.avi")


def test_manifest_round_trip(tmp_path):
    rows = [
        replace(ROW, path='a "b", c.mp4', source=os.fsdecode(b"raw/\xff\\xff")),
        ManifestRow("d.mp4", 0, "test", status="corrupt", reason="no frame decodes,\nreally"),
    ]
    file = tmp_path / "manifest.parquet"
    write_manifest(file, rows)
    assert read_manifest(file) == rows
    names = "path label split num_frames fps duration width height codec rotation random_access size sha256"
    later = "status reason source dhash variable_rate mirrored clock_jumps"
    assert parquet.read_schema(file).names == [*names.split(), *later.split()]
    before = file.read_bytes()
    write_manifest(file, rows)
    assert file.read_bytes() == before  # no time, no random name
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": "fine"}, "row 2: 'b.mp4' has status 'fine'"),
        ({"path": "a.mp4"}, "row 2: 'a.mp4' occurs twice"),
        ({"label": -1}, "row 2: 'b.mp4' has {'label': -1}"),
        ({"fps": float("nan")}, "row 2: 'b.mp4' has {'fps': nan}"),
        ({"size": 2**63}, "row 2: 'b.mp4' has {'size': 9223372036854775808}"),
        ({"clock_jumps": -1}, "row 2: 'b.mp4' has {'clock_jumps': -1}"),
        ({"rotation": 45}, "row 2: 'b.mp4' has rotation 45"),
        ({"sha256": "xyz"}, "row 2: 'b.mp4' has sha256 'xyz'"),
        ({"dhash": "0f"}, "row 2: 'b.mp4' has dhash '0f'"),
        ({"source": "\ud800"}, "cannot contain"),
    ],
)
def test_values_that_are_not_allowed_are_not_written(tmp_path, change, message):
    with pytest.raises(ManifestError, match=message):
        write_manifest(tmp_path / "manifest.parquet", [ROW, replace(ROW, **{"path": "b.mp4", **change})])
    assert list(tmp_path.iterdir()) == []


def foreign(table, change):
    """A Parquet table that is not a manifest."""
    if change == "a column less":
        return table.drop_columns(["fps", "sha256"])
    if change == "another type":
        return table.set_column(1, "label", pyarrow.array(["one"]))
    if change == "a column twice":
        return table.append_column("size", pyarrow.array([1]))
    if change == "a null":
        return table.set_column(11, "size", pyarrow.array([None], pyarrow.int64()))
    return table.set_column(13, "status", pyarrow.array(["fine"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("a column less", "lacks the columns fps, sha256"),
        ("another type", "the column label holds string, expected int64"),
        ("a column twice", "the column size occurs twice"),
        ("a null", r"row 1: size is empty \(null\)"),
        ("a status", "row 1: 'a.mp4' has status 'fine'"),
    ],
)
def test_files_that_are_not_manifests_are_refused_with_file_and_column(tmp_path, change, message):
    file = tmp_path / "manifest.parquet"
    write_manifest(file, [ROW])
    parquet.write_table(foreign(parquet.read_table(file), change), file)
    with pytest.raises(ManifestError, match=message) as caught:
        read_manifest(file)
    assert str(file) in str(caught.value)


def test_manifests_of_earlier_versions_are_read_without_the_columns_added_since(tmp_path):
    file = tmp_path / "manifest.parquet"
    write_manifest(file, [replace(ROW, clock_jumps=3)])
    assert [row.clock_jumps for row in read_manifest(file)] == [3]
    parquet.write_table(parquet.read_table(file).drop_columns(["clock_jumps"]), file)
    assert read_manifest(file) == [ROW]


def test_columns_of_later_versions_are_ignored(tmp_path):
    file = tmp_path / "manifest.parquet"
    write_manifest(file, [ROW])
    parquet.write_table(parquet.read_table(file).append_column("new", pyarrow.array([[1, 2]])), file)
    assert read_manifest(file) == [ROW]


def test_manifests_of_versions_that_did_not_record_mirroring_are_read(tmp_path):
    file = tmp_path / "manifest.parquet"
    write_manifest(file, [ROW, replace(ROW, path="b.mp4", mirrored=True)])
    assert [row.mirrored for row in read_manifest(file)] == [False, True]
    parquet.write_table(parquet.read_table(file).drop_columns(["mirrored"]), file)
    assert read_manifest(file) == [ROW, replace(ROW, path="b.mp4")]


def test_a_damaged_manifest_is_refused_in_one_line_wherever_the_damage_is(tmp_path):
    file = tmp_path / "manifest.parquet"
    rows = [replace(ROW, path=f"{number}.mp4", size=number) for number in range(40)]
    write_manifest(file, rows)
    intact = file.read_bytes()
    damaged = [b"", b"path,label\na.mp4,0\n", *(intact[:length] for length in range(1, len(intact), 97))]
    damaged += [intact[:i] + bytes([intact[i] ^ 64]) + intact[i + 1 :] for i in range(0, len(intact), 61)]
    messages = []
    for number, content in enumerate(damaged):
        file.write_bytes(content)
        try:
            assert read_manifest(file) == rows, number  # a bit that does not matter, as in the writer's name
        except ManifestError as error:
            messages.append(str(error))
    assert len(messages) > len(damaged) / 2
    assert all(str(file) in message and "\n" not in message for message in messages)
    assert all("prepare" in message or "row" in message for message in messages)


def test_without_a_manifest_pyarrow_is_not_imported(tmp_path):
    write_list(tmp_path / "l.csv", [("a.mp4", 0)])
    script = "import sys; from videofib.data.lists import manifest; from videofib.data.loading import loader"
    script += f"; manifest.read_list({str(tmp_path / 'l.csv')!r})"
    script += "; sys.exit('pyarrow' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_manifest_adds_what_it_knows_until_the_file_is_replaced(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x" * 10)
    write_list(tmp_path / "train.csv", [("a.mp4", 0), ("new.mp4", 1)])
    row = ManifestRow("a.mp4", 0, "train", num_frames=50, fps=25.0, random_access=True, size=10)
    write_manifest(tmp_path / "manifest.parquet", [row])
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


def test_leftovers_of_archives_and_drives_shift_no_label(tmp_path):
    left = ["__MACOSX/walk/._a.mp4", "lost+found/b.mp4", "@eaDir/a.mp4", "walk/._a.mp4"]
    make_folder(tmp_path / "train", ["Run/b.mp4", "walk/a.mp4", *left])
    records = load_split(tmp_path, "train")
    assert [(record.video_id, record.label) for record in records] == [("Run/b.mp4", 0), ("walk/a.mp4", 1)]


def test_a_class_missing_from_one_split_does_not_shift_labels(tmp_path):
    make_folder(tmp_path, ["train/a/1.mp4", "train/b/1.mp4", "train/c/1.mp4", "val/a/2.mp4", "val/c/2.mp4"])
    assert [r.label for r in load_split(tmp_path, "train")] == [0, 1, 2]
    assert [r.label for r in load_split(tmp_path, "val")] == [0, 2]


def test_a_list_is_preferred_to_a_folder(tmp_path):
    make_folder(tmp_path, ["train/a/1.mp4"])
    write_list(tmp_path / "train.csv", [("elsewhere.mp4", 5)])
    assert [r.video_id for r in load_split(tmp_path, "train")] == ["elsewhere.mp4"]


def test_folders_without_videos_are_refused(tmp_path):
    with pytest.raises(
        ManifestError, match=r"neither the list file .*test\.csv nor a folder .*test with folders of classes"
    ):
        load_split(tmp_path, "test")
    with pytest.raises(ManifestError, match="no folder of classes"):
        read_folder(tmp_path / "nowhere")
    make_folder(tmp_path, ["a/readme.txt"])
    with pytest.raises(ManifestError, match="has no videos"):
        read_folder(tmp_path)
    with pytest.raises(ManifestError, match="'a' is not among the classes 'b'"):
        read_folder(tmp_path, ["b"])


def test_videos_with_several_classes(tmp_path):
    file = tmp_path / "train.csv"
    file.write_text("a, b.mp4 3,7,12\nc.mp4 5\n")
    first, second = read_list(file, multi_label=True)
    assert (first.video_id, first.label, first.classes) == ("a, b.mp4", 3, (3, 7, 12))
    assert (second.label, second.classes) == (5, (5,))
    with pytest.raises(
        ManifestError, match=r"train\.csv:1: label '3,7,12' is not a class index .* MODEL.LOSS_FUNC bce_logit"
    ):
        read_list(file)
    file.write_text("c.mp4 5\n")
    (record,) = read_list(file)
    assert record.classes == (5,)


@pytest.mark.parametrize(
    ("line", "separator", "message"),
    [
        ("a.mp4 3,x", " ", "train.csv:1: of '3,x': label 'x' is not a class index"),
        ("a.mp4 3,,4", " ", "of '3,,4': label '' is not a class index"),
        ("a.mp4 3,4,3", " ", "'3,4,3' names a class twice"),
        ("a.mp4 3, 4", " ", "no space may follow a comma: 'a.mp4 3,' '4'"),
        ("a.mp4,3", ",", "(DATA.PATH_LABEL_SEPARATOR) must be another character"),
    ],
)
def test_classes_that_cannot_be_read(tmp_path, line, separator, message):
    (tmp_path / "train.csv").write_text(line + "\n")
    with pytest.raises(ManifestError, match=re.escape(message)):
        read_list(tmp_path / "train.csv", separator=separator, multi_label=True)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize(
    "line",
    ["clip.mp4 0 3", "clip.mp4  0  3", "my clip.MKV 7 0 3", "clip 1.mp4 0 3", "a 2 b 10.avi 0 3", "clip.mp4\t0\t3"],
)
def test_labels_without_commas_between_them_are_not_part_of_the_path(line, multi_label, tmp_path):
    (tmp_path / "train.csv").write_text(f"{line}\n")
    with pytest.raises(
        ManifestError, match=r"train\.csv:1: '.*' is not a file; if .* separate labels by commas.*0,3\)"
    ):
        read_list(tmp_path / "train.csv", separator=line[-2], multi_label=multi_label)


def test_a_file_whose_name_ends_like_a_label_is_a_file(tmp_path):
    (tmp_path / "clip.mp4 0").touch()
    (tmp_path / "train.csv").write_text("clip.mp4 0 3\nnew 2.mp4 1\nfolder 5/2 1\nold.mp4 3/4.mp4 1\n")
    records = read_list(tmp_path / "train.csv")
    assert [(record.video_id, record.label) for record in records] == [
        ("clip.mp4 0", 3),
        ("new 2.mp4", 1),
        ("folder 5/2", 1),
        ("old.mp4 3/4.mp4", 1),
    ]


@pytest.mark.parametrize("text", ["0;3", "0,3", "0/3", "0|3"])
def test_several_labels_where_one_is_expected_name_their_separator(text, tmp_path):
    (tmp_path / "train.csv").write_text(f"clip.mp4 {text}\n")
    with pytest.raises(ManifestError, match=r"separate several by commas without spaces.*MODEL\.LOSS_FUNC bce_logit"):
        read_list(tmp_path / "train.csv")


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_every_quarter_turn_is_kept(tmp_path, rotation):
    rows = [ManifestRow("a.mp4", 0, "train", rotation=rotation)]
    write_manifest(tmp_path / "manifest.parquet", rows)
    assert read_manifest(tmp_path / "manifest.parquet") == rows
