"""Decoded frames -> RGB arrays, in the size asked for."""

from __future__ import annotations

import av
import numpy as np
from av.video.reformatter import VideoReformatter


class ToRGB:
    """Converts and scales in one step, bicubic with antialiasing, as preparation does.

    One for a video: it keeps its tables from frame to frame. One thread: with several, rows at the borders of their
    slices differ from run to run.
    """

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame, height: int, width: int) -> np.ndarray:
        """The frame as (height, width, 3) uint8 RGB."""
        rgb = self._reformatter.reformat(frame, width, height, format="rgb24", interpolation="BICUBIC", threads=1)
        return rgb.to_ndarray()
