"""Frames come upright and with square pixels, whatever the file's marks, as the ffmpeg tool shows them."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from tests.marked_videos import (
    HEIGHT,
    ORIENTATIONS,
    WIDTH,
    plain_frames,
    scaled_by_filter,
    with_matrix,
    with_orientation_message,
    with_pixel_aspect,
    write_plain,
)
from videofib.data.video import decord_reader
from videofib.data.video.decode import probe, random_access_is_right, read_frames
from videofib.data.video.display import Display, read_display

BACKENDS = ("auto", "pyav", "decord")
SOME = [29, 3, 17, 3]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_plain(tmp_path_factory.mktemp("plain") / "a.mp4")


def matrix(a, b, c, d, unit=0x10000):
    return struct.pack("=9i", *(round(entry * unit) for entry in (a, b, 0, c, d, 0)), 0, 0, 0x40000000)


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_the_eight_orientations_are_those_that_numpy_makes(name):
    entries, turned = ORIENTATIONS[name]
    stored = np.arange(2 * 3 * 3).reshape(1, 2, 3, 3)
    for size in (1, 0.5, 20):  # a matrix that enlarges, too, only turns and mirrors
        display = read_display(matrix(*(size * entry for entry in entries)), None)
        assert np.array_equal(display.upright(stored[0]), turned(stored)[0])
        assert display.shown_size(2, 3) == turned(stored).shape[1:3]
        assert display.is_exact
        assert display.as_stored == (name == "as stored")


@pytest.mark.parametrize(
    ("entries", "display"),
    [
        ((0.77, 0.64, -0.64, 0.77), Display(0, is_exact=False)),  # 40 degrees to the right: less than half a quarter
        ((0.64, 0.77, -0.77, 0.64), Display(3, is_exact=False)),  # 50 degrees
        ((-0.94, 0.34, 0.34, 0.94), Display(0, mirrored=True, is_exact=False)),  # mirrored and 20 degrees
        ((1, 0, 0.5, 1), Display(0, is_exact=False)),  # shear
        ((1, 0.01, -0.01, 1), Display()),  # rounding
        ((0, 0, 0, 0), Display()),  # flattens the picture
        ((1, 0, 0, 0), Display()),
    ],
)
def test_other_matrices_count_as_the_nearest_orientation(entries, display):
    assert read_display(matrix(*entries), None) == display


def test_no_matrix_and_one_of_another_length_turn_nothing():
    assert read_display(None, None) == read_display(bytes(36), None) == read_display(b"abc", None) == Display()


@pytest.mark.parametrize(
    ("stated", "used"),
    [
        *((Fraction(text), Fraction(text)) for text in ("64/45", "8/9", "16/11", "2", "5", "1/5")),
        *((Fraction(text), 1) for text in ("1", "255/254", "100/101")),  # sizes rounded to even numbers
        *((Fraction(text), 1) for text in ("0", "1/1000", "10000", "501/100", "-4/3")),
        (None, 1),
    ],
)
def test_pixel_aspects_that_no_video_has_count_as_not_stated(stated, used):
    assert read_display(None, stated).pixel_aspect == used


def test_frames_are_stretched_before_they_are_turned():
    display = read_display(matrix(0, 1, -1, 0), Fraction(64, 45))
    assert display.shown_size(576, 720) == (1024, 576)
    assert read_display(None, Fraction(16, 11)).shown_size(576, 720) == (576, 1047)  # 1047.3
    assert read_display(None, Fraction(1, 5)).shown_size(16, 4) == (16, 1)


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_every_backend_applies_all_of_the_display_matrix(plain, tmp_path, name):
    entries, turned = ORIENTATIONS[name]
    path = with_matrix(plain, tmp_path / "a.mp4", entries)
    expected = turned(plain_frames(plain))
    info = probe(path)
    assert (info.height, info.width) == expected.shape[1:3]
    smaller = turned(read_frames(plain, SOME, short_side=HEIGHT // 2))
    for backend in BACKENDS:
        assert np.array_equal(read_frames(path, SOME, backend=backend), expected[SOME])
        if name != "as stored":  # decord's own frames differ a little when scaled
            assert np.array_equal(read_frames(path, SOME, backend=backend, short_side=HEIGHT // 2), smaller)
    stored = plain_frames(path)[0]
    by_info = np.rot90(stored[:, ::-1] if info.mirrored else stored, info.rotation // 90)
    assert np.array_equal(by_info, expected[0])  # what the manifest keeps is enough to show the stored frames


@pytest.mark.parametrize(("name", "axis"), [("mirrored_horizontally.mp4", 2), ("mirrored_vertically.mp4", 1)])
def test_mirrored_files_are_mirrored_and_not_turned(shared_data, name, axis):
    path = shared_data / "decoders" / name
    assert np.array_equal(read_frames(path, range(10)), np.flip(plain_frames(path), axis))


def test_decord_neither_seeks_nor_reads_where_it_would_show_frames_otherwise(plain, tmp_path, monkeypatch):
    """A manifest of an earlier version may claim the proof for such a file."""
    monkeypatch.setattr(decord_reader, "_open", lambda source: pytest.fail(f"decord opened {source}"))
    mirrored = with_matrix(plain, tmp_path / "mirrored.mp4", (-1, 0, 0, 1))
    wide = with_pixel_aspect(plain, tmp_path / "wide.mp4", "64/45")
    for path in (mirrored, wide):
        assert not random_access_is_right(path)
        frames = read_frames(path, SOME, backend="decord", random_access=True)
        assert np.array_equal(frames, read_frames(path, SOME, backend="pyav"))


@pytest.mark.parametrize(
    ("packets", "name"),
    [
        ([0], "transposed"),  # not repeated with later keyframes, from which seeking decodes
        ([0, 12, 24], "transposed"),
        ([12, 24], "as stored"),
        ([7], "as stored"),
    ],
)
def test_an_orientation_within_the_stream_is_that_of_the_first_frame(plain, tmp_path, packets, name):
    path = with_orientation_message(plain, tmp_path / "a.mp4", packets)
    with av.open(str(path)) as container:
        assert [number for number, frame in enumerate(container.decode(video=0)) if frame.rotation] == packets
    expected = ORIENTATIONS[name][1](plain_frames(plain))
    for backend in BACKENDS:
        for index in (0, 5, 12, 24, 29):
            assert np.array_equal(read_frames(path, [index], backend=backend), expected[[index]])


@pytest.mark.parametrize(
    ("codec", "container", "width"),  # 96 pixels times
    [
        ("64/45", "", 136),  # PAL, 16:9
        ("8/9", "", 85),  # NTSC, 4:3
        ("16/11", "16/11", 139),
        ("4/3", "16/9", 170),  # the container's mark precedes
        ("4/3", "1/1", 96),
        ("4/3", "0/1", 128),  # where it states none the codec's counts
        ("4/3", "1/0", 128),
        ("4/3", "1/1000", 96),
        ("4/3", "10000/1", 96),
    ],
)
def test_every_backend_makes_pixels_square(plain, tmp_path, codec, container, width):
    path = with_pixel_aspect(plain, tmp_path / "a.mp4", codec, container)
    expected = plain_frames(plain) if width == WIDTH else scaled_by_filter(path, f"{width}:{HEIGHT}")
    assert (probe(path).height, probe(path).width) == (HEIGHT, width)
    smaller = scaled_by_filter(path, f"{width // 2}:{HEIGHT // 2}")
    for backend in BACKENDS:
        frames = read_frames(path, SOME, backend=backend)
        assert np.abs(frames.astype(int) - expected[SOME]).max() <= 1
        if backend != "decord" or width != WIDTH:  # decord's own frames differ more when scaled
            frames = read_frames(path, SOME, backend=backend, short_side=HEIGHT // 2)
            assert np.abs(frames.astype(int) - smaller[SOME]).max() <= 1


def test_turned_mirrored_and_wide_at_once(plain, tmp_path):
    wide = with_pixel_aspect(plain, tmp_path / "wide.mp4", "64/45", "64/45")
    for name, (entries, turned) in ORIENTATIONS.items():
        path = with_matrix(wide, tmp_path / f"{name}.mp4", entries)
        expected = turned(scaled_by_filter(wide, f"136:{HEIGHT}"))
        for backend in BACKENDS:
            assert np.abs(read_frames(path, SOME, backend=backend).astype(int) - expected[SOME]).max() <= 1
