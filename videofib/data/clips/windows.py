"""The views of all windows of a long video, from frames that are decoded once, in order.

Frames are written into the views of the windows that are open, so memory does not grow with the video's length::

    frames   . . . . . . . * . . .          decoded one by one
    open         |--------*----|            views in which this frame is written
                     |----*--------|

Frames that do not decode leave a gap: windows that need one of them are left out, and those behind it are read::

    frames   . . . . . . x x x . . . . . .
    left out     |--------|     |------|    read
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
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
from videofib.data.video.numbered import numbered_frames
from videofib.data.video.pyav_reader import OrderedReader
from videofib.data.video.stills import Frames, open_any, stills
from videofib.data.video.survey_cache import surveyed
from videofib.data.windows import window_starts

Watch = Callable[[int, Any, Frames], None]

_OFF = 2  # frames by which the number of frames may be less than a container states
_MOST_NAMED = 3  # gaps in a message


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
        length: frames stored.
        spans: (start, end) of each window in seconds; the end is that of the video at most.
        watch: called with the number of each frame that decodes, the frame and its reader; None: nothing is.
        gaps: once read, (first, end) of each stretch of frames that do not decode, ``end`` without; ascending.
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
        self.watch: Watch | None = None
        self.gaps: list[tuple[int, int]] = []
        length, span = stored.num_frames, spec.span(self.fps)
        step = span / 2 if stride is None else stride * self.fps
        starts = window_starts(length, span, step)
        self.spans = [(start / self.fps, min(start + span, length) / self.fps) for start in starts]
        self.length = length
        self._source, self._spec, self._transform = source, spec, transform
        self._starts, self._span, self._times = starts, span, stored.times
        self._index = None if stills(source) else surveyed(source, with_estimate=True).index

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """(number of the window, its views (S, C, T, H, W), S = crops), in order; those that can be read."""
        waiting = deque(enumerate(self._starts))
        opened: deque[_Open] = deque()
        count = 0
        with open_any(self._source) as reader:
            for index, frame in self._numbered(reader):
                if index > count:
                    self.gaps.append((count, index))
                    opened = deque(window for window in opened if window.clip[window.filled] >= index)
                    while waiting and self._clip(waiting[0][1])[0] < index:
                        waiting.popleft()
                while waiting and (clip := self._clip(waiting[0][1]))[0] <= index:
                    opened.append(_Open(waiting.popleft()[0], clip, self._empty()))
                count = index + 1
                if self.watch:
                    self.watch(index, frame, reader)
                if any(window.clip[window.filled] == index for window in opened):
                    image = self._views(reader, frame)
                    _write(opened, index, image)
                while opened and opened[0].filled == self._spec.num_frames:
                    window = opened.popleft()
                    yield window.number, window.views
                if not (waiting or opened or self.watch):
                    break
                last = frame
            if opened and count >= self.length - _OFF and not waiting:  # as clips beyond the end repeat the last
                image = self._views(reader, last)
                while opened:
                    _write(opened, self.length, image)
                    window = opened.popleft()
                    yield window.number, window.views
            elif opened or waiting:
                self.gaps.append((count, self.length))
            if self.gaps:
                self.broken = self._why(reader)

    def _numbered(self, reader: Frames) -> Iterator[tuple[int, Any]]:
        return numbered_frames(reader, self._index) if isinstance(reader, OrderedReader) else enumerate(reader.frames())

    def _why(self, reader: Frames) -> str:
        """Which stretches do not decode, and what the decoder says of the first."""
        stretches = [f"from {first / self.fps:.1f} to {end / self.fps:.1f} s" for first, end in self.gaps[:_MOST_NAMED]]
        if len(self.gaps) <= _MOST_NAMED and self.gaps[-1][1] == self.length:
            stretches[-1] = f"after {self.gaps[-1][0] / self.fps:.1f} s of {self.length / self.fps:.1f} s"
        more = f" and in {len(self.gaps) - _MOST_NAMED} more stretches" if len(self.gaps) > _MOST_NAMED else ""
        said = f" ({reader.damaged})" if reader.damaged else ""
        return f"{reader.path}: nothing decodes {', '.join(stretches)}{more}{said}"

    def _clip(self, start: float) -> list[int]:
        clip = clip_indices(start, self._span, self._spec.num_frames, self.length)
        return frames_shown_at(clip, self._times) if len(self._times) >= self.length else clip

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
