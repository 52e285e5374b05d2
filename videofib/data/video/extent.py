"""Which frames of a video a row of a list means: all, or those of a segment, as if these were a video of their own."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from videofib.data.errors import DecodeError
from videofib.data.sampling import frames_shown_at, is_uneven
from videofib.data.segment import Segment
from videofib.data.source import Source
from videofib.data.video.clock import average_fps
from videofib.data.video.pyav_reader import open_in_order
from videofib.data.video.stills import stills
from videofib.data.video.survey import Estimate
from videofib.data.video.survey_cache import surveyed

# By as much a segment may end behind its video: sound is often longer than the picture, and annotations round.
SECONDS_BEHIND = 0.5
FRAMES_BEHIND = 2  # by which the number of frames that a file states may be wrong
_ROUNDING = 1e-6  # seconds
_MOST_ROUNDING = 6e-4  # seconds by which a container may round times: Matroska to a thousandth


@dataclass(frozen=True)
class Extent:
    """Frames of a video that follow each other.

    Attributes:
        first: the index of the first one in the video.
        length: how many there are.
        fps: frames a second, on average.
        times: when each is shown, in seconds, ascending; empty where they are shown at even times.
    """

    first: int
    length: int
    fps: float
    times: Sequence[float] = ()

    def in_video(self, clip: Sequence[int]) -> list[int]:
        """The frames of the video for the indices of a clip that is taken from these frames as from a video."""
        if len(self.times) >= self.length:
            clip = frames_shown_at(clip, self.times[: self.length])
        return [self.first + index for index in clip]


def segment_extent(source: Source, segment: Segment, stored: Estimate, length: int, fps: float) -> Extent:
    """The frames of a segment: in a file that has only these, the same clips are taken.

    Args:
        source: a local video.
        stored: its estimate.
        length: frames of the video.
        fps: frames a second of the video.

    Raises:
        DecodeError: the segment ends behind the video, or no frame begins in it; names its row.
    """
    times, tick = _shown_times(source, stored)
    times = times[:length]
    if segment.unit == "frames":
        first, last = int(segment.start), int(segment.end)
        if last > length + FRAMES_BEHIND or first >= length:
            raise _behind(source, segment, f"{length} frames")
        last = min(last, length)
    else:
        if len(times) > 1:
            duration = (times[-1] - times[0]) * tick * len(times) / (len(times) - 1)
        else:
            duration = length / fps
        if segment.end > duration + SECONDS_BEHIND or segment.start >= duration:
            raise _behind(source, segment, f"{duration:.6g} seconds")
        first, last = (_frame_at(moment, times, tick, length, fps) for moment in (segment.start, segment.end))
    if first >= last:
        raise DecodeError(f"{source}: no frame begins in {_words(segment)} (at {fps:.6g} frames a second)")
    own = [time * tick for time in times[first:last]]
    if len(own) < 2:
        return Extent(first, last - first, fps)
    return Extent(first, last - first, average_fps(fps, own), own if is_uneven(own) else ())


def _shown_times(source: Source, stored: Estimate) -> tuple[Sequence[float], float]:
    """When each frame is shown, ascending, without jumps, and the seconds of their unit; none where that is unknown."""
    if stored.times:
        return stored.times, 1.0
    if stills(source):
        return (), 1.0
    index = surveyed(source, with_estimate=True).index
    if index is None or len(index.times) != stored.num_frames:
        return (), 1.0
    with open_in_order(source) as reader:
        tick = float(reader.stream.time_base)
    if not stored.clock.jumps:
        return index.times, tick
    return sorted(stored.clock.continuous(time * tick for time in index.times)), 1.0


def _frame_at(moment: float, times: Sequence[float], tick: float, length: int, fps: float) -> int:
    """The first frame that is not shown before a moment, in seconds from the first frame."""
    if not len(times):
        return min(ceil((moment - _ROUNDING) * fps), length)
    rounding = min(tick / 2, _MOST_ROUNDING) + _ROUNDING if tick < 1 else _MOST_ROUNDING
    return bisect_left(times, times[0] + (moment - rounding) / tick)


def _behind(source: Source, segment: Segment, has: str) -> DecodeError:
    return DecodeError(f"{source}: {_words(segment)} is not within the video, which has {has}")


def _words(segment: Segment) -> str:
    where = f" of {segment.row}" if segment.row else ""
    return f"the segment {segment}{where}"
