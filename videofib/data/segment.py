"""A part of a video that a row of a list names: from one moment, or frame, up to another.

::

    frame      0 1 2 3 4 5 6 7 8 9 10 11 12        25 frames a second
    shown at   0   0.08    0.2     0.4
    0.08 to 0.4 seconds, or 2 to 10 frames
                   * * * * * * * *                  the end itself is not part of it

Seconds count from the first frame, without jumps of the clock; frames count from 0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

UNITS = ("seconds", "frames")
_MOST = 1e9  # seconds or frames; no video is as long
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
_MAX_SHOWN = 40  # characters of a text that a message shows
# what follows a path in the name of a segment: a media fragment (W3C), and the same for frames
_NAME = re.compile(r"(?P<path>.+)#(?P<key>t|frames)=(?P<start>[\d.]{1,30}),(?P<end>[\d.]{1,30})", re.DOTALL)


@dataclass(frozen=True)
class Segment:
    """The frames of a video from ``start`` up to, but without, ``end``.

    Attributes:
        start, end: in ``unit``; 0 <= start < end.
        unit: ``seconds`` or ``frames``.
        row: the file and line that name it, for messages.
    """

    start: float
    end: float
    unit: str
    row: str = field(default="", compare=False, repr=False)

    def __str__(self) -> str:
        """What names it behind the path of its video: ``#t=1.5,4.25`` or ``#frames=30,60``."""
        return f"#{'t' if self.unit == 'seconds' else 'frames'}={_plain(self.start)},{_plain(self.end)}"


def read_segment(start: str, end: str, unit: str) -> tuple[float, float]:
    """The two numbers of a segment from their texts.

    Raises:
        ValueError: not numbers of seconds or frames from 0 on, or not start < end; the message has no file.
    """
    first, last = (_read(name, text, unit) for name, text in (("start", start), ("end", end)))
    if first >= last:
        raise ValueError(f"start {start} is not before end {end}")
    return first, last


def named_segment(name: str) -> tuple[str, Segment | None]:
    """(path, segment) from the name of a row; a name that ends otherwise is a path alone."""
    found = _NAME.fullmatch(name)
    if found is None:
        return name, None
    unit = "seconds" if found["key"] == "t" else "frames"
    try:
        return found["path"], Segment(*read_segment(found["start"], found["end"], unit), unit, name)
    except ValueError:
        return name, None


def _read(name: str, text: str, unit: str) -> float:
    shown = repr(text) if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]!r}... ({len(text)} characters)"
    if not text:
        raise ValueError(f"{name} is empty; give start and end of a segment both, or neither")
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{name} {shown} is not a number of {unit}")
    value = float(text)
    if value < 0:
        raise ValueError(f"{name} {shown} is below 0")
    if value > _MOST:
        raise ValueError(f"{name} {shown} is more {unit} than any video has")
    if unit == "frames" and value != int(value):
        raise ValueError(f"{name} {shown} is no frame number: they are 0, 1, 2, ...")
    return value


def _plain(value: float) -> str:
    """The shortest digits that mean the same number, without an exponent."""
    if value == int(value):
        return str(int(value))
    return f"{value:.20f}".rstrip("0") if "e" in repr(value) else repr(value)
