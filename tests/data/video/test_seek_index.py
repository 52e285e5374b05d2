"""Where decoding may start in a video: the arithmetic, by hand."""

import pytest

from videofib.data.video.clock import Stored
from videofib.data.video.seek_index import build


def video(times, keys, hidden=()):
    return [Stored(time, number in keys, number not in hidden) for number, time in enumerate(times)]


#                 0  1  2  3 |4  5  6  7 |8  9      packet 4 opens a group that refers to the one before
OPEN_AND_CLOSED = video([0, 3, 1, 2, 6, 4, 5, 7, 8, 9], {0, 4, 8})


def test_the_drawn_example():
    index = build(OPEN_AND_CLOSED)
    assert list(index.times) == list(range(10))
    assert (list(index.entry_packets), list(index.entry_frames)) == ([0, 4, 8], [0, 6, 8])
    # (packet, frame) to enter at for every frame
    assert [index.entry(i) for i in range(10)] == [(0, 0)] * 6 + [(4, 6)] * 2 + [(8, 8)] * 2


def test_times_may_have_gaps_and_begin_anywhere():
    index = build(video([-500, 0, 1000, 1001], {0, 2}))
    assert list(index.times) == [-500, 0, 1000, 1001]
    assert [index.entry(i) for i in range(4)] == [(0, 0), (0, 0), (2, 2), (2, 2)]


def test_frames_that_an_edit_list_cuts_away_are_not_counted():
    index = build(video([-2, -1, 0, 1, 2], {0, 3}, hidden={0, 1}))
    assert list(index.times) == [0, 1, 2]
    assert [index.entry(i) for i in range(3)] == [(0, 0), (3, 1), (3, 1)]
    # a keyframe that is not shown cannot be checked, and is no entry
    assert build(video([-2, -1, 0, 1], {0, 1}, hidden={0, 1})).entry_packets.tolist() == [0]


@pytest.mark.parametrize(
    ("packets", "why"),
    [
        ([], "no packets"),
        (video([0, 1], {0, 1}, hidden={0, 1}), "none is shown"),
        (video([0, None, 2], {0}), "a time is unknown"),
        (video([0, 1, 1], {0}), "a time occurs twice"),
        (video([0, 1, 2], {1}), "frames before the first keyframe do not decode"),
        (video([2, 0, 1, 3], {0}), "frames shown before the first keyframe do not decode"),
        (video([0, 5, 3, 6], {0, 2}), "a keyframe is shown before a frame stored before it"),
        (video([0, 1, 2, 3, 0.5, 1.5], {0, 4}), "the clock goes back at a keyframe"),
        (video([0, 10, 11, 12, 9.5, 13], {0, 1}), "the clock goes back behind a keyframe, which it renumbers"),
        (video([*range(10), *range(100, 200), *range(10, 100)], {0, 10}), "a pause, then the clock goes back into it"),
    ],
)
def test_videos_whose_times_do_not_number_their_frames_have_no_index(packets, why):
    assert build(packets) is None, why
