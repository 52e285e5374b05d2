"""Frames side by side in one picture, of which a page shows one at a time: played, or chosen with a slider."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from videofib.report.markup.html import data_uri, text

_JPEG_QUALITY = 72
MOST_PIXELS = 65_000  # a JPEG may be 65,535 wide


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


def joined(pictures: Sequence[Image.Image], indices: Sequence[int]) -> Strip:
    """Frames of one size as a strip; all are scaled down where they are too wide for one picture."""
    width, height = pictures[0].size
    if (most := MOST_PIXELS // len(pictures)) < width:
        width, height = max(1, most), max(1, height * most // width)
        pictures = [picture.resize((width, height)) for picture in pictures]
    sheet = Image.new("RGB", (width * len(pictures), height))
    for column, picture in enumerate(pictures):
        sheet.paste(picture, (column * width, 0))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return Strip(data_uri("jpeg", buffer.getvalue()), width, height, list(indices))


def player(frames: Strip, name: str, about: str) -> str:
    """The element of a strip, with its controls.

    Args:
        name: what is played, as in "Play video 3"; no two on a page have the same.
        about: what the frames show.
    """
    count = len(frames.indices)
    listed = " ".join(map(str, frames.indices))
    return f"""<div class="player" style="--frames:{count};--wide:{frames.width};--high:{frames.height}">
<div class="window"><img src="{frames.uri}" width="{frames.width * count}" height="{frames.height}"
 alt="{text(about)}" draggable="false"></div>
<div class="controls"><button type="button" class="play" aria-label="Play {text(name)}">Play</button>
<label><span class="unseen">Frame of {text(name)}</span>
<input type="range" min="0" max="{count - 1}" value="0" step="1"></label>
<output data-indices="{listed}">frame {frames.indices[0]}</output></div></div>"""
