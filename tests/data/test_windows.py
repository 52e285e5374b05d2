"""Where windows lie: worked by hand, and over awkward lengths."""

import itertools

import pytest

from videofib.data.windows import window_starts


@pytest.mark.parametrize(
    ("length", "clip", "stride", "starts"),
    [
        (12, 6, 3, [0, 3, 6]),  # the last window ends with the video
        (13, 6, 3, [0, 3, 6, 7]),  # one more does
        (6, 6, 3, [0]),
        (5, 6, 3, [0]),
        (1, 0.5, 0.25, [0, 0.25, 0.5]),
        (10, 4, 4, [0, 4, 6]),
    ],
)
def test_by_hand(length, clip, stride, starts):
    assert window_starts(length, clip, stride) == pytest.approx(starts)


def test_every_frame_is_in_a_window():
    for length in range(1, 60):
        for clip in (1, 2.5, 7.992, 16):
            for stride in (0.1 * clip, clip / 3, clip):
                starts = window_starts(length, clip, stride)
                assert starts == sorted(set(starts))
                assert starts[0] == 0
                assert max(starts) + clip >= length - 1e-6
                assert max(starts) <= max(length - clip, 0) + 1e-6
                assert all(after - before <= clip + 1e-6 for before, after in itertools.pairwise(starts))


@pytest.mark.parametrize("values", [(0, 4, 2), (9, 0, 2), (9, 4, 0), (9, 4, 4.1)])
def test_windows_that_cannot_be(values):
    with pytest.raises(ValueError, match=r"need values above 0|leaves some out"):
        window_starts(*values)
