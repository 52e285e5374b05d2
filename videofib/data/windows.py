"""Where the windows of a long video lie: pure arithmetic, as ``sampling``, from which the clips themselves come.

A video of L frames, windows as long as a clip (c frames), one every s frames::

    frame    0 1 2 3 4 5 6 7 8 9 . . . . . . L-1
             |<---- c ---->|
    window   0|------------|                        start 0
             1    |------------|                    start s
             2        |------------|                start 2 s, the last that fits
             3          |------------|              start L - c: it ends with the video
             |<-s>|

A video that is not longer than a clip is one window.
"""

from __future__ import annotations

_ROUNDING = 1e-6  # frames by which a sum of strides may exceed the video


def window_starts(video_length: int, clip_length: float, stride: float) -> list[float]:
    """The first frames of the windows, ascending; all frames of the video are in one.

    Args:
        video_length, clip_length, stride: in frames.

    Raises:
        ValueError: a length or stride that is not above 0, or a stride beyond a clip, which leaves frames out.
    """
    if min(video_length, clip_length, stride) <= 0:
        raise ValueError(f"need values above 0, got {video_length=}, {clip_length=}, {stride=}")
    if stride > clip_length + _ROUNDING:
        raise ValueError(f"a stride of {stride:g} frames leaves some out between windows of {clip_length:g}")
    last = max(video_length - clip_length, 0)
    starts = [stride * number for number in range(int((last + _ROUNDING) / stride) + 1)]
    return starts if last - starts[-1] < _ROUNDING else [*starts, last]
