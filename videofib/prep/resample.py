"""Frames shown at any times -> frames at a constant rate. Pure; no decoding here.

Output frame i stands for the time from i/fps to (i+1)/fps and is the frame that was on the screen in its middle:

    source, 3 a second    |   0   |   1   |   2   |   3   |
    output, 2 a second    |     0     |     1     |
    middles                     ^           ^               -> source frames 0 and 2

The middle, since times are rounded in many containers: at the source's own rate every frame comes exactly once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from videofib.data.errors import DecodeError

Frame = TypeVar("Frame")
LONGEST = 60.0  # seconds that one frame may stay; a lying file may claim days


def resample(frames: Iterable[tuple[float | None, Frame]], source_fps: float, fps: float) -> Iterator[Frame]:
    """Repeat and leave out frames so that there are ``fps`` a second; at least one comes out.

    Args:
        frames: (time in seconds, frame) in the order shown; without a time, a frame comes 1/source_fps after the
            start of the one before it, and times that run backwards are those of the frame before.
        source_fps: frames a second on average; the last frame stays as long as one of these.
        fps: frames a second to give out.

    Raises:
        DecodeError: a frame that stays longer than a minute, or no frames.
    """
    given, held, start, origin = 0, None, 0.0, None
    for index, (time, frame) in enumerate(frames):
        origin = (time or 0.0) if index == 0 else origin
        begin = 0.0 if index == 0 else start + 1 / source_fps if time is None else max(time - origin, start)
        if begin - start > LONGEST:
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
