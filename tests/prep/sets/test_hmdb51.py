"""HMDB51's 153 official files and its odd names."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.commands import call
from videofib.commands.prep import main
from videofib.data.lists.manifest import SPLITS
from videofib.data.lists.splits import load_split
from videofib.data.video.decode import probe
from videofib.prep.command import read_splits
from videofib.prep.items import PrepareError
from videofib.prep.sets import hmdb51

ODD = "(HQ)_Rock_Climbing_-_Free_Solo_Speed_Climb_-_Dan_Osman_climb_f_cm_np1_le_med_2.avi"


@pytest.mark.parametrize("split", [1, 2, 3])
def test_official_counts(shared_data, split):
    folder = shared_data / "annotations/hmdb51/testTrainMulti_7030_splits"
    listing = hmdb51.read_annotations(folder, split)
    assert len(listing.classes) == 51
    assert (listing.classes[0], listing.classes[-1]) == ("brush_hair", "wave")
    for label in listing.classes:
        own = [video for video in listing.videos if video.label == label]
        assert sum(video.splits == ("train",) for video in own) == 70
        assert sum(video.splits == ("val", "test") for video in own) == 30
    assert len(listing.videos) == 3570 + 1530
    assert all(video.name.endswith(".avi") for video in listing.videos)


def test_all_splits_together(shared_data):
    folder = shared_data / "annotations/hmdb51/testTrainMulti_7030_splits"
    listing = read_splits(hmdb51.read_annotations, folder, "all")
    counts = Counter(name for video in listing.videos for name in video.splits)
    assert counts == {
        f"split{number}/{split}": 3570 if split == "train" else 1530 for number in (1, 2, 3) for split in SPLITS
    }
    assert (
        len({video.name for video in listing.videos}) == len(listing.videos) == 6371
    )  # of 6766 files, some of which no split uses


def test_splits_that_contradict_each_other_are_refused(tmp_path):
    for number in (1, 2, 3):
        (tmp_path / f"wave_test_split{number}.txt").write_text("a.avi 1\n")
    (tmp_path / "run_test_split1.txt").write_text("b.avi 1\n")
    with pytest.raises(PrepareError, match="split 2 has other classes than split 1"):
        read_splits(hmdb51.read_annotations, tmp_path, "all")


def test_names_with_brackets_and_signs_are_found_and_prepared(shared_data, tmp_path):
    """These files are also the ones in which decord, after a seek, returns wrong frames."""
    annotations = tmp_path / "annotations"
    annotations.mkdir()
    raw = shared_data / "samples/hmdb51"
    names = {"climb": ODD, "golf": "Golf_Tips_-_Hit_The_Driver_300+_Yards!!!_golf_f_nm_np1_fr_med_0.avi"}
    for use, (label, name) in enumerate(names.items(), 1):
        (annotations / f"{label}_test_split3.txt").write_text(f"{name} {use} \nunused.avi 0 \n")
    words = ["hmdb51", "--annotations", annotations, "--split", "3", "--videos", raw, "--out", tmp_path / "out"]
    call(main, words, check=True)
    (train,), (test,) = load_split(tmp_path / "out", "train"), load_split(tmp_path / "out", "test")
    assert train.video_id == f"videos/climb/{Path(ODD).stem}.mp4"
    assert (train.label, test.label) == (0, 1)
    assert train.random_access
    assert test.random_access
    assert train.num_frames == probe(raw / "climb" / ODD).num_frames
    assert json.loads((tmp_path / "out/report.json").read_text())["missing"] == []


def test_a_folder_without_split_files_and_a_broken_line_are_named(tmp_path):
    with pytest.raises(PrepareError, match=r"no files \*_test_split1\.txt"):
        hmdb51.read_annotations(tmp_path, 1)
    (tmp_path / "wave_test_split1.txt").write_text("a.avi 1\nb.avi 7\n")
    with pytest.raises(PrepareError, match=r"wave_test_split1\.txt:2: expected"):
        hmdb51.read_annotations(tmp_path, 1)
