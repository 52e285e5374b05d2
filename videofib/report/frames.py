"""A few frames of a video side by side, small enough to be embedded in a page."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from videofib.data.errors import DecodeError, FrameIndexError
from videofib.data.lists.remote import fetched
from videofib.data.segment import Segment
from videofib.data.source import Source
from videofib.data.video.decode import estimate, read_frames
from videofib.data.video.extent import segment_extent
from videofib.report.markup.html import data_uri

_SHORT_SIDE = 128  # pixels
_LONG_SIDE = 256
_JPEG_QUALITY = 72


@dataclass(frozen=True)
class Strip:
    """Frames side by side.

    Attributes:
        uri: a data URI of a JPEG picture.
        width, height: of one frame, in pixels.
        indices: the frames' indices in the video.
    """

    uri: str
    width: int
    height: int
    indices: list[int]


def strip(source: Source, count: int = 8, *, segment: Segment | None = None) -> Strip:
    """``count`` frames: the middle ones of as many equal parts of the video, or of the segment of it.

    Raises:
        DecodeError: the video cannot be read.
    """
    with fetched(source) as local:
        stored = estimate(local)

        def middles(length: int) -> list[int]:
            if segment is None:
                return _middles(length, count)
            extent = segment_extent(local, segment, stored, length, stored.fps or 1.0)
            return [extent.first + index for index in _middles(extent.length, count)]

        indices = middles(stored.num_frames)
        try:
            frames = read_frames(local, indices, short_side=_SHORT_SIDE)
        except FrameIndexError as error:  # the header claims more frames than there are
            if error.num_frames <= 0:
                raise DecodeError(f"{source}: {error}") from error
            indices = middles(error.num_frames)
            frames = read_frames(local, indices, short_side=_SHORT_SIDE)
    pictures = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]
    for picture in pictures:
        picture.thumbnail((_LONG_SIDE, _LONG_SIDE))  # very wide ones
    width, height = pictures[0].size
    sheet = Image.new("RGB", (width * len(pictures), height))
    for column, picture in enumerate(pictures):
        sheet.paste(picture, (column * width, 0))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return Strip(data_uri("jpeg", buffer.getvalue()), width, height, indices)


def _middles(length: int, count: int) -> list[int]:
    return [(2 * part + 1) * length // (2 * count) for part in range(count)]
