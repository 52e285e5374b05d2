"""A few frames of a video as one strip, small enough to be kept within a page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from videofib.data.errors import DecodeError, FrameIndexError
from videofib.data.lists.remote import fetched
from videofib.data.source import Source
from videofib.data.video.decode import estimate, read_frames

_SHORT_SIDE = 128  # pixels
_LONG_SIDE = 256
_QUALITY = 72


@dataclass(frozen=True)
class Strip:
    """Frames side by side.

    Attributes:
        uri: a data URI of a JPEG picture.
        width, height: of one frame, in pixels.
        indices: the frames' numbers in the video.
    """

    uri: str
    width: int
    height: int
    indices: list[int]


def strip(source: Source, count: int = 8) -> Strip:
    """``count`` frames, spread evenly over a video from the middle of its first part to that of its last.

    Raises:
        DecodeError: the video cannot be read.
    """
    with fetched(source) as local:
        indices = _spread(estimate(local).num_frames, count)
        try:
            frames = read_frames(local, indices, short_side=_SHORT_SIDE)
        except FrameIndexError as error:
            if error.num_frames <= 0:
                raise DecodeError(f"{source}: {error}") from error
            indices = _spread(error.num_frames, count)
            frames = read_frames(local, indices, short_side=_SHORT_SIDE)
    pictures = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]
    for picture in pictures:
        picture.thumbnail((_LONG_SIDE, _LONG_SIDE))  # very wide ones
    width, height = pictures[0].size
    sheet = Image.new("RGB", (width * len(pictures), height))
    for place, picture in enumerate(pictures):
        sheet.paste(picture, (place * width, 0))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=_QUALITY)
    return Strip(data_uri("jpeg", buffer.getvalue()), width, height, indices)


def data_uri(kind: str, content: bytes) -> str:
    """A picture as the address of itself."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _spread(length: int, count: int) -> list[int]:
    return [(2 * place + 1) * length // (2 * count) for place in range(count)]
