"""Diving48's JSON lists; no official files were available, so all are made here."""

import json

import pytest

from videofib.data.lists.splits import load_split
from videofib.prep.items import PrepareError
from videofib.prep.sets import diving48

WORDS = [["Back", f"{number}som", "NoTwis", "PIKE"] for number in range(48)]


def entry(name, label, start=0):
    return {"vid_name": name, "label": label, "start_frame": start, "end_frame": 100}


def write(folder, train=(("-a_00000", 0),), test=(("b_00001", 47),), vocabulary=None):
    folder.mkdir(exist_ok=True)
    for part, rows in (("train", train), ("test", test)):
        (folder / f"Diving48_V2_{part}.json").write_text(json.dumps([entry(*row) for row in rows]))
    if vocabulary is not None:
        (folder / "Diving48_vocab.json").write_text(json.dumps(vocabulary))
    return folder


def test_labels_count_from_0_and_the_vocabulary_names_them(tmp_path):
    listing = diving48.read_annotations(write(tmp_path, train=[("-a_00000", 0), ("c_00002", 7, 5)]))
    assert listing.classes == [f"{label:02d}" for label in range(48)]
    assert [(video.name, video.label, video.splits) for video in listing.videos] == [
        ("-a_00000.mp4", "00", ("train",)),
        ("c_00002.mp4", "07", ("train",)),
        ("b_00001.mp4", "47", ("val", "test")),
    ]
    assert listing.notes == {"do_not_start_at_frame_0": ["c_00002.mp4"]}
    listing = diving48.read_annotations(write(tmp_path, vocabulary=WORDS))
    assert listing.classes[47] == "Back_47som_NoTwis_PIKE"
    assert listing.videos[-1].label == "Back_47som_NoTwis_PIKE"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train": [("a", 48)]}, r"V2_train\.json: entry 1: label 48 is not from 0 to 47"),
        ({"train": [("a", True)]}, r"label True is not from"),
        ({"train": [("a", 1), ("a", 1)]}, r"V2_train\.json: entry 2: 'a\.mp4' is listed twice"),
        ({"test": [("-a_00000", 0)]}, r"V2_test\.json: entry 1: '-a_00000\.mp4' is listed twice"),
        ({"test": [("../x", 1)]}, r"V2_test\.json: entry 1: the name '\.\./x' is refused"),
        ({"test": [("\ud800", 1)]}, r"the name '\\ud800' is refused"),
        ({"vocabulary": WORDS[:-1]}, r"vocab\.json: expected a list of 48 classes"),
        ({"vocabulary": [*WORDS[:-1], WORDS[0]]}, r"vocab\.json: the class 'Back_0som_NoTwis_PIKE' is listed twice"),
        ({"vocabulary": [*WORDS[:-1], ["a/b"]]}, r"vocab\.json: class 47: the name 'a/b' is refused"),
    ],
)
def test_contradictions_name_file_and_entry(tmp_path, files, message):
    with pytest.raises(PrepareError, match=message):
        diving48.read_annotations(write(tmp_path, **files))


def test_a_missing_list_and_a_missing_key_are_named(tmp_path):
    write(tmp_path)
    (tmp_path / "Diving48_V2_train.json").write_text('[{"vid_name": "a", "label": 1}]')
    with pytest.raises(PrepareError, match=r"entry 1: expected an object with vid_name, label, start_frame"):
        diving48.read_annotations(tmp_path)
    (tmp_path / "Diving48_V2_train.json").unlink()
    with pytest.raises(PrepareError, match=r"Diving48_V2_train\.json cannot be read"):
        diving48.read_annotations(tmp_path)


def test_the_script(tmp_path, raw, run_script):
    raw("rgb/-a_00000.mp4", "rgb/b_00001.mp4")
    write(tmp_path / "annotations", vocabulary=WORDS)
    printed = run_script(diving48, "--annotations", tmp_path / "annotations").stdout
    assert "2 of 2 listed videos (1 train, 1 val, 1 test) of 48 classes" in printed
    (train,), (test,) = load_split(tmp_path / "out", "train"), load_split(tmp_path / "out", "test")
    assert (train.video_id, train.label) == ("videos/Back_0som_NoTwis_PIKE/-a_00000.mp4", 0)
    assert test.label == 47
