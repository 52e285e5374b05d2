"""Decoded frames -> RGB arrays of the requested size; needs PyAV and numpy alone, and is copied beside exports."""

from __future__ import annotations

import av
import numpy as np
from av.video.reformatter import ColorRange, VideoReformatter

_LIMITED_RANGE = (ColorRange.UNSPECIFIED, ColorRange.MPEG)
_BT_601 = (2, 5, 6)  # of FFmpeg's AVColorSpace: not stated, BT470BG and SMPTE170M


class ToRGB:
    """Converts and scales, bicubic with antialiasing; reading and preparation share it.

    Use one for all frames of a video, since it keeps its tables. It has one thread: with several, rows at the borders
    of their slices differ from run to run.

    A frame of unchanged size is converted directly, as the ffmpeg tool does. Where the size changes, FFmpeg's scaler
    computes packed RGB from every second chroma sample of a row, and reads every second pixel's chroma of an RGB frame
    that it shrinks to half or less. So YUV frames are scaled to planar RGB, and RGB frames plane by plane.
    """

    def __init__(self) -> None:
        self._to_packed, self._scale = VideoReformatter(), VideoReformatter()

    def __call__(self, frame: av.VideoFrame, height: int, width: int) -> np.ndarray:
        """The frame as (height, width, 3) uint8 RGB."""
        same_size = (frame.height, frame.width) == (height, width)
        is_rgb = frame.format.is_rgb or frame.format.has_palette
        if not same_size and not is_rgb:
            frame = self._resized(frame, height, width, "gbrp")
        rgb = self._to_packed.reformat(frame, format="rgb24", interpolation="BICUBIC", threads=1).to_ndarray()
        return rgb if same_size or not is_rgb else self.scaled(rgb, height, width)

    def scaled(self, image: np.ndarray, height: int, width: int) -> np.ndarray:
        """An RGB image (H, W, 3) uint8 as (height, width, 3)."""
        planes = (av.VideoFrame.from_ndarray(np.ascontiguousarray(plane), "gray") for plane in np.moveaxis(image, 2, 0))
        return np.stack([self._resized(plane, height, width, "gray").to_ndarray() for plane in planes], axis=2)

    def _resized(self, frame: av.VideoFrame, height: int, width: int, pixels: str) -> av.VideoFrame:
        return self._scale.reformat(frame, width, height, format=pixels, interpolation="BICUBIC", threads=1)


def is_plain(frame: av.VideoFrame) -> bool:
    """Whether a frame is stored as decoders take videos without marks to be: yuv420p, limited range, BT.601."""
    return frame.format.name == "yuv420p" and frame.color_range in _LIMITED_RANGE and frame.colorspace in _BT_601
