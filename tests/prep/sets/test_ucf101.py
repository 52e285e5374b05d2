"""UCF101's official annotations, and the full command on real clips."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.commands import call
from videofib.commands.prep import main
from videofib.data.lists.manifest import read_manifest
from videofib.data.lists.splits import load_split
from videofib.prep.command import Listed, Listing, locate, read_splits
from videofib.prep.encode import write_video
from videofib.prep.items import PrepareError
from videofib.prep.sets import ucf101
from videofib.prep.verify import verify


@pytest.mark.parametrize(("split", "train", "test"), [(1, 9537, 3783), (2, 9586, 3734), (3, 9624, 3696)])
def test_official_counts(shared_data, split, train, test):
    listing = ucf101.read_annotations(shared_data / "annotations/ucf101/ucfTrainTestlist", split)
    assert len(listing.classes) == 101
    assert (listing.classes[0], listing.classes[-1]) == ("ApplyEyeMakeup", "YoYo")
    assert sum(video.splits == ("train",) for video in listing.videos) == train
    assert sum(video.splits == ("val", "test") for video in listing.videos) == test
    assert {video.label for video in listing.videos} == set(listing.classes)
    assert all(video.name.endswith(".avi") for video in listing.videos)  # no carriage return is left


def test_all_splits_are_listed_over_one_set_of_videos(shared_data):
    folder = shared_data / "annotations/ucf101/ucfTrainTestlist"
    listing = read_splits(ucf101.read_annotations, folder, "all")
    assert len(listing.videos) == 13320
    counts = Counter(name for video in listing.videos for name in video.splits)
    for number, train, test in ((1, 9537, 3783), (2, 9586, 3734), (3, 9624, 3696)):
        own = [counts[f"split{number}/{split}"] for split in ("train", "val", "test")]
        assert own == [train, test, test]
    assert read_splits(ucf101.read_annotations, folder, "2") == ucf101.read_annotations(folder, 2)


def test_the_lists_of_all_splits_find_the_videos_and_their_facts(shared_data, tmp_path):
    for name in ("Lunges/v_Lunges_g01_c01.avi", "Lunges/v_Lunges_g08_c01.avi"):
        (tmp_path / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "raw" / name).symlink_to(shared_data / "ucf101_5" / name)
    (tmp_path / "annotations").symlink_to(shared_data / "annotations/ucf101/ucfTrainTestlist")
    options = ("--short-side", "64", "--only-present-classes", "--split")
    assert "1 split1/train, 1 split1/val, 1 split1/test, 1 split2/train" in run(tmp_path, *options, "all").stdout
    out = tmp_path / "out"
    assert (out / "split2/classes.txt").read_text() == "Lunges\n"  # beside the lists, where training looks for it
    assert not (out / "train.csv").exists()
    for number, group in ((1, "g01"), (2, "g08")):
        (test,) = load_split(out / f"split{number}", "test")
        assert test.video_id == f"../videos/Lunges/v_Lunges_{group}_c01.mp4"
        assert (test.num_frames > 10, test.random_access, Path(test.path).is_file()) == (True, True, True)
    assert len(load_split(out / "split3", "train")) == 2
    assert verify(out, 1) == ([], 2)

    run(tmp_path, *options, "1")  # another choice in the same folder leaves nothing of the first
    assert not list(out.glob("split*"))
    assert verify(out, 1) == ([], 2)


def write_annotations(
    folder, class_ind="1 A\r\n2 B\r\n", train="A/v_A_g02_c01.avi 1\r\n", test="B/v_B_g01_c01.avi\r\n"
):
    folder.mkdir(exist_ok=True)
    for name, text in (("classInd.txt", class_ind), ("trainlist01.txt", train), ("testlist01.txt", test)):
        (folder / name).write_bytes(text.encode())
    return folder


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"class_ind": "0 A\r\n"}, r"classInd.txt:1: expected '1 ClassName'"),
        ({"class_ind": "1 A\r\n3 B\r\n"}, r"classInd.txt:2: expected '2 ClassName'"),
        ({"train": "A/x.avi 1\r\nA/y.avi 2\r\n"}, r"trainlist01.txt:2: 'A/y.avi 2' does not fit"),
        ({"train": "C/x.avi 1\r\n"}, r"trainlist01.txt:1"),
        ({"test": "A/v_A_g02_c01.avi\r\n"}, r"testlist01.txt:1: 'A/v_A_g02_c01.avi' is listed twice"),
    ],
)
def test_contradictions_name_file_and_line(tmp_path, files, message):
    with pytest.raises(PrepareError, match=message):
        ucf101.read_annotations(write_annotations(tmp_path / "annotations", **files), 1)


def test_a_missing_annotation_file_is_named(tmp_path):
    with pytest.raises(PrepareError, match=r"trainlist02\.txt cannot be read"):
        ucf101.read_annotations(write_annotations(tmp_path / "annotations"), 2)


def run(tmp_path, *options, check=True):
    paths = ["--annotations", tmp_path / "annotations", "--videos", tmp_path / "raw", "--out", tmp_path / "out"]
    return call(main, ["ucf101", *paths, "--jobs", "1", *options], check=check)


def test_the_script_on_real_clips_with_most_classes_absent(shared_data, tmp_path):
    raw = tmp_path / "raw"
    for name in ("Lunges/v_Lunges_g01_c01.avi", "Lunges/v_Lunges_g08_c01.avi", "WallPushups/v_WallPushups_g08_c01.avi"):
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).symlink_to(shared_data / "ucf101_5" / name)
    (tmp_path / "annotations").symlink_to(shared_data / "annotations/ucf101/ucfTrainTestlist")

    printed = run(tmp_path, "--short-side", "96").stdout
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert (report["listed"], report["prepared"], len(report["missing"])) == (13320, 3, 13317)
    assert report["splits"] == {"train": 2, "val": 1, "test": 1}
    assert len(report["absent_classes"]) == 99
    assert "missing: 13317" in printed
    assert "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi" in printed
    assert sorted(record.label for record in load_split(tmp_path / "out", "train")) == [51, 98]  # official, from 0
    assert len((tmp_path / "out/classes.txt").read_text().splitlines()) == 101

    run(tmp_path, "--short-side", "96", "--only-present-classes")
    assert (tmp_path / "out/classes.txt").read_text() == "Lunges\nWallPushups\n"
    assert sorted(record.label for record in load_split(tmp_path / "out", "train")) == [0, 1]
    rows = read_manifest(tmp_path / "out/manifest.parquet")
    assert {row.status for row in rows} == {"ok", "missing"}
    assert all(row.random_access and row.height == 96 for row in rows if row.status == "ok")


def test_hostile_names_are_refused_in_one_line(tmp_path):
    write_annotations(tmp_path / "annotations", train="../../A/v_A_g02_c01.avi 1\r\n")
    (tmp_path / "raw").mkdir()
    result = run(tmp_path, check=False)
    assert result.returncode == 1
    assert "'../../A/v_A_g02_c01.avi' is refused" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_wrong_folders_are_reported_in_one_line(tmp_path):
    write_annotations(tmp_path / "annotations")
    assert "is not a folder" in run(tmp_path, check=False).stderr
    (tmp_path / "raw").mkdir()
    assert "right --videos" in run(tmp_path, check=False).stderr


def test_a_video_is_never_taken_from_the_folder_of_another_class(tmp_path):
    frames = [np.zeros((16, 16, 3), np.uint8)] * 3
    for name in ("raw/sit/x.mp4", "raw/part1/y.mkv", "raw/air_drumming/z.mp4", "raw/sit/w.avi", "raw/sit/w.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    write_video(tmp_path / "raw/sit/x.mp4", frames, 25)
    (tmp_path / "raw/loop").symlink_to(tmp_path / "raw")
    videos = [
        Listed(name, label, ("train",))
        for name, label in [
            ("stand/x.avi", "stand"),
            ("sit/x.avi", "sit"),
            ("stand/y.avi", "stand"),
            ("air drumming/z.mp4", "air drumming"),
            ("sit/w.mp4", "sit"),
        ]
    ]
    listing = Listing(videos, ["sit", "stand", "air drumming"])
    items, _, _ = locate(listing, tmp_path / "raw", only_present_classes=False)
    found = [item.source and str(item.source.relative_to(tmp_path / "raw")) for item in items]
    assert found == [None, "sit/x.mp4", "part1/y.mkv", "air_drumming/z.mp4", "sit/w.mp4"]
