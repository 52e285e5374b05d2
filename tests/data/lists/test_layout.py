"""Lists with headers, quotes, names of classes and segments: read where that is clear, else refused in one line."""

import csv
import random

import pytest

from videofib.data.errors import ManifestError
from videofib.data.lists.layout import recognised
from videofib.data.lists.manifest import read_list
from videofib.data.lists.rows import ClassNames
from videofib.data.lists.splits import load_split, split_class_names


def rows(tmp_path, text, **options):
    """(id, path, label or labels) of the rows of a list of this text."""
    (tmp_path / "l.csv").write_text(text, encoding="utf-8", newline="")
    records = read_list(tmp_path / "l.csv", **options)
    start = f"{tmp_path}/"
    return [(r.video_id, r.path.removeprefix(start), r.labels or r.label) for r in records]


def refusal(tmp_path, text, **options):
    """The error of a list of this text, after its name."""
    with pytest.raises(ManifestError) as error:
        rows(tmp_path, text, **options)
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(f"{tmp_path / 'l.csv'}:")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", " "])
@pytest.mark.parametrize("separator", [" ", ",", "\t"])
def test_a_header_names_the_columns_in_any_order(delimiter, separator, tmp_path):
    for first, second in [("path", "label"), ("video_path", "class"), ("Filename", "TARGET"), ("file", "class_id")]:
        for line in (f"{first}{delimiter}{second}", f"\ufeff{first}{delimiter}{second}"):
            text = f"{line}\r\na.mp4{delimiter}3\r\n\r\nx/b.avi{delimiter}0\r\n"
            assert rows(tmp_path, text, separator=separator) == [("a.mp4", "a.mp4", 3), ("x/b.avi", "x/b.avi", 0)]
        text = f"{second}{delimiter}{first}\n3{delimiter}a.mp4\n0{delimiter}b c.mp4\n"
        assert rows(tmp_path, text, separator=separator) == [("a.mp4", "a.mp4", 3), ("b c.mp4", "b c.mp4", 0)]


def test_what_a_csv_writer_writes_is_read(tmp_path):
    rng = random.Random(0)
    paths = ["a.mp4", "a b.mp4", "a, b.mp4", 'say "hi".mp4', "x/ü,東.webm", "a;b|c.avi"]
    names = ["Archery", "Playing, guitar", "Rock climbing", 'the "wave"', "Zürich"]
    for turn in range(60):
        delimiter = rng.choice([",", ";", "\t", "|"])
        columns = rng.sample(["path", "label", "start", "end"], 4) if turn % 2 else rng.sample(["path", "label"], 2)
        table = [
            {"path": path, "label": rng.choice(names), "start": number, "end": number + 1.5}
            for number, path in enumerate(rng.choices(paths, k=8))
        ]
        if turn % 2 == 0:
            table = [dict(row) for row in {row["path"]: row for row in table}.values()]
        file = tmp_path / "l.csv"
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(
                stream, columns, delimiter=delimiter, extrasaction="ignore",
                quoting=rng.choice([csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC]),
            )  # fmt: skip
            writer.writeheader()
            writer.writerows(table)
        known = sorted({row["label"] for row in table})
        records = read_list(file)
        assert [r.path for r in records] == [f"{tmp_path}/{row['path']}" for row in table]
        assert [known[r.label] for r in records] == [row["label"] for row in table]
        moments = [r.segment and (r.segment.start, r.segment.end) for r in records]
        assert moments == [(row["start"], row["end"]) if turn % 2 else None for row in table]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,split,label\na,b,1\n", "1: the header 'path,split,label' has a column 'split', which is not known"),
        ("path,start,label\na,1,1\n", "1: the header 'path,start,label' has only one of start and end"),
        ("path,file,label\na,b,1\n", "1: the header 'path,file,label' has 'path' and 'file', which both mean path"),
        ("path,start_frame,end_time,label\n", "has seconds and frames; give start and end of segments in one of them"),
        ("path,label\na.mp4\n", "2: expected 'path,label', got 'a.mp4'"),
        ("path,label\na.mp4,3,7\n", "2: expected 'path,label', got 'a.mp4,3,7'; quote a text that has ',' in it"),
        ("label,path\nPlaying, guitar,a.mp4\n", "2: label 'Playing' is not a class index"),
        ("path,label\na.mp4,\n", "2: label '' is not a class index"),
        ("path,label\na.mp4,0\nb.mp4,x\n", "3: label 'x' is not a class index"),
        ("path,label\na.mp4,0\n\na.mp4,0\n", "4: 'a.mp4' is already listed on line 2"),
        ('path,label\n"a.mp4",0,1\n', "2: expected 'path,label', got '\"a.mp4\",0,1'"),
        ("path,start,end\na.mp4,1,2\n", "its rows have no label, only path, start, end; add one to each"),
    ],
)
def test_headers_and_rows_that_are_not_clear_are_refused(text, said, tmp_path):
    assert said in refusal(tmp_path, text)


def test_a_header_without_rows_lists_nothing(tmp_path):
    assert "lists no videos" in refusal(tmp_path, "path,label\n")


def test_quotes_around_a_file_that_is_called_so_are_a_part_of_its_name(tmp_path):
    text = '"a, b.mp4",0\nc.mp4,1\n'
    assert rows(tmp_path, text, separator=",")[0] == ("a, b.mp4", "a, b.mp4", 0)
    (tmp_path / '"a, b.mp4"').touch()
    assert rows(tmp_path, text, separator=",")[0] == ('"a, b.mp4"', '"a, b.mp4"', 0)
    text = 'c.mp4,1\n"d.mp4","0"\n'  # as only some cells are quoted
    assert rows(tmp_path, text, separator=",") == [("c.mp4", "c.mp4", 1), ("d.mp4", "d.mp4", 0)]


@pytest.mark.parametrize("separator", [" ", ",", "\t", ";", ", "])
def test_names_of_classes_may_have_the_separator_in_them_and_so_may_paths(separator, tmp_path):
    lines = [("a.mp4", "Playing guitar"), ("b c.mp4", "Archery"), ("d, e.MP4", "Rock, paper"), ("f.avi", "Archery")]
    text = "".join(f"{path}{separator}{name}\n" for path, name in lines)
    assert rows(tmp_path, text, separator=separator) == [
        (path, path, ["Archery", "Playing guitar", "Rock, paper"].index(name)) for path, name in lines
    ]


def test_folders_are_told_from_names_by_what_is_there(tmp_path):
    assert "label 'guitar' is not a class index" in refusal(tmp_path, "frames/v1 guitar\n")
    (tmp_path / "frames/v1").mkdir(parents=True)
    assert rows(tmp_path, "frames/v1 guitar\n") == [("frames/v1", "frames/v1", 0)]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Archry", "the nearest is 'Archery'"),
        ("archery", "the nearest is 'Archery'"),
        ("7", "they are ['Archery', 'Bowling']"),
        ("zzz", "they are ['Archery', 'Bowling']"),
        ("bell\x07", r"the class 'bell\x07' is not among"),
    ],
)
def test_an_unknown_class_is_named_with_its_row_and_the_nearest_one(name, said, tmp_path):
    known = ClassNames(["Archery", "Bowling"], "train.csv")
    text = f"a.mp4,Archery\n\nb.mp4,{name}\n"
    found = refusal(tmp_path, text, separator=",", classes=known)
    assert found.startswith("3: the class ")
    assert "is not among the 2 classes of train.csv" in found
    assert said in found


def test_numbers_among_names_are_refused(tmp_path):
    said = refusal(tmp_path, "a.mp4 Archery\nb.mp4 3\n")
    assert said.startswith("2: label '3' is a number, and that of line 1 is a name, 'Archery'")
    known = ClassNames(["Archery", "3"], "classes.txt")  # unless a class is called so
    assert [label for _, _, label in rows(tmp_path, "a.mp4 Archery\nb.mp4 3\n", classes=known)] == [0, 1]


def test_classes_are_those_of_the_train_list_sorted_and_of_the_classes_file_in_its_order(tmp_path):
    (tmp_path / "train.csv").write_text("a.mp4,b\nb.mp4,c\nc.mp4,a\nd.mp4,b\n")
    (tmp_path / "val.csv").write_text("e.mp4,c\n")
    (tmp_path / "test.csv").write_text("path;label\nf.mp4;b\n")
    for split, labels in (("train", [1, 2, 0, 1]), ("val", [2]), ("test", [1])):
        assert split_class_names(tmp_path, split, separator=",") == ["a", "b", "c"]
        assert load_split(tmp_path, split, separator=",").labels.tolist() == labels
    (tmp_path / "classes.txt").write_text("c\nb\na\n")
    assert load_split(tmp_path, "train", separator=",").labels.tolist() == [1, 0, 2, 1]
    assert load_split(tmp_path, "test", separator=",").labels.tolist() == [1]
    (tmp_path / "test.csv").write_text("f.mp4,d\n")
    with pytest.raises(ManifestError, match=r"test.csv:1: the class 'd' is not among the 3 classes of .*classes.txt"):
        load_split(tmp_path, "test", separator=",")


def test_names_beside_a_train_list_of_numbers_are_refused(tmp_path):
    (tmp_path / "train.csv").write_text("a.mp4 0\n")
    (tmp_path / "val.csv").write_text("b.mp4 Archery\n")
    with pytest.raises(ManifestError, match=r"val.csv names the classes .* and .*train.csv has numbers; name class i"):
        load_split(tmp_path, "val")


def test_names_of_several_classes(tmp_path):
    text = "a.mp4 Rock,Jazz\nb.mp4 Jazz\n"
    assert rows(tmp_path, text, multi_label=True) == [("a.mp4", "a.mp4", (1, 0)), ("b.mp4", "b.mp4", (0,))]
    assert "names a class twice" in refusal(tmp_path, "a.mp4 Rock,Rock\n", multi_label=True)
    header = 'path,label\na.mp4,"3,7"\n'
    assert rows(tmp_path, header, multi_label=True) == [("a.mp4", "a.mp4", (3, 7))]


@pytest.mark.parametrize("separator", [" ", ",", "\t"])
@pytest.mark.parametrize("label", ["3", "Playing guitar"])
def test_rows_of_segments(separator, label, tmp_path):
    lines = [["a b.mp4", "1.5", "4", label], ["a b.mp4", "4", "5.25", label], ["c.mp4", "0", "1e2", label]]
    text = "".join(separator.join(line) + "\n" for line in lines)
    number = 3 if label == "3" else 0
    assert rows(tmp_path, text, separator=separator, segments="seconds") == [
        ("a b.mp4#t=1.5,4", "a b.mp4", number),
        ("a b.mp4#t=4,5.25", "a b.mp4", number),
        ("c.mp4#t=0,100", "c.mp4", number),
    ]
    text = separator.join(["a b.mp4", "10", "25", label])
    ((name, path, _),) = rows(tmp_path, text, separator=separator, segments="frames")
    assert (name, path) == ("a b.mp4#frames=10,25", "a b.mp4")
    text = separator.join(["a b.mp4", "10", "25"])
    found = rows(tmp_path, text, separator=separator, segments="frames", needs_labels=False)
    assert found == [("a b.mp4#frames=10,25", "a b.mp4", -1)]
    assert "have no label" in refusal(tmp_path, text, separator=separator, segments="frames")


def test_a_header_states_the_unit_and_rows_without_moments_are_full_videos(tmp_path):
    text = "path,start_frame,end_frame,label\na.mp4,3,9,0\nb.mp4,,,1\n"
    assert rows(tmp_path, text) == [("a.mp4#frames=3,9", "a.mp4", 0), ("b.mp4", "b.mp4", 1)]
    assert rows(tmp_path, text, segments="frames")[0][0] == "a.mp4#frames=3,9"
    assert "has segments in frames, and DATA.SEGMENTS" in refusal(tmp_path, text, segments="seconds")
    plain = text.replace("_frame", "")
    assert rows(tmp_path, plain)[0][0] == "a.mp4#t=3,9"
    assert rows(tmp_path, plain, segments="frames")[0][0] == "a.mp4#frames=3,9"
    assert "has no start and end, and DATA.SEGMENTS" in refusal(tmp_path, "path,label\na.mp4,0\n", segments="frames")
    assert "end is empty" in refusal(tmp_path, "path,start,end,label\na.mp4,1,,0\n")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a.mp4 5 2 0", "2: start 5 is not before end 2 in 'a.mp4 5 2 0'"),
        ("a.mp4 2 2.0 0", "2: start 2 is not before end 2.0"),
        ("a.mp4 -1 2 0", "2: start '-1' is below 0"),
        ("a.mp4 nan 2 0", "2: start 'nan' is not a number of seconds"),
        ("a.mp4 0 inf 0", "2: end 'inf' is not a number of seconds"),
        ("a.mp4 0 1e400 0", "2: end '1e400' is more seconds than any video has"),
        ("a.mp4 2 0", "2: expected 'path start end label', got 'a.mp4 2 0'"),
        ("a.mp4 1 2 x", "2: label 'x' is not a class index"),
        ("a.mp4 0 1 0", "2: 'a.mp4#t=0,1' is already listed on line 1"),
        ("a.mp4 0.0 1.0 1", "2: 'a.mp4#t=0,1' is already listed on line 1"),
    ],
)
def test_segments_that_cannot_be_are_refused_with_their_row(line, said, tmp_path):
    assert refusal(tmp_path, f"a.mp4 0 1 0\n{line}\n", segments="seconds").startswith(said)


def test_half_frames_are_refused(tmp_path):
    said = refusal(tmp_path, "a.mp4 0.5 2 0\n", segments="frames")
    assert said.startswith("1: start '0.5' is no frame number: they are 0, 1, 2, ...")


def test_rows_may_be_repeated_where_that_is_asked_for_with_one_label(tmp_path):
    for text, options in [
        ("a.mp4 0\nb.mp4 1\na.mp4 0\na.mp4 0\n", {}),
        ("a.mp4 1 2 0\na.mp4 2 3 0\na.mp4 1 2 0\na.mp4 1.0 2 0\n", {"segments": "seconds"}),
        ("label,path\nx,a.mp4\nx,b.mp4\nx,a.mp4\nx,a.mp4\n", {}),
    ]:
        (tmp_path / "l.csv").write_text(text)
        records = read_list(tmp_path / "l.csv", repeats=True, **options)
        assert len(records) == 4
        assert records.repeats() == (2, 1)
        assert "is already listed on line" in refusal(tmp_path, text, **options)
    said = refusal(tmp_path, "a.mp4 0\nb.mp4 0\na.mp4 1\n", repeats=True)
    assert said.startswith("3: 'a.mp4' is already listed on line 1 with label 0, here with 1; rows that are repeated")
    said = refusal(tmp_path, "a.mp4 0,2\na.mp4 2,0\n", repeats=True, multi_label=True)
    assert "with label 0,2, here with 2,0" in said


def test_segments_count_their_own_frames(tmp_path):
    text = "path,start_frame,end_frame,label\na.mp4,3,9,0\na.mp4,0,100,0\nb.mp4,,,1\n"
    (tmp_path / "l.csv").write_text(text)
    assert read_list(tmp_path / "l.csv").num_frames.tolist() == [6, 100, 0]


def test_a_list_that_cannot_be_read_is_left_to_the_plain_reader(tmp_path):
    assert recognised(tmp_path / "none.csv", " ") is None
    (tmp_path / "l.csv").write_bytes(b"path,label\na\0,1\n")
    assert recognised(tmp_path / "l.csv", " ") is None
    (tmp_path / "l.csv").write_text('"' * 200_000 + "\n")  # quotes without end take no time
    assert recognised(tmp_path / "l.csv", ",") is None
