"""Frames shown at any times -> frames at a constant rate. Pure; no decoding here.

Output frame i stands for the time from i/fps to (i+1)/fps and is the frame that was on the screen in its middle:

    source, 3 a second    |   0   |   1   |   2   |   3   |
    output, 2 a second    |     0     |     1     |
    middles                     ^           ^               -> source frames 0 and 2

The middle, since many containers round times: at the source's own rate every frame occurs exactly once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from videofib.data.errors import DecodeError
from videofib.data.video.clock import LONGEST_SHOWN

Frame = TypeVar("Frame")


def resample(frames: Iterable[tuple[float | None, Frame]], source_fps: float, fps: float) -> Iterator[Frame]:
    """Repeat and skip frames so that there are ``fps`` a second; at least one is returned.

    Args:
        frames: (time in seconds, frame) in the order shown; a frame without a time begins 1/source_fps after the one
            before it, and one whose time runs backwards begins with the one before it.
        source_fps: frames a second on average; the last frame is shown for the duration of one of these.
        fps: frames a second to return.

    Raises:
        DecodeError: a frame that is shown for longer than a minute, or no frames.
    """
    given, held, start, origin = 0, None, 0.0, None
    for index, (time, frame) in enumerate(frames):
        origin = (time or 0.0) if index == 0 else origin
        begin = 0.0 if index == 0 else start + 1 / source_fps if time is None else max(time - origin, start)
        if begin - start > LONGEST_SHOWN:
            raise DecodeError(f"frame {index - 1} stays for {begin - start:.0f} s; prepare this video without --fps")
        while (given + 0.5) / fps < begin:
            yield held
            given += 1
        held, start = frame, begin
    if origin is None:
        raise DecodeError("no frames")
    while given == 0 or (given + 0.5) / fps < start + 1 / source_fps:
        yield held
        given += 1
