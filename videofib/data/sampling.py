"""Which frames and which pixels: pure index arithmetic, no decoding and no tensors.

Clips are as long as those of PySlowFast and TimeSformer, and drawn alike in training; in testing they start elsewhere
(``VIEW_STARTS``). A video of L frames, a clip spanning c of them, T frames taken::

    frame    0 1 2 3 4 5 6 7 8 9 . . . . . . . . . L-1
             |<--- delta = L - c --->|
    start    s ~ U(0, delta) in training
    clip             s|<-------- c -------->|
    taken             *     *      *        *        T evenly spaced, from s to s + c - 1, rounded down

    spread   0|<-------- c -------->|                start 0
             1          |<-------- c -------->|      start delta / 2 (the only start where there is one view)
             2                      |<-------- c -------->|  start delta: ends at frame L-1

    published, as in their code: no view reaches the end
             0|<-------- c -------->|                start 0 (the only start where there is one view)
             1       |<-------- c -------->|         start delta / 3
             2              |<-------- c -------->|  start delta * 2 / 3

Segments follow TSN (arXiv 1608.00859): the full video, whatever its length and frame rate, cut into T equal parts::

    frame    0                                  L-1
             |<- L/T ->|         |         |         |
    training    *       *             *      *           one frame anywhere in each segment
    one view      *         *         *         *        the middle of each
    view 0      *         *         *         *          of two: the middle of each segment's first half,
    view 1           *         *         *         *     and of its second

``published`` takes TimeSformer's frames of Something-Something instead: every view has the same ones, the middles of T
segments from frame 0 to L-1 whose ends are rounded.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

# Where temporal views lie: over the full video, or as the code of TimeSformer and PySlowFast has them.
VIEW_STARTS = ("spread", "published")

# Sums such as 44.256 + 255.744 - 1 come out slightly below their integer; rounding down must not lose a frame to that.
_ROUNDING = 1e-6


def clip_length(num_frames: int, sampling_rate: float, target_fps: float, fps: float) -> float:
    """Source frames spanned by T=num_frames frames taken every ``sampling_rate`` frames of a ``target_fps`` video."""
    if min(num_frames, sampling_rate, target_fps, fps) <= 0:
        raise ValueError(f"need values above 0, got {num_frames=}, {sampling_rate=}, {target_fps=}, {fps=}")
    return sampling_rate * num_frames / target_fps * fps


def train_start(video_length: int, clip_length: float, rng: random.Random) -> float:
    """A uniformly random first frame; 0 where the video is shorter than the clip."""
    return rng.uniform(0, max(video_length - clip_length, 0))


def view_start(video_length: int, clip_length: float, view: int, num_views: int, starts: str = "spread") -> float:
    """The first frame of temporal view ``view``, by one of ``VIEW_STARTS``.

    ``spread``: from the first frame to the last; the middle where there is one view. ``published``: ``delta * view /
    num_views``, as in ``get_start_end_idx`` of TimeSformer and PySlowFast; frame 0 where there is one view.
    """
    _check_view(view, num_views, starts)
    delta = max(video_length - clip_length, 0)
    if starts == "published":
        return delta * view / num_views
    return delta / 2 if num_views == 1 else delta * view / (num_views - 1)


def clip_indices(start: float, clip_length: float, num_frames: int, video_length: int) -> list[int]:
    """T=num_frames indices evenly spaced over ``start .. start + clip_length - 1``, clamped to the video.

    A clip longer than the video repeats the last frame; a clip shorter than a frame repeats its first.
    """
    _check_length(video_length)
    step = max(clip_length - 1, 0) / max(num_frames - 1, 1)
    return [min(max(int(start + step * i + _ROUNDING), 0), video_length - 1) for i in range(num_frames)]


def train_segment_indices(num_frames: int, video_length: int, rng: random.Random) -> list[int]:
    """T=num_frames indices, one uniformly random in each of T equal segments; never backwards."""
    width = _segment_width(num_frames, video_length)
    return [min(int((i + rng.random()) * width), video_length - 1) for i in range(num_frames)]


def view_segment_indices(
    num_frames: int, video_length: int, view: int, num_views: int, starts: str = "spread"
) -> list[int]:
    """T=num_frames indices of temporal view ``view``, by one of ``VIEW_STARTS``.

    ``spread``: the middle of part ``view`` of ``num_views`` of each segment. ``published``: as TimeSformer tests on
    Something-Something, the middle of each of T segments of L - 1 frames, whose ends are rounded (half to even); the
    same in every view.
    """
    _check_view(view, num_views, starts)
    if starts == "published":
        _check_length(video_length)
        ends = [round((video_length - 1) / num_frames * i) for i in range(num_frames + 1)]
        return [(start + end) // 2 for start, end in pairwise(ends)]
    width = _segment_width(num_frames, video_length)
    middle = (2 * view + 1) / (2 * num_views)  # of the view's part, as a fraction of the segment
    return [int((i + middle) * width + _ROUNDING) for i in range(num_frames)]


def check_view_starts(starts: str) -> None:
    """Raise ValueError where ``starts`` is none of ``VIEW_STARTS``."""
    if starts not in VIEW_STARTS:
        raise ValueError(f"unknown view starts {starts!r}; they must be one of {', '.join(VIEW_STARTS)}")


def is_uneven(times: Sequence[float]) -> bool:
    """Whether any frame is shown more than one frame's duration earlier or later than at a constant rate.

    times: seconds, ascending. (A video with a single dropped frame still counts as even.)
    """
    step = _mean_step(times)
    return any(abs(time - times[0] - i * step) > step for i, time in enumerate(times))


def frames_shown_at(indices: Sequence[int], times: Sequence[float]) -> list[int]:
    """The frames of a video of variable rate that are on the screen when a constant rate would show ``indices``::

        constant rate   0     1     2     3     4     5         indices 1, 3, 5
        times           0 1 2 3         4             5         -> frames 2, 3, 5

    For a video of constant rate these are the indices themselves. times: seconds, ascending, of all frames.
    """
    step = _mean_step(times)
    middles = [times[0] + (i + 0.5) * step for i in indices]
    return [max(bisect_right(times, middle) - 1, 0) for middle in middles]


def random_box(
    height: int, width: int, areas: Sequence[float], aspects: Sequence[float], rng: random.Random
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random part of a frame, as torchvision's RandomResizedCrop draws it.

    Args:
        areas: (low, high) fraction of the frame's area, drawn uniformly.
        aspects: (low, high) width over height, drawn so that a and 1 / a are equally likely.

    A shape that does not fit is drawn again; after ten tries the result is the largest centred box with an aspect
    within ``aspects``.
    """
    for _ in range(10):
        area = height * width * rng.uniform(*areas)
        aspect = math.exp(rng.uniform(math.log(aspects[0]), math.log(aspects[1])))
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            return rng.randint(0, height - h), rng.randint(0, width - w), h, w
    aspect = min(max(width / height, aspects[0]), aspects[1])
    h, w = max(1, min(height, round(width / aspect))), max(1, min(width, round(height * aspect)))
    return (height - h) // 2, (width - w) // 2, h, w


def short_side_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """(height, width) after scaling the shorter side to ``short_side`` at the same aspect ratio."""
    if height < width:
        return short_side, width * short_side // height
    return height * short_side // width, short_side


def limited_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """(height, width) with the shorter side at most ``short_side``, never enlarged; 0 sets no limit."""
    return short_side_size(height, width, short_side) if 0 < short_side < min(height, width) else (height, width)


def source_box(
    top: int, left: int, size: int, scaled: tuple[int, int], frame: tuple[int, int]
) -> tuple[int, int, int, int]:
    """(top, left, height, width) in a frame's own pixels of the square at (top, left) in the scaled frame.

    Args:
        scaled, frame: (height, width) of the scaled frame and of the frame itself.
    """
    (y, h), (x, w) = (
        _unscaled(start, size, of_scaled, of_frame)
        for start, of_scaled, of_frame in zip((top, left), scaled, frame, strict=True)
    )
    return y, x, h, w


def random_square(
    height: int, width: int, crop_size: int, short_side: int, rng: random.Random
) -> tuple[int, int, int, int]:
    """(top, left, height, width), in a frame's own pixels, of a random square of the frame scaled to ``short_side``."""
    scaled = short_side_size(height, width, short_side)
    top, left = (rng.randint(0, length - crop_size) for length in scaled)
    return source_box(top, left, crop_size, scaled, (height, width))


def view_crop(height: int, width: int, size: int, crop: int, num_crops: int) -> tuple[int, int]:
    """(top, left) of the square spatial crop ``crop`` of a view.

    Three crops lie along the longer side, one is the centre::

        wide    [0  |1 |  2]      0 left, 1 centre, 2 right
        tall    0 top, 1 centre, 2 bottom
    """
    if num_crops not in (1, 3) or not 0 <= crop < num_crops:
        raise ValueError(f"there are 1 or 3 spatial crops, got crop {crop} of {num_crops}")
    spare_height, spare_width = height - size, width - size
    if min(spare_height, spare_width) < 0:
        raise ValueError(f"a crop of {size} does not fit {height}x{width}")
    top, left = (spare_height + 1) // 2, (spare_width + 1) // 2
    if num_crops == 3 and crop != 1:
        if height > width:
            top = 0 if crop == 0 else spare_height
        else:
            left = 0 if crop == 0 else spare_width
    return top, left


def _mean_step(times: Sequence[float]) -> float:
    return (times[-1] - times[0]) / max(len(times) - 1, 1)


def _unscaled(start: int, length: int, scaled: int, limit: int) -> tuple[int, int]:
    """An interval (start, length) within 0..scaled as one within 0..limit, at least one pixel long."""
    unscaled = min(max(round(length * limit / scaled), 1), limit)
    return min(round(start * limit / scaled), limit - unscaled), unscaled


def _segment_width(num_frames: int, video_length: int) -> float:
    _check_length(video_length)
    return video_length / num_frames


def _check_length(video_length: int) -> None:
    if video_length < 1:
        raise ValueError(f"a video needs at least one frame, got {video_length=}")


def _check_view(view: int, num_views: int, starts: str) -> None:
    check_view_starts(starts)
    if not 0 <= view < num_views:
        raise ValueError(f"view must be in 0..{num_views - 1}, got {view}")
