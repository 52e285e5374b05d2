"""Clip and crop arithmetic, against cases worked out by hand and properties that hold for all."""

import random

import pytest

from videofib.data.sampling import clip_indices, clip_length, short_side_size, train_start, view_crop, view_start


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [((8, 32, 30, 30.0), 256), ((8, 32, 30, 15.0), 128), ((16, 2, 30, 60.0), 64), ((96, 4, 30, 25.0), 320)],
)
def test_clip_length_scales_with_the_frame_rate(arguments, expected):
    assert clip_length(*arguments) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("start", "clip", "frames", "video", "expected"),
    [
        (0, 8, 8, 100, [0, 1, 2, 3, 4, 5, 6, 7]),
        (10, 29, 8, 100, [10, 14, 18, 22, 26, 30, 34, 38]),
        (0, 8, 4, 100, [0, 2, 4, 7]),  # 0, 2.33, 4.67, 7
        (0.9, 8, 4, 100, [0, 3, 5, 7]),  # rounded down: 0.9, 3.23, 5.57, 7.9
        (0, 16, 4, 6, [0, 5, 5, 5]),  # longer than the video: its last frame repeats
        (7, 0.2, 3, 100, [7, 7, 7]),  # shorter than a frame; never backwards
        (3, 50, 1, 100, [3]),
        (0, 32, 8, 1, [0] * 8),
    ],
)
def test_clip_indices_by_hand(start, clip, frames, video, expected):
    assert clip_indices(start, clip, frames, video) == expected


def test_one_view_is_the_middle_clip():
    assert view_start(100, 40, 0, 1) == 30
    assert clip_indices(view_start(100, 40, 0, 1), 40, 2, 100) == [30, 69]


def test_views_spread_from_the_first_frame_to_the_last():
    assert [view_start(100, 40, view, 4) for view in range(4)] == [0, 20, 40, 60]
    assert [view_start(10, 40, view, 4) for view in range(4)] == [0, 0, 0, 0]


def test_every_index_is_in_the_video_and_the_last_view_reaches_its_end():
    rng = random.Random(0)
    for _ in range(2000):
        video, frames, views = rng.randint(1, 400), rng.randint(1, 32), rng.randint(2, 10)
        clip = clip_length(frames, rng.randint(1, 32), 30, rng.choice([1, 12.5, 24000 / 1001, 25, 29.97, 30, 60]))
        for start in [train_start(video, clip, rng), *(view_start(video, clip, v, views) for v in range(views))]:
            indices = clip_indices(start, clip, frames, video)
            assert len(indices) == frames
            assert indices == sorted(indices)
            assert 0 <= indices[0] <= indices[-1] < video
        if frames > 1 and clip >= 1:
            assert indices[-1] == video - 1, (video, clip, indices)


def test_training_clips_reach_both_ends():
    rng = random.Random(0)
    starts = {int(train_start(20, 10, rng)) for _ in range(500)}
    assert starts == set(range(10))


@pytest.mark.parametrize(
    ("height", "width", "short_side", "expected"),
    [(240, 320, 256, (256, 341)), (320, 240, 256, (341, 256)), (100, 100, 32, (32, 32)), (16, 640, 224, (224, 8960))],
)
def test_short_side_size(height, width, short_side, expected):
    assert short_side_size(height, width, short_side) == expected


@pytest.mark.parametrize(
    ("height", "width", "corners"),
    [
        (224, 300, [(0, 0), (0, 38), (0, 76)]),  # wide: left, centre, right
        (300, 224, [(0, 0), (38, 0), (76, 0)]),  # tall: top, centre, bottom
        (256, 341, [(16, 0), (16, 59), (16, 117)]),
    ],
)
def test_three_crops_lie_along_the_longer_side(height, width, corners):
    assert [view_crop(height, width, 224, crop, 3) for crop in range(3)] == corners
    assert view_crop(height, width, 224, 0, 1) == corners[1]


@pytest.mark.parametrize("arguments", [(224, 224, 256, 0, 1), (256, 256, 224, 3, 3), (256, 256, 224, 0, 2)])
def test_impossible_crops_are_refused(arguments):
    with pytest.raises(ValueError, match="crop"):
        view_crop(*arguments)


def test_impossible_clips_are_refused():
    with pytest.raises(ValueError, match="fps=0"):
        clip_length(8, 32, 30, 0)
    with pytest.raises(ValueError, match="video_length=0"):
        clip_indices(0, 8, 8, 0)
    with pytest.raises(ValueError, match=r"0\.\.3"):
        view_start(100, 40, 4, 4)
