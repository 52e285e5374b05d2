"""Kinetics' csv files, and both ways of naming its clips."""

import shutil
from pathlib import Path

import pytest

from tests.commands import call
from videofib.commands.prep import main
from videofib.data.lists.manifest import SPLITS
from videofib.data.lists.splits import load_split
from videofib.prep.command import locate
from videofib.prep.items import PrepareError
from videofib.prep.sets import kinetics

HEADER = "label,youtube_id,time_start,time_end,split\n"


def test_official_counts(shared_data):
    listing = kinetics.read_annotations(shared_data / "annotations/kinetics400")
    assert len(listing.videos) == 19906
    assert len(listing.classes) == 400
    assert (listing.classes[0], listing.classes[-1]) == ("abseiling", "zumba")
    assert {video.splits for video in listing.videos} == {("val", "test")}  # the official test labels are not there
    assert listing.videos[0].name == "abseiling/0wR5jVB-WPk_000417_000427.mp4"
    assert listing.videos[0].stems == ("0wR5jVB-WPk_000417_000427", "0wR5jVB-WPk_417_427", "0wR5jVB-WPk")
    assert listing.notes == {"unlabelled_lists": [], "listed_twice": []}


def test_both_naming_schemes_and_all_kinds_of_folders(shared_data, tmp_path):
    source, raw = shared_data / "hostile/short_7frame.mp4", tmp_path / "raw"
    names = ["air_drumming/aaaaaaaaaaa.mp4", "air drumming/bbbbbbbbbbb_000010_000020.mkv", "-ccccccccc0.mp4"]
    names += ["train/yoga/ddddddddddd_000001_000011.mp4", "yoga/eeeeeeeeeee.mp4"]
    for name in names:
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, raw / name)
    annotations = tmp_path / "annotations"
    annotations.mkdir()
    rows = ["air drumming,aaaaaaaaaaa,3,13,train", "air drumming,bbbbbbbbbbb,10,20,validate"]
    (annotations / "a.csv").write_text(HEADER + "\n".join(rows), newline="")
    rows = ["yoga,-ccccccccc0,0,10,train", "yoga,ddddddddddd,1,11,val", "yoga,eeeeeeeeeee,5,15,test"]
    rows += ["yoga,fffffffffff,5,15,test", "yoga,eeeeeeeeeee,5,15,test"]
    (annotations / "b.csv").write_text(HEADER + "\r\n".join(rows), newline="")
    (annotations / "test.csv").write_text("youtube_id,time_start,time_end,split\nggggggggggg,0,10,test\n")
    words = ["kinetics", "--annotations", annotations, "--jobs", "2", "--videos", raw, "--out", tmp_path / "out"]
    printed = call(main, words, check=True).stdout

    ids = {split: [Path(record.video_id).stem for record in load_split(tmp_path / "out", split)] for split in SPLITS}
    assert ids == {
        "train": ["aaaaaaaaaaa_000003_000013", "-ccccccccc0_000000_000010"],
        "val": ["bbbbbbbbbbb_000010_000020", "ddddddddddd_000001_000011"],
        "test": ["eeeeeeeeeee_000005_000015"],
    }
    (test,) = load_split(tmp_path / "out", "test")
    assert (test.video_id, test.label) == ("videos/yoga/eeeeeeeeeee_000005_000015.mp4", 1)
    assert (tmp_path / "out/classes.txt").read_text() == "air drumming\nyoga\n"
    assert "missing: 1\n  yoga/fffffffffff_000005_000015.mp4" in printed
    assert "unlabelled lists: 1\n  test.csv" in printed
    assert "listed twice: 1\n  yoga/eeeeeeeeeee_000005_000015" in printed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,id\nyoga,x\n", "the header 'label,id' lacks youtube_id"),
        (HEADER + "yoga,abc,zero,10,train\n", r"k\.csv:2: expected label"),
        (HEADER + "yoga,abc,0,10,train\nyoga,abq,0,10,holdout\n", r"k\.csv:3: the split 'holdout' is none of train, "),
        (HEADER + "yoga,caf\xe9,0,10,train\n", r"k\.csv:2: not text in UTF-8; save it as UTF-8"),
        (HEADER + "yoga,abc,0\n", r"k\.csv:2: expected label"),
        (HEADER + "yoga,../../x,0,10,train\n", r"'\.\./\.\./x' is refused"),
        (HEADER, "no csv file of labelled clips"),
        ("\0\xff", "k.csv"),
    ],
)
def test_bad_files_are_named_with_the_line(tmp_path, text, message):
    (tmp_path / "k.csv").write_text(text, encoding="latin-1")
    with pytest.raises(PrepareError, match=message):
        kinetics.read_annotations(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(PrepareError, match=r"nowhere\.csv cannot be read"):
        kinetics.read_annotations(tmp_path / "nowhere.csv")


@pytest.mark.parametrize("word", ["validate", "Validation", "VAL", "valid", "dev"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_columns_splits_and_encodings_as_people_save_them(tmp_path, word, encoding):
    header = "Split, Youtube ID,LABEL ,time_start, time_end\n"
    (tmp_path / "k.csv").write_text(f"{header}{word},abc,caf\xe9,1,11\n", encoding=encoding)
    (video,) = kinetics.read_annotations(tmp_path).videos
    assert (video.name, video.splits) == ("caf\xe9/abc_000001_000011.mp4", ("val", "test"))


LISTED = "yoga/abc_000001_000011.mp4"


@pytest.mark.parametrize(
    "name",
    [
        "val/abc_1_11.mp4",
        "abc_000001_000011.mp4.mkv",
        "YOGA/abc_000001_000011.MKV",
        "abc_000001_000011.f137.mp4",
        "abc.f137.mp4.webm",
        "abc.Mp4",
        "ABC.mp4",
    ],
)
def test_a_clip_is_found_as_downloaders_name_it(tmp_path, name):
    assert found(tmp_path, name) == ([name], [])


def test_of_several_files_the_first_is_taken_and_the_others_are_reported(tmp_path):
    names = ["train/abc_000001_000011.mkv", "val/abc_000001_000011.mp4", "abc_000001_000011.f137.mp4"]
    assert found(tmp_path, *names) == (
        [names[1]],
        [f"{LISTED}: {names[1]} is taken, not {names[0]}, {names[2]}"],
    )
    (tmp_path / names[1]).unlink()
    assert found(tmp_path)[0] == [names[0]]


def test_ids_that_differ_in_case_are_two_videos(tmp_path):
    assert found(tmp_path, "AbC.mp4", more="yoga,AbC,5,15,val\n") == ([None, "AbC.mp4"], [])


def found(root, *names, more=""):
    """The files below root that are taken for a clip (and more), and the note about others."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "k.csv").write_text(f"{HEADER}yoga,abc,1,11,val\n{more}")
    items, _, notes = locate(kinetics.read_annotations(root / "k.csv"), root, only_present_classes=False)
    return [item.source and str(item.source.relative_to(root)) for item in items], notes["several_files"]
