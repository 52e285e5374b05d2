"""The frames of a video with what a model sees in them written over, while the video is decoded for the model.

A frame's caption is known once the window whose middle is nearest has been scored, so frames wait for it; where they
are many, as JPEG::

    frames     . . . . . . . . . . . .        decoded; every k-th waits
    windows    |--------|
                   |--------|                 scored: frames up to its middle get their captions
                       |--------|             not yet
"""

from __future__ import annotations

import io
import math
from collections import deque
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from videofib.data.video.stills import Frames
from videofib.printable import printable
from videofib.run.timeline import TimelineReader, Window

_MOST_HEIGHT = 360  # pixels
_MOST_FRAMES = 9000  # of the written video, five minutes at 30 a second; of a longer one every second, third, ... is
_MOST_WAITING = 64 << 20  # bytes of frames that wait for captions; those beyond are black
_MOST_PLAIN = 32 << 20  # bytes that wait as they are; beyond, frames are compressed
_QUALITY = 90  # of their JPEG
_LINES = 3  # classes
_LETTERS = 40  # of a class's name
_MARGIN = 4
_GAP = "does not decode"


class CaptionedFilm:
    """The frames (H, W, 3), uint8 RGB, H at most 360 and both even, one after another; iterate over it once.

    Each has the most probable classes of the window whose middle is nearest. Frames that do not decode are black, and
    say so, if any behind them do.

    Attributes:
        fps: frames a second: those of the video, or of every k-th frame where it has more than 9000.

    Raises:
        DecodeError: not one window of the video can be read; before any frame is given.
    """

    def __init__(self, timeline: TimelineReader):
        self._every = math.ceil(timeline.length / _MOST_FRAMES)
        self.fps = timeline.fps / self._every
        self._source_fps = timeline.fps
        self._next, self._bytes = 0, 0  # the number of the next frame; what waits
        self._waiting: deque[tuple[float, np.ndarray | bytes | None]] = deque()  # seconds, and the picture
        self._size: tuple[int, int] | None = None
        timeline.watch(self._keep)
        windows = iter(timeline)
        first = next(windows, None)
        if first is None:
            timeline.timeline()
        self._windows = chain([first], windows)

    def __iter__(self) -> Iterator[np.ndarray]:
        before: Window | None = None
        for window in self._windows:
            middle = _middle(window)
            while self._waiting and self._waiting[0][0] <= middle:
                time, picture = self._taken()
                is_nearer = before is not None and time - _middle(before) <= middle - time
                yield self._captioned(picture, before if is_nearer else window)
            before = window
        while self._waiting:
            yield self._captioned(self._taken()[1], before)

    def _keep(self, number: int, frame: Any, reader: Frames) -> None:
        self._size = self._size or _size(*reader.size)
        while self._next < number:  # did not decode
            self._waiting.append((self._next / self._source_fps, None))
            self._next += self._every
        if number == self._next:
            picture = None
            if self._bytes < _MOST_WAITING:
                image = reader.to_size(frame, *self._size)
                picture = image if self._bytes < _MOST_PLAIN else _packed(image)
                self._bytes += _bytes(picture)
            self._waiting.append((number / self._source_fps, picture))
            self._next += self._every

    def _taken(self) -> tuple[float, np.ndarray | bytes | None]:
        time, picture = self._waiting.popleft()
        self._bytes -= _bytes(picture)
        return time, picture

    def _captioned(self, waited: np.ndarray | bytes | None, window: Window) -> np.ndarray:
        height, width = self._size
        caption = _caption(window[2].top(_LINES))
        if waited is None:
            picture, caption = Image.new("RGB", (width, height)), _GAP
        elif isinstance(waited, bytes):
            picture = Image.open(io.BytesIO(waited))
        else:
            picture = Image.fromarray(waited)
        _write(picture, caption)
        return np.asarray(picture)


def _middle(window: Window) -> float:
    return (window[0] + window[1]) / 2


def _bytes(picture: np.ndarray | bytes | None) -> int:
    if picture is None:
        return 0
    return len(picture) if isinstance(picture, bytes) else picture.nbytes


def _packed(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def _size(height: int, width: int) -> tuple[int, int]:
    scale = min(1.0, _MOST_HEIGHT / height)
    return max(2, int(height * scale) // 2 * 2), max(2, int(width * scale) // 2 * 2)


def _caption(classes: list[tuple[str, float]]) -> str:
    return "\n".join(f"{100 * value:5.1f} %  {printable(name)[:_LETTERS]}" for name, value in classes)


def _write(picture: Image.Image, caption: str) -> None:
    font = ImageFont.load_default(max(9, picture.height // 20))
    draw = ImageDraw.Draw(picture, "RGBA")
    left, top, right, bottom = draw.multiline_textbbox((2 * _MARGIN, 2 * _MARGIN), caption, font=font)
    draw.rectangle((left - _MARGIN, top - _MARGIN, right + _MARGIN, bottom + _MARGIN), fill=(0, 0, 0, 160))
    draw.multiline_text((2 * _MARGIN, 2 * _MARGIN), caption, font=font, fill=(255, 255, 255, 255))
