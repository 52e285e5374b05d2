"""Decoded frames -> RGB arrays of the requested size."""

from __future__ import annotations

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from videofib.data.sampling import limited_size


class ToRGB:
    """Converts and scales in one step, bicubic with antialiasing, as preparation does.

    Use one for all frames of a video, since it keeps its tables. It has one thread: with several, rows at the borders
    of their slices differ from run to run.
    """

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame, height: int, width: int) -> np.ndarray:
        """The frame as (height, width, 3) uint8 RGB."""
        rgb = self._reformatter.reformat(frame, width, height, format="rgb24", interpolation="BICUBIC", threads=1)
        return rgb.to_ndarray()


def scaled_down(frames: np.ndarray, short_side: int) -> np.ndarray:
    """RGB frames (T, H, W, 3) with a shorter side of at most ``short_side``; for backends whose own scaling differs."""
    _, height, width, _ = frames.shape
    size, convert = limited_size(height, width, short_side), ToRGB()
    if size == frames.shape[1:3]:
        return frames
    return np.stack([convert(av.VideoFrame.from_ndarray(np.ascontiguousarray(image)), *size) for image in frames])
