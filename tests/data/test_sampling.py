"""Clip and crop arithmetic, against cases worked out by hand and properties that hold for all."""

import math
import random
from collections import Counter

import pytest
import torch
from torchvision.transforms import v2

from videofib.data.sampling import (
    clip_indices,
    clip_length,
    frames_shown_at,
    is_uneven,
    random_box,
    short_side_size,
    source_box,
    train_segment_indices,
    train_start,
    view_crop,
    view_segment_indices,
    view_start,
)


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
        (-3, 8, 4, 100, [0, 0, 1, 4]),  # before the video: its first frame repeats
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


def test_published_views_start_at_frame_0_and_none_reaches_the_end():
    starts = [[view_start(100, 40, view, views, "published") for view in range(views)] for views in (1, 3, 4)]
    assert starts == [[0], [0, 20, 40], [0, 15, 30, 45]]  # 60 v / V
    assert [view_start(10, 40, view, 4, "published") for view in range(4)] == [0, 0, 0, 0]
    # 8 x 32 at 30 frames a second: 256 of 300 frames, so delta is 44, and the second of three starts at 14.67
    start = view_start(300, 256, 1, 3, "published")
    assert clip_indices(start, 256, 8, 300) == [14, 51, 87, 123, 160, 196, 233, 269]


def test_published_views_are_those_of_the_published_arithmetic():
    rng = random.Random(0)
    for _ in range(500):
        video, frames, views = rng.randint(1, 400), rng.randint(1, 32), rng.randint(1, 10)
        clip = clip_length(frames, rng.randint(1, 32), 30, rng.choice([12.5, 24000 / 1001, 25, 29.97, 30, 60]))
        for view in range(views):
            start = max(video - clip, 0) * view / views  # get_start_end_idx, then temporal_sampling, in float64
            index = torch.linspace(start, start + clip - 1, frames, dtype=torch.float64)
            expected = (index + 1e-6).clamp(0, video - 1).long().tolist()
            if clip >= 1:
                assert clip_indices(view_start(video, clip, view, views, "published"), clip, frames, video) == expected


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
    starts = [train_start(20, 10, rng) for _ in range(500)]
    assert {math.floor(start) for start in starts} == set(range(10))
    assert [train_start(9, 10, rng), train_start(10, 10, rng)] == [0, 0]  # a video that is shorter, or as long


@pytest.mark.parametrize(
    ("frames", "video", "views", "expected"),
    [
        (4, 40, 1, [[5, 15, 25, 35]]),
        (4, 10, 1, [[1, 3, 6, 8]]),  # 1.25, 3.75, 6.25, 8.75
        (4, 40, 2, [[2, 12, 22, 32], [7, 17, 27, 37]]),  # 2.5 and 7.5 of each segment of 10
        (2, 12, 3, [[1, 7], [3, 9], [5, 11]]),
        (3, 29, 1, [[4, 14, 24]]),  # 4.83, 14.5, 24.17
        (4, 2, 1, [[0, 0, 1, 1]]),  # shorter than its segments are many: frames repeat
        (3, 1, 2, [[0, 0, 0], [0, 0, 0]]),
    ],
)
def test_views_of_segments_by_hand(frames, video, views, expected):
    assert [view_segment_indices(frames, video, view, views) for view in range(views)] == expected


@pytest.mark.parametrize(
    ("frames", "video", "expected"),
    [
        (4, 40, [5, 15, 24, 34]),  # ends at 0, 9.75, 19.5 (to 20), 29.25, 39; the middles are rounded down
        (4, 10, [1, 3, 5, 8]),  # 0, 2.25, 4.5 (half to even: 4), 6.75, 9
        (8, 31, [2, 6, 9, 13, 17, 20, 24, 28]),  # 0, 3.75, 7.5 (8), 11.25, 15, 18.75, 22.5 (22), 26.25, 30
        (3, 1, [0, 0, 0]),
    ],
)
def test_published_segments_by_hand_are_the_same_in_every_view(frames, video, expected):
    for view in range(3):
        assert view_segment_indices(frames, video, view, 3, "published") == expected


def test_no_view_of_segments_loses_a_frame_to_rounding():
    for video in range(1, 300):
        for frames, views in [(3, 1), (7, 1), (8, 3), (16, 5), (6, 10)]:
            for view in range(views):
                exact = [(2 * (views * i + view) + 1) * video // (2 * views * frames) for i in range(frames)]
                assert view_segment_indices(frames, video, view, views) == exact


def test_training_takes_one_frame_anywhere_in_each_segment():
    rng = random.Random(0)
    drawn = [train_segment_indices(4, 40, rng) for _ in range(1000)]
    for segment, frames in enumerate(zip(*drawn, strict=True)):
        counts = Counter(frames)
        assert set(counts) == set(range(10 * segment, 10 * segment + 10))
        assert min(counts.values()) > 60  # 100 expected
    offsets = [(a % 10, b % 10) for a, b, *_ in drawn]
    assert len(set(offsets)) == 100  # each segment draws for itself


def test_segments_of_any_video_stay_in_it_and_in_order():
    rng = random.Random(0)
    for _ in range(2000):
        frames, video = rng.randint(1, 32), rng.randint(1, 400)
        indices = train_segment_indices(frames, video, rng)
        assert len(indices) == frames
        assert indices == sorted(indices)
        assert 0 <= indices[0] <= indices[-1] < video
        if frames <= video:
            assert all(i * video / frames - 1 < index < (i + 1) * video / frames for i, index in enumerate(indices))


def boxes(height, width, areas, aspects, count=2000):
    rng = random.Random(0)
    return [random_box(height, width, areas, aspects, rng) for _ in range(count)]


@pytest.mark.parametrize(("height", "width"), [(600, 800), (800, 300)])
def test_random_boxes_are_distributed_as_torchvisions(height, width):
    areas, aspects = (0.08, 1.0), (0.75, 4 / 3)
    found = boxes(height, width, areas, aspects)
    assert all(min(box) >= 0 and box[0] + box[2] <= height and box[1] + box[3] <= width for box in found)
    crop, frame = v2.RandomResizedCrop(224, areas, aspects), torch.empty(3, height, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = [crop.make_params([frame]) for _ in range(len(found))]
    expected = [(params["top"], params["left"], params["height"], params["width"]) for params in expected]
    for measure in (
        lambda top, left, h, w: h * w / (height * width),
        lambda top, left, h, w: math.log(w / h),
        lambda top, left, h, w: (top + h / 2) / height,
        lambda top, left, h, w: (left + w / 2) / width,
    ):
        ours, theirs = (sorted(measure(*box) for box in drawn) for drawn in (found, expected))
        quantiles = slice(len(found) // 40, None, len(found) // 20)
        assert ours[quantiles] == pytest.approx(theirs[quantiles], abs=0.04)


def test_random_boxes_keep_to_their_ranges():
    found = boxes(600, 800, (0.08, 0.5), (0.75, 4 / 3))  # half a frame fits in any of these shapes
    areas, aspects = [h * w / 480000 for _, _, h, w in found], [math.log(w / h) for _, _, h, w in found]
    assert (min(areas), max(areas)) == (pytest.approx(0.08, abs=0.002), pytest.approx(0.5, abs=0.002))
    assert sum(areas) / len(areas) == pytest.approx(0.29, abs=0.01)
    assert (min(aspects), max(aspects)) == (
        pytest.approx(math.log(0.75), abs=0.01),
        pytest.approx(-math.log(0.75), abs=0.01),
    )
    assert sum(aspects) / len(aspects) == pytest.approx(0, abs=0.01)  # wide as often as tall
    assert {round(w / h) for _, _, h, w in boxes(600, 800, (0.1, 0.2), (3.0, 3.0), 50)} == {3}  # width over height


def test_random_boxes_of_one_size_reach_every_position():
    found = Counter((t, x) for t, x, _, _ in boxes(5, 6, (16 / 30, 16 / 30), (1.0, 1.0)))
    assert set(found) == {(t, x) for t in range(2) for x in range(3)}
    assert min(found.values()) > 250  # 333 expected
    assert {(h, w) for _, _, h, w in boxes(5, 6, (16 / 30, 16 / 30), (1.0, 1.0), 10)} == {(4, 4)}
    assert set(boxes(60, 80, (1.0, 1.0), (4 / 3, 4 / 3), 10)) == {(0, 0, 60, 80)}


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (10, 100, (0, 43, 10, 13)),  # too wide: as high as the frame, 4 / 3 as wide
        (100, 10, (43, 0, 13, 10)),  # too tall: as wide as the frame, 4 / 3 as high
        (90, 100, (0, 0, 90, 100)),  # of an allowed aspect: all of it
        (1, 100, (0, 49, 1, 1)),
    ],
)
def test_where_no_box_fits_it_is_the_centre(height, width, expected):
    areas = (1.001, 1.001) if height == 90 else (1.0, 1.0)
    assert set(boxes(height, width, areas, (0.75, 4 / 3), 5)) == {expected}


@pytest.mark.parametrize(("aspect", "expected"), [(0.1, (0, 1, 4, 1)), (10.0, (1, 0, 1, 4))])
def test_a_box_that_rounds_to_nothing_is_drawn_again_and_then_one_pixel_thin(aspect, expected):
    assert set(boxes(4, 4, (0.05, 0.05), (aspect, aspect), 5)) == {expected}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((10, 20, 30, (60, 80), (120, 160)), (20, 40, 60, 60)),  # the frame is twice as large
        ((10, 20, 30, (60, 80), (90, 40)), (15, 10, 45, 15)),  # half as high again, and half as wide
        ((30, 50, 30, (60, 80), (61, 81)), (30, 51, 30, 30)),  # 30.5, 50.6, 30.5, 30.4: the end is in the frame
        ((59, 79, 1, (60, 80), (6, 8)), (5, 7, 1, 1)),  # less than a pixel is one
    ],
)
def test_a_square_of_a_scaled_frame_in_the_frames_own_pixels(arguments, expected):
    assert source_box(*arguments) == expected


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
        (256, 256, [(16, 0), (16, 16), (16, 32)]),  # neither: as if wide
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
    with pytest.raises(ValueError, match="unknown view starts 'middle'; they must be one of spread, published"):
        view_start(100, 40, 0, 4, "middle")
    with pytest.raises(ValueError, match=r"0\.\.1"):
        view_segment_indices(8, 40, 2, 2)
    for indices in (lambda: train_segment_indices(8, 0, random.Random(0)), lambda: view_segment_indices(8, 0, 0, 1)):
        with pytest.raises(ValueError, match="video_length=0"):
            indices()


def test_frames_of_a_variable_rate_are_those_on_the_screen():
    times = [0, 1, 2, 3, 7, 12]  # seconds; a constant rate would show a frame every 2.4
    assert is_uneven(times)
    assert frames_shown_at([0, 1, 2, 3, 4, 5], times) == [
        1,
        3,
        3,
        4,
        4,
        5,
    ]  # on the screen at 1.2, 3.6, 6, 8.4, 10.8, 13.2
    assert frames_shown_at([5, 0, 0], [10 + time for time in times]) == [5, 1, 1]


@pytest.mark.parametrize("count", [1, 2, 3, 100])
def test_a_constant_rate_returns_the_indices(count):
    for times in ([i * 1001 / 30000 for i in range(count)], [round(i / 29.97, 3) for i in range(count)]):
        assert not is_uneven(times)
        assert frames_shown_at(range(count), times) == list(range(count))
    dropped = [i / 25 for i in range(count + 1) if i != count // 2]  # one frame is missing: still even
    assert not is_uneven(dropped)
