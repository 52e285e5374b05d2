"""The views of all windows of a long video, from frames that are decoded once, in order.

Frames are written into the views of the windows that are open, so memory does not grow with the video's length::

    frames   . . . . . . . * . . .          decoded one by one
    open         |--------*----|            views in which this frame is written
                     |----*--------|
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videofib.data.clips.dataset import ClipSpec
from videofib.data.clips.transforms import CHANNELS, ViewTransform
from videofib.data.sampling import clip_indices, frames_shown_at
from videofib.data.source import Source
from videofib.data.video.decode import estimate
from videofib.data.video.stills import Frames, open_any
from videofib.data.windows import window_starts

_OFF = 2  # frames by which the number of frames may be less than a container states


@dataclass
class _Open:
    number: int
    clip: list[int]  # frame indices (T), ascending
    views: Tensor  # (S, C, T, H, W)
    filled: int = 0  # of T


class WindowReader:
    """Reads the windows of a video; iterate over it once.

    Attributes:
        fps: frames a second.
        spans: (start, end) of each window in seconds; the end is that of the video at most.
        broken: once read, why some windows could not be, in one line; "" where all were.

    Raises:
        DecodeError: the video cannot be read.
        ValueError: the clips of ``spec`` have no length in seconds, or ``stride`` leaves frames out.
    """

    def __init__(self, source: Source, spec: ClipSpec, transform: ViewTransform, stride: float | None = None):
        if spec.sampling != "dense":
            raise ValueError("the model's clips are of full videos (DATA.SAMPLING uniform), so a video has no windows")
        source = spec.frame_files.of(source)
        stored = estimate(source)
        self.fps = stored.fps or spec.target_fps
        self.broken = ""
        length, span = stored.num_frames, spec.span(self.fps)
        step = span / 2 if stride is None else stride * self.fps
        starts = window_starts(length, span, step)
        self.spans = [(start / self.fps, min(start + span, length) / self.fps) for start in starts]
        self._source, self._spec, self._transform = source, spec, transform
        self._starts, self._span, self._length, self._times = starts, span, length, stored.times

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """(number of the window, its views (S, C, T, H, W), S = crops), in order."""
        waiting = deque(enumerate(self._starts))
        opened: deque[_Open] = deque()
        count = 0
        with open_any(self._source) as reader:
            for index, frame in enumerate(reader.frames()):
                while waiting and (clip := self._clip(waiting[0][1]))[0] <= index:
                    opened.append(_Open(waiting.popleft()[0], clip, self._empty()))
                count = index + 1
                if any(window.clip[window.filled] == index for window in opened):
                    image = self._views(reader, frame)
                    _write(opened, index, image)
                while opened and opened[0].filled == self._spec.num_frames:
                    window = opened.popleft()
                    yield window.number, window.views
                if not waiting and not opened:
                    return
                last = frame
            if count >= self._length - _OFF and not waiting:  # as clips beyond the end repeat the last frame
                image = self._views(reader, last)
                while opened:
                    _write(opened, self._length, image)
                    window = opened.popleft()
                    yield window.number, window.views
            elif opened or waiting:
                why = f" ({reader.damaged})" if reader.damaged else ""
                end, all_of = count / self.fps, self._length / self.fps
                self.broken = f"{reader.path}: nothing decodes after {end:.1f} s of {all_of:.1f} s{why}"

    def _clip(self, start: float) -> list[int]:
        clip = clip_indices(start, self._span, self._spec.num_frames, self._length)
        return frames_shown_at(clip, self._times) if len(self._times) >= self._length else clip

    def _views(self, reader: Frames, frame: Any) -> Tensor:
        """(S, C, 1, H, W) of a frame."""
        image = reader.to_rgb(frame, self._spec.short_side)
        return self._transform(np.ascontiguousarray(image)[None], [[0]])  # a mirrored one is a view backwards

    def _empty(self) -> Tensor:
        size = self._transform.crop_size
        return torch.empty(self._transform.num_crops, CHANNELS, self._spec.num_frames, size, size)


def _write(opened: deque[_Open], index: int, image: Tensor) -> None:
    """Write the views (S, C, 1, H, W) of a frame into all windows that take it, and those that clamp to it."""
    for window in opened:
        while window.filled < len(window.clip) and window.clip[window.filled] <= index:
            window.views[:, :, window.filled] = image[:, :, 0]
            window.filled += 1
