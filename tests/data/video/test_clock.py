"""Clocks that jump: what counts as a jump, by hand, and what the readers say of real files."""

from itertools import accumulate, pairwise, repeat

import numpy as np
import pytest

from tests.clocks import constant, edited, jumping, numbers, phone, shown, write
from videofib.data.video.clock import Clock, Stored, ascending, in_order_of_time, presentation_order, read_clock
from videofib.data.video.decode import estimate, probe, random_access_is_right, read_frames


def stored(times, keys):
    return [Stored(time, number in keys) for number, time in enumerate(times)]


#                 0  1  2  3 |4  5  6  7 |8  9      packet 4 opens a group that refers to the one before
OPEN_AND_CLOSED = stored([0, 3, 1, 2, 6, 4, 5, 7, 8, 9], {0, 4, 8})


def test_frames_come_out_in_the_order_of_their_times_unless_the_clock_goes_back():
    assert presentation_order(OPEN_AND_CLOSED, 16) == list(range(10))
    # the drawing: two parts of seven and four frames
    parts = stored([0, 3, 1, 2, 6, 4, 5, 0, 3, 1, 2], {0, 7})
    assert presentation_order(parts, 16) == [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3]
    # without a keyframe it is noticed once more frames have come than a decoder holds back
    assert presentation_order(stored([5, 6, 7, 8, 2, 3, 4], {0}), 2) == [5, 6, 7, 8, 2, 3, 4]
    # or at once by the times of decoding
    facts = [Stored(time, number == 0, True, time) for number, time in enumerate([5, 6, 7, 8, 2, 3, 4])]
    assert presentation_order(facts, 16) == [5, 6, 7, 8, 2, 3, 4]
    assert presentation_order(stored([0, None, 2], {0}), 0) == [0, 2]
    assert presentation_order([Stored(0, True, False), Stored(1, False), Stored(2, False, False)], 0) == [1]


def test_storage_order_and_presentation_order():
    assert ascending(stored([0, 1, 1, 5], {0}))
    assert not ascending(OPEN_AND_CLOSED)
    assert not ascending(stored([0, None, 5], {0}))


def test_the_drawn_jumps():
    back, pause = [0, 1, 2, 3, 0, 1, 2, 3], [0, 1, 2, 3, 90, 91, 92]
    assert read_clock(back).jumps == read_clock(pause).jumps == 1
    assert list(read_clock(back).continuous(back)) == list(range(8))
    assert list(read_clock(pause).continuous(pause)) == list(range(7))


def test_frames_without_a_time_count_across_a_jump():
    clock = Clock(jumps=1, step=1.0, longest=30.0, furthest_back=0.0)
    assert list(clock.continuous([None, 5, None, 7, None, 1, 2])) == [None, 5, None, 7, None, 9, 10]


FILM = list(repeat(1 / 24, 100))
SCREEN = [1 / 30] * 20 + [3.0, 1 / 30, 0.5, 8.0]  # a cursor moves, then the screen stands still
PHONE = [0.033, 0.034, 0.041, 0.029, 0.066, 0.033]
SLIDES = [5.0, 8.0, 3.0, 12.0, 90.0, 6.0]


OVERFLOW = -(2**33) / 90000


@pytest.mark.parametrize(
    ("steps", "jumps", "why"),
    [
        (FILM, [], "a constant rate"),
        ([*FILM, 1 / 12, *FILM], [], "a frame is lost"),
        ([*FILM, 1.5, *FILM], [], "some frames are lost"),
        ([*FILM, 2.1, *FILM], [2.1], "the clock is set ahead"),
        ([*FILM, 5.0, *FILM], [5.0], "a pause"),
        ([*FILM, 5.0, *FILM, 40.0, *FILM, 3600.0, *FILM], [5.0, 40.0, 3600.0], "three pauses"),
        ([*FILM, -2.0, *FILM], [-2.0], "set back"),
        ([*FILM, -0.05, *FILM], [-0.05], "set back by little more than a frame"),
        ([*FILM, 1e5, -1e5, *FILM], [1e5, -1e5], "one wrong time"),
        ([*FILM, OVERFLOW, *FILM], [OVERFLOW], "33 bits overflow"),
        ([0.042, 0.041, 0.042] * 20, [], "times rounded to milliseconds"),
        (PHONE * 20, [], "a phone's variable rate"),
        ([*PHONE * 20, 7.0, *PHONE * 20], [7.0], "a phone's, and a pause"),
        (SCREEN * 5, [], "a screen recording, of which some frames are held for seconds"),
        ([*SCREEN * 5, 3600.0, *SCREEN], [3600.0], "a screen recording, and a break of an hour"),
        (SLIDES, [], "slides, one of them for 90 s"),
        ([1.0] * 30 + [20.0] + [1.0] * 30, [], "a time-lapse with one long frame"),
        ([60.0] * 30, [], "a frame a minute"),
        ([0.04, 0.04, 0.08, -0.04, 0.08, 0.04], [], "two neighbours have each other's time"),
        ([0.04, 0.0, *[0.08, 0.04, -0.08, 0.12, 0.04] * 9], [], "neighbours have each other's times, and two the same"),
        ([0.1] * 15 + [3.1] + [0.1] * 14, [], "a GIF that rests"),
        ([0.0] * 30, [], "times that say nothing"),
        ([], [], "one frame"),
        ([7.0], [], "two frames"),
    ],
)
def test_what_is_a_jump(steps, jumps, why):
    times = [0.0, *accumulate(steps)]
    clock = read_clock(times)
    assert clock.jumps == len(jumps), why
    across = [np.median(steps) if step in jumps else step for step in steps]
    assert list(clock.continuous(times)) == pytest.approx([0.0, *accumulate(across)], abs=1e-6), why


def test_frames_with_the_times_of_decoding_get_those_in_order():
    #        I  B  B  P  B  B  P  as they come out of an avi file, with the positions at which they are stored
    stated = [0, 2, 3, 1, 5, 6, 4, None]
    assert list(in_order_of_time(zip(stated, "abcdefgh", strict=True))) == [
        *zip([0, 1, 2, 3, 4, 5, 6, None], "abcdefgh", strict=True)
    ]
    long = [number ^ 1 for number in range(100)]
    assert [time for time, _ in in_order_of_time((time, "") for time in long)] == list(range(100))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("clocks")


def test_jumps_do_not_change_rate_length_or_frames(folder):
    for name, (path, jumps) in jumping(folder).items():
        info, stated = probe(path), estimate(path)
        assert [number for _, number in shown(path)] == list(range(60)), name
        assert (info.num_frames, info.fps, info.duration) == (60, pytest.approx(25), pytest.approx(2.4)), name
        assert (info.clock_jumps, info.variable_rate, info.damaged) == (jumps, False, ""), name
        assert (stated.num_frames, stated.fps, stated.times) == (60, pytest.approx(25), ()), name
        assert stated.clock.jumps == jumps, name
        for backend in ("auto", "pyav", "decord"):
            for indices in ([0, 29, 30, 59], [44, 20, 31], [59], [41], [26]):
                assert numbers(read_frames(path, indices, backend=backend)) == indices, (name, backend)
        # decord numbers frames by their times; a pause leaves their order, and there it may be right
        assert name.startswith("pause") or not random_access_is_right(path), name


def test_frames_that_an_edit_list_cuts_away_are_counted_nowhere(folder):
    for name, (path, expected, start) in edited(folder).items():
        count = len(expected)
        assert [number for _, number in shown(path)] == expected, name
        assert shown(path)[0][0] == pytest.approx(start), name
        info, stated = probe(path), estimate(path)
        assert (info.num_frames, info.fps, info.variable_rate) == (count, pytest.approx(25), False), name
        assert (stated.num_frames, stated.fps, stated.times) == (count, pytest.approx(25), ()), name
        assert info.clock_jumps == stated.clock.jumps == 0, name
        for backend in ("auto", "pyav", "decord"):
            assert numbers(read_frames(path, range(count), backend=backend)) == expected, (name, backend)
        if random_access_is_right(path):
            assert numbers(read_frames(path, range(count), backend="decord", random_access=True)) == expected, name


def test_the_times_of_a_trimmed_variable_rate_are_those_of_its_frames(folder):
    path = phone(folder)
    times = [time for time, _ in shown(path)]
    assert estimate(path).times == pytest.approx(times)
    assert probe(path).variable_rate
    assert estimate(path).fps == probe(path).fps == pytest.approx((len(times) - 1) / (times[-1] - times[0]))


def test_avi_and_asf_state_when_frames_are_decoded(shared_data, folder):
    path = write(folder / "many_b_frames.avi", constant(60), bframes=8)
    assert min(b[0] - a[0] for a, b in pairwise(shown(path))) < -4 / 25
    assert (probe(path).clock_jumps, probe(path).fps) == (estimate(path).clock.jumps, estimate(path).fps) == (0, 25)
    path = write(folder / "a.asf", constant(60), bframes=3)  # so does asf, and the first two have the same time
    assert (probe(path).clock_jumps, probe(path).fps) == (estimate(path).clock.jumps, estimate(path).fps) == (0, 25)
    path = shared_data / "samples/ucf101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi"  # its B-frames go back 54 times
    assert estimate(path).states_decoding_times
    assert (probe(path).clock_jumps, estimate(path).clock.jumps) == (0, 0)
    assert probe(path).fps == estimate(path).fps == pytest.approx(25)
