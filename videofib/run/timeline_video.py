"""The frames of a video with what a model sees in them written over."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from videofib.data.lists.remote import fetched
from videofib.data.video.stills import open_any
from videofib.printable import printable
from videofib.run.timeline import Timeline

_MOST_HEIGHT = 360  # pixels
_LINES = 3  # classes
_LETTERS = 40  # of a class's name
_MARGIN = 4


def captioned_frames(timeline: Timeline) -> Iterator[np.ndarray]:
    """The frames (H, W, 3), uint8 RGB, H at most 360 and both even, one after another.

    Each has the most probable classes of the window whose middle is nearest.

    Raises:
        DecodeError: the video cannot be read.
    """
    middles = [(start + end) / 2 for start, end, _ in timeline.windows]
    between = [(one + other) / 2 for one, other in itertools.pairwise(middles)]
    captions = [_caption(prediction.top(_LINES)) for _, _, prediction in timeline.windows]
    with fetched(timeline.video) as source, open_any(timeline.frame_files.of(source)) as reader:
        for index, frame in enumerate(reader.frames()):
            height, width = _size(*reader.size)
            picture = Image.fromarray(reader.to_size(frame, height, width))
            _write(picture, captions[bisect_left(between, index / timeline.fps)])
            yield np.asarray(picture)


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
