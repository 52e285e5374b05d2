"""NTU RGB+D's names and protocols, checked by its official lists."""

import json
import re

import pytest

from videofib.data.lists.splits import load_split
from videofib.data.video.decode import probe
from videofib.prep.items import PrepareError
from videofib.prep.sets import ntu

A, B = "S001C001P001R001A001", "S002C002P003R002A002"  # cameras 1 and 2, performers 1 (training) and 3 (testing)


def count(listing, split):
    return sum(split in video.splits for video in listing.videos)


@pytest.mark.parametrize(
    ("version", "protocol", "train", "test"),
    [(60, "xsub", 40320 - 40091, 16560 - 16487), (60, "xview", 37920 - 37646, 18960 - 18932)],
)
def test_official_lists_and_published_counts_agree(shared_data, empty, version, protocol, train, test):
    """Published counts of training and test samples, with and without those of missing skeletons."""
    lines = (shared_data / "annotations/ntu/NTU_RGBD_samples_with_missing_skeletons.txt").read_text().split()
    listing = ntu.plan(empty(*(f"{name}_rgb.avi" for name in lines)), version=version, protocol=protocol)
    assert (count(listing, "train"), count(listing, "test")) == (train, test)
    assert len(listing.videos) == 302
    assert listing.notes == {}


def test_the_list_of_version_120_is_of_its_setups_performers_and_actions(shared_data, empty):
    lines = (shared_data / "annotations/ntu/NTU_RGBD120_samples_with_missing_skeletons.txt").read_text().split()
    videos = empty(*(f"{name}_rgb.avi" for name in lines))
    assert len(ntu.plan(videos, version=120, protocol="xset").videos) == 535
    listing = ntu.plan(videos, version=60, protocol="xsub")
    assert (len(listing.videos), len(listing.notes["not_of_version_60"])) == (302, 233)


def test_official_numbers_of_training_performers():
    assert {version: len(subjects) for version, subjects in ntu.TRAINING_SUBJECTS.items()} == {60: 20, 120: 53}
    assert ntu.TRAINING_SUBJECTS[60] == {subject for subject in ntu.TRAINING_SUBJECTS[120] if subject <= 40}
    text = "1 2 4 5 8 9 13 14 15 16 17 18 19 25 27 28 31 34 35 38 45 46 47 49 50 52 53 54 55 56 57 58 59 70 74 78 80 81"
    text += " 82 83 84 85 86 89 91 92 93 94 95 97 98 100 103"
    assert sorted(ntu.TRAINING_SUBJECTS[120]) == [int(subject) for subject in text.split()]


@pytest.mark.parametrize(
    ("version", "protocol", "training"),
    [(60, "xsub", [A]), (120, "xsub", [A]), (60, "xview", [B]), (120, "xset", [B])],
)
def test_protocols(empty, version, protocol, training):
    videos = empty(f"nturgb+d_rgb/{A}_rgb.avi", f"small/{B}.mp4")
    listing = ntu.plan(videos, version=version, protocol=protocol)
    assert [video.name[:20] for video in listing.videos if video.splits == ("train",)] == training
    assert (count(listing, "train"), count(listing, "val"), count(listing, "test")) == (1, 1, 1)
    assert (len(listing.classes), listing.classes[-1]) == (version, f"A{version:03d}")
    assert [video.label for video in listing.videos] == ["A001", "A002"]
    assert listing.videos[0].source == videos / f"nturgb+d_rgb/{A}_rgb.avi"


def test_names_that_do_not_fit_are_named_and_nothing_else_is_listed(empty):
    videos = empty(
        *(f"{A}_rgb.avi", f"{A}_ir.avi", "S001C001P001R001A1_rgb.avi", f"x{A}.avi", f"{B}.txt"),
        *("S018C001P001R001A001_rgb.avi", "S001C004P001R001A001_rgb.avi", "S001C001P041R001A001.avi"),
        *("S001C001P001R001A061.avi", "S000C001P001R001A001.avi"),
    )
    (videos / "loop").symlink_to(videos)
    listing = ntu.plan(videos, version=60, protocol="xsub")
    assert [video.name for video in listing.videos] == [f"{A}.avi"]
    assert listing.notes["names_not_understood"] == [f"{A}_ir.avi", "S001C001P001R001A1_rgb.avi", f"x{A}.avi"]
    assert len(listing.notes["not_of_version_60"]) == 5


def test_samples_of_missing_skeletons_are_left_out(tmp_path, empty):
    videos = empty(f"{A}_rgb.avi", f"{B}_rgb.avi")
    file = tmp_path / "missing.txt"
    file.write_text(f"1 of the captured samples have missing data.\nPlease ignore it.\n\n{B}\r\n")
    listing = ntu.plan(videos, version=60, protocol="xsub", missing_skeletons=file)
    assert [video.name for video in listing.videos] == [f"{A}.avi"]
    assert listing.notes == {"left_out_for_missing_skeletons": [f"{B}_rgb.avi"]}
    file.write_text(f"{B}\n../x\n")
    with pytest.raises(PrepareError, match=r"missing\.txt:2: expected a sample .* got '\.\./x'"):
        ntu.plan(videos, version=60, protocol="xsub", missing_skeletons=file)
    file.write_text("nothing\n")
    with pytest.raises(PrepareError, match=r"missing\.txt lists no sample"):
        ntu.plan(videos, version=60, protocol="xsub", missing_skeletons=file)


def test_actions_by_their_official_names(shared_data, empty):
    file = shared_data / "annotations/ntu/label_map_ntu60.txt"
    listing = ntu.plan(empty(f"{B}.avi"), version=60, protocol="xsub", actions=file)
    assert (len(listing.classes), listing.classes[0]) == (60, "drink water")
    assert listing.videos[0].label == "eat meal-snack"
    with pytest.raises(PrepareError, match=r"60 actions; expected 120, one a line"):
        ntu.plan(empty(f"{B}.avi"), version=120, protocol="xsub", actions=file)


def test_actions_with_numbers_as_on_the_official_page(tmp_path, empty):
    file = tmp_path / "actions.txt"
    file.write_text("".join(f"A{number}. do {number} things. \n" for number in range(1, 121)))
    listing = ntu.plan(empty(f"{B}.avi"), version=60, protocol="xsub", actions=file)
    assert (listing.classes[0], listing.classes[-1]) == ("do 1 things", "do 60 things")
    file.write_text("sit\n" * 60)
    with pytest.raises(PrepareError, match=r"actions\.txt:2: the action 'sit' is listed twice"):
        ntu.plan(empty(f"{B}.avi"), version=60, protocol="xsub", actions=file)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (
            [f"{A}.avi"],
            {"version": 120, "protocol": "xview"},
            "--version 120 has the protocols xsub and xset, not xview",
        ),
        ([f"{A}.avi"], {"version": 60, "protocol": "xset"}, "--version 60 has the protocols xsub and xview, not xset"),
        ([f"a/{A}_rgb.avi", f"b/{A}.mp4"], {}, rf"{A} twice, as a/{A}_rgb\.avi and as b/{A}\.mp4; move one"),
        (["x.avi"], {}, r"named like S001C002P003R002A013_rgb\.avi .*names_not_understood: 1, such as x\.avi"),
        ([f"{A}.txt"], {}, r"no video under"),
    ],
)
def test_errors_name_the_option_or_the_file(empty, names, options, message):
    with pytest.raises(PrepareError, match=message):
        ntu.plan(empty(*names), **{"version": 60, "protocol": "xsub", **options})


def test_the_script(tmp_path, raw, run_script):
    raw(f"nturgb+d_rgb/{A}_rgb.avi", f"nturgb+d_rgb/{B}_rgb.avi", "nturgb+d_rgb/other.avi")
    printed = run_script(ntu, "--version", "60", "--protocol", "xview").stdout
    assert "2 of 2 listed videos (1 train, 1 val, 1 test) of 60 classes" in printed
    assert "names not understood: 1\n  nturgb+d_rgb/other.avi" in printed
    (train,), (test,) = load_split(tmp_path / "out", "train"), load_split(tmp_path / "out", "test")
    assert (train.video_id, train.label) == (f"videos/A002/{B}.mp4", 1)
    assert (test.video_id, test.label) == (f"videos/A001/{A}.mp4", 0)
    assert len(json.loads((tmp_path / "out/report.json").read_text())["absent_classes"]) == 58
    run_script(ntu, "--protocol", "xview", "--only-present-classes")
    assert (tmp_path / "out/classes.txt").read_text() == "A001\nA002\n"


def test_the_script_on_an_original_file(shared_data, tmp_path, run_script):
    source = shared_data / f"samples/ntu/{A}_rgb.avi"
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / source.name).symlink_to(source)
    actions = shared_data / "annotations/ntu/label_map_ntu60.txt"
    run_script(ntu, "--annotations", actions, "--short-side", "64")
    (train,) = load_split(tmp_path / "out", "train")
    assert train.video_id == f"videos/drink_water/{A}.mp4"
    assert train.num_frames == probe(source).num_frames == 103


def test_errors_end_the_script_in_one_line(empty, run_script):
    empty("x.avi")
    result = run_script(ntu, check=False)
    assert result.returncode == 1
    assert re.fullmatch(r"videofib prep ntu: no video under .*\n", result.stderr)
