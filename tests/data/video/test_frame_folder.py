"""Which file of a folder is frame i: natural order, patterns, gaps and several series."""

import os
import random
import time

import pytest

from videofib.data.errors import DecodeError
from videofib.data.source import FrameFiles
from videofib.data.video.frame_folder import frame_names, natural_order


@pytest.fixture
def folder(tmp_path):
    def fill(*names):
        shuffled = list(names)
        random.Random(0).shuffle(shuffled)  # the order of a folder is not that of its names
        for name in shuffled:
            (tmp_path / name).write_bytes(b"")
        return tmp_path

    return fill


def test_frames_come_in_natural_order(folder):
    names = [f"img_{number}.jpg" for number in range(8, 113)]
    assert frame_names(folder(*names)) == names
    assert frame_names(folder(*names), FrameFiles("img_%d.jpg")) == names


def test_numbers_without_zeros_beyond_their_width_follow(folder):
    names = [f"{number:02d}.png" for number in range(98, 103)]
    assert frame_names(folder(*names)) == names == frame_names(folder(), FrameFiles("%02d.png"))


@pytest.mark.parametrize("pattern", ["", "img_%05d.jpg"])
def test_a_gap_is_an_error_that_names_its_neighbours(pattern, folder):
    path = folder("img_00001.jpg", "img_00002.jpg", "img_00005.jpg", "img_00006.jpg")
    with pytest.raises(DecodeError, match=r"frame 3 is missing between img_00002\.jpg and img_00005\.jpg.* \*\.jpg$"):
        frame_names(path, FrameFiles(pattern))


def test_a_wildcard_takes_what_it_matches_whatever_the_numbers(folder):
    path = folder("img_5.jpg", "img_10.jpg", "img_100.jpg", "flow_x_1.jpg", "notes.txt", "img_7.txt")
    assert frame_names(path, FrameFiles("img_*.jpg")) == ["img_5.jpg", "img_10.jpg", "img_100.jpg"]
    assert frame_names(path, FrameFiles("*")) == ["flow_x_1.jpg", "img_5.jpg", "img_10.jpg", "img_100.jpg"]


def test_several_series_are_an_error_unless_a_pattern_names_one(folder):
    names = [f"{kind}_{number:05d}.jpg" for kind in ("flow_x", "flow_y", "img") for number in (1, 2, 3)]
    path = folder(*names)
    with pytest.raises(DecodeError, match=r"pictures of several series \(flow_x_\.\.\., flow_y_\.\.\., img_\.\.\.\)"):
        frame_names(path)
    assert frame_names(path, FrameFiles("img_%05d.jpg")) == names[-3:]
    with pytest.raises(DecodeError, match="several series"):  # one has no number
        frame_names(folder("cover.jpg"))


def test_the_last_number_of_a_name_counts(folder):
    names = [f"cam2_take{number}b.png" for number in (1, 2, 3)]
    assert frame_names(folder(*names)) == names


def test_names_without_numbers_are_in_alphabetical_order(folder):
    assert frame_names(folder("b.jpg", "a.jpg", "c.jpg")) == ["a.jpg", "b.jpg", "c.jpg"]


@pytest.mark.parametrize("names", [("img_1.jpg", "img_01.jpg"), ("img_1.jpg", "img_1.png")])
def test_a_number_that_is_there_twice_is_an_error(names, folder):
    with pytest.raises(DecodeError, match="have the same number"):
        frame_names(folder(*names))


def test_other_files_and_hidden_ones_are_no_frames(folder):
    path = folder("1.JPG", "2.jpg", "._1.jpg", "Thumbs.db", "labels.txt")
    assert frame_names(path) == ["1.JPG", "2.jpg"]


def test_a_folder_without_frames_says_what_was_looked_for(folder, tmp_path):
    path = folder("a.txt")
    with pytest.raises(DecodeError, match=r"a directory without pictures \(\.jpg"):
        frame_names(path)
    with pytest.raises(DecodeError, match=r"without pictures named like 'img_%05d\.jpg'"):
        frame_names(path, FrameFiles("img_%05d.jpg"))
    with pytest.raises(DecodeError, match="No such file"):
        frame_names(tmp_path / "absent")


def test_a_pattern_means_what_printf_writes(folder):
    folder("img_1.jpg", "img_0001.jpg", "img_00002.jpg", "img_00001.jpg", "img_123456.jpg", "xximg_00001.jpg")
    path = folder()
    with pytest.raises(DecodeError, match="frame 3 is missing"):  # 123456 has five digits at least
        frame_names(path, FrameFiles("img_%05d.jpg"))
    (path / "img_123456.jpg").unlink()
    assert frame_names(path, FrameFiles("img_%05d.jpg")) == ["img_00001.jpg", "img_00002.jpg"]


@pytest.mark.parametrize("pattern", ["a.jpg", "a_%s.jpg", "%d_%d.jpg", "%5d.jpg", "../a_%05d.jpg", "a\0%d", "100%"])
def test_what_is_no_pattern_is_refused(pattern):
    with pytest.raises(ValueError, match="of frames"):
        FrameFiles(pattern)


def test_numbers_of_any_length_have_an_order():
    names = ["a", "a1", "a01", "a2b10", "a2b9", "1", "10", "2", "9" * 200, "", "a-1"]
    assert sorted(names, key=natural_order) == ["", "1", "2", "10", "9" * 200, "a", "a01", "a1", "a2b9", "a2b10", "a-1"]


def test_names_are_kept_until_the_folder_changes(folder, monkeypatch):
    path, listed = folder("1.jpg", "2.jpg"), []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda name: listed.append(name) or scandir(name))
    for _ in range(2):
        frame_names(path)
    assert len(listed) == 2  # it has just been written
    past = time.time() - 100
    os.utime(path, (past, past))
    for _ in range(3):
        assert frame_names(path) == ["1.jpg", "2.jpg"]
    assert len(listed) == 3
    with pytest.raises(DecodeError):
        frame_names(path, FrameFiles("%03d.jpg"))
    folder("3.jpg")
    assert frame_names(path) == ["1.jpg", "2.jpg", "3.jpg"]
    os.utime(path, (past, past))
    (path / "1.jpg").rename(path / "4.jpg")
    os.utime(path, (past, past))  # as before, but for the time of its entry
    assert frame_names(path) == ["2.jpg", "3.jpg", "4.jpg"]
