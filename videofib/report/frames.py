"""A few frames of a video side by side, small enough to be embedded in a page."""

from __future__ import annotations

import numpy as np
from PIL import Image

from videofib.data.errors import DecodeError, FrameIndexError
from videofib.data.lists.remote import fetched
from videofib.data.segment import Segment
from videofib.data.source import Source
from videofib.data.video.decode import estimate, read_frames
from videofib.data.video.extent import segment_extent
from videofib.report.markup.player import Strip, joined

_SHORT_SIDE = 128  # pixels
_LONG_SIDE = 256


def strip(source: Source, count: int = 8, *, segment: Segment | None = None) -> Strip:
    """``count`` frames: the middle ones of as many equal parts of the video, or of the segment of it.

    Of a video or segment with fewer frames it is all of them.

    Raises:
        DecodeError: the video cannot be read.
    """
    with fetched(source) as local:
        stored = estimate(local)

        def middles(length: int) -> list[int]:
            if segment is None:
                return _middles(length, min(length, count))
            extent = segment_extent(local, segment, stored, length, stored.fps or 1.0)
            return [extent.first + index for index in _middles(extent.length, min(extent.length, count))]

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
    return joined(pictures, indices)


def _middles(length: int, count: int) -> list[int]:
    return [(2 * part + 1) * length // (2 * count) for part in range(count)]
