"""Person crops: the right pixels, and errors that name video and key."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.commands import call
from tests.marked_videos import ORIENTATIONS, with_matrix, with_pixel_aspect
from videofib.commands.prep import main
from videofib.data.errors import DecodeError
from videofib.data.lists.manifest import read_manifest
from videofib.data.video.decode import read_frames
from videofib.prep.encode import write_video
from videofib.prep.items import Item, PrepareError
from videofib.prep.person_crops import cut_to_persons, read_boxes
from videofib.prep.transcode import Encoding, pixel_crop, transcode


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((2, 4, 12, 10), (2, 4, 12, 10)),
        ((2.5, 4.5, 11.5, 9.5), (2, 4, 12, 10)),  # outwards
        ((2, 4, 11, 9), (2, 4, 12, 10)),  # odd: right and down
        ((35, 15, 40, 20), (34, 14, 40, 20)),  # at the edge: left and up
        ((-9, -9, 99, 99), (0, 0, 40, 20)),
        ((-5.0, 3, 3, 5), (0, 3, 4, 5)),
    ],
)
def test_crops_have_even_integer_sides_within_the_frame(box, expected):
    assert pixel_crop(box, 40, 20) == expected


def test_a_crop_of_an_entire_frame_of_odd_size_loses_a_line():
    assert pixel_crop((0, 0, 99, 99), 41, 21) == (0, 0, 40, 20)
    assert pixel_crop((0, 0, 99, 99), 1, 1) == (0, 0, 1, 1)


def test_a_box_outside_is_refused():
    with pytest.raises(DecodeError, match=r"\[50, 0, 60, 10\] lies outside of the frame, which is 40x20"):
        pixel_crop((50, 0, 60, 10), 40, 20)


def test_one_box_and_the_union_of_many(tmp_path):
    boxes = {"a": [1, 2, 3.5, 4], "b.avi": [[0, 10, 20, 30, 40], [7, 5, 25, 28, 44]]}
    (tmp_path / "b.json").write_text(json.dumps(boxes))
    assert read_boxes(tmp_path / "b.json") == {"a": (1, 2, 3.5, 4), "b.avi": (5, 20, 30, 44)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], r"b\.json: expected an object"),
        ({"v": {}}, r"b\.json: 'v': expected a box or a list"),
        ({"v": []}, r"b\.json: 'v': expected a box or a list"),
        ({"v": [1, 2, 3]}, r"b\.json: 'v': expected \[x0, y0, x1, y1\], got \[1, 2, 3\]"),
        ({"v": [[0, 1, 2, 3, 4], [1, 2, 3, 4]]}, r"'v': box 2: expected \[frame, x0, y0, x1, y1\]"),
        ({"v": [1, 2, "3", 4]}, r"'v': expected"),
        ({"v": [1, 2, True, 4]}, r"'v': expected"),
        ({"v": [5, 2, 5, 4]}, r"'v': \[5, 2, 5, 4\] is not a box: x0 must be below x1"),
        ({"v": [0, 0, float("nan"), 4]}, r"'v': .* is not a box"),
        ({"v": [0, 0, float("inf"), 4]}, r"'v': .* is not a box"),
        ({"v": [[-1, 0, 0, 5, 5]]}, r"'v': box 1: frame -1 is not a frame number"),
        ({"v": [[float("nan"), 0, 0, 5, 5]]}, r"'v': box 1: frame nan is not a frame number"),
    ],
)
def test_invalid_boxes_are_reported_with_video_and_key(tmp_path, content, message):
    (tmp_path / "b.json").write_text(json.dumps(content))
    with pytest.raises(PrepareError, match=message):
        read_boxes(tmp_path / "b.json")


def items(*names):
    return [Item(name, 0, ("train",), Path(name)) for name in names]


def test_videos_are_found_by_name_and_the_others_are_reported(tmp_path):
    (tmp_path / "b.json").write_text(json.dumps({"a": [0, 0, 1, 1], "y/b.avi": [0, 0, 2, 2], "gone": [0, 0, 3, 3]}))
    cut, notes = cut_to_persons(items("x/a.avi", "x/b.avi", "y/b.avi"), tmp_path / "b.json")
    assert [item.crop for item in cut] == [(0, 0, 1, 1), None, (0, 0, 2, 2)]
    assert notes == {"without_person_crop": ["x/b.avi"], "person_crops_of_no_video": ["gone"]}
    (tmp_path / "b.json").write_text(json.dumps({"b": [0, 0, 1, 1]}))
    with pytest.raises(PrepareError, match=r"'b' matches x/b\.avi and y/b\.avi; use one of these as the key"):
        cut_to_persons(items("x/b.avi", "y/b.avi"), tmp_path / "b.json")
    (tmp_path / "b.json").write_text(json.dumps({"b": [0, 0, 1, 1], "x/b.avi": [0, 0, 1, 1]}))
    with pytest.raises(PrepareError, match=r"'x/b\.avi' is x/b\.avi, which has a box already"):
        cut_to_persons(items("x/b.avi"), tmp_path / "b.json")


def quarters(path):
    """A video whose quarters are black, dark, bright and white: left top, right top, left bottom, right bottom."""
    picture = np.repeat(np.kron([[20, 90], [160, 230]], np.ones((40, 60)))[..., None], 3, 2).astype(np.uint8)
    path.parent.mkdir(parents=True)
    write_video(path, [picture] * 5, 25)


def test_the_command_cuts_to_the_box_and_a_changed_box_is_done_again(tmp_path):
    quarters(tmp_path / "raw/c/v.mp4")
    words = ["folder", "--videos", tmp_path / "raw", "--out", tmp_path / "out", "--jobs", "1"]
    words += ["--person-crops", tmp_path / "b.json"]
    for box, size, grey in (([0, 41, 59, 79], (60, 38), 160), ([[3, 61, 0, 80, 20], [4, 70, 5, 99, 39]], (38, 40), 90)):
        (tmp_path / "b.json").write_text(json.dumps({"v": box}))
        call(main, words, check=True)
        (row,) = read_manifest(tmp_path / "out/manifest.parquet")
        assert (row.width, row.height) == size
        assert np.abs(read_frames(tmp_path / "out" / row.path, range(5)).astype(int) - grey).max() < 8
    (tmp_path / "b.json").write_text(json.dumps({"v": [500, 0, 510, 10]}))
    result = call(main, words)
    assert result.returncode == 1
    report = (tmp_path / "out/report.json").read_text()
    assert "c/v.mp4: the box [500.0, 0.0, 510.0, 10.0] lies outside of the frame, which is 120x80" in report
    result = call(main, [*words, "--codec", "copy"])
    assert "--person-crops cannot be used with --codec copy" in result.stderr


def test_boxes_are_those_of_the_upright_picture(shared_data, tmp_path):
    """Rotated by 90 degrees in the file; the right half of what is shown."""
    source = shared_data / "hostile/rotated_90.mp4"
    shown = read_frames(source, [0])[0]
    height, width = shown.shape[:2]
    box = (width // 2, 0, width, height)
    facts = transcode(source, tmp_path / "o.mp4", Encoding(short_side=0), crop=box)
    left, top, right, bottom = pixel_crop(box, width, height)
    assert (facts.width, facts.height) == (right - left, bottom - top)
    cut = read_frames(tmp_path / "o.mp4", [0])[0]
    assert np.abs(cut.astype(int) - shown[top:bottom, left:right]).mean() < 4


def test_boxes_count_stored_pixels_where_pixels_are_not_square(tmp_path):
    """A quarter turn to the right takes the left bottom quarter to the left top; 64:45 makes 60 pixels 85.3 high."""
    quarters(tmp_path / "raw/v.mp4")
    wide = with_pixel_aspect(tmp_path / "raw/v.mp4", tmp_path / "wide.mp4", "64/45", "64/45")
    turned = with_matrix(wide, tmp_path / "turned.mp4", ORIENTATIONS["turned right"][0])
    for source, box, size, grey in ((wide, (60, 0, 120, 40), (84, 40), 90), (turned, (0, 0, 40, 60), (40, 84), 160)):
        facts = transcode(source, tmp_path / "o.mp4", Encoding(short_side=0), crop=box)
        assert (facts.width, facts.height) == size
        assert np.abs(read_frames(tmp_path / "o.mp4", range(5)).astype(int) - grey).max() < 8
