"""When the frames of a video are shown, although its clock may jump: pure arithmetic on times, no decoding.

The times in a file need not continue. In files joined byte by byte (``cat``) each part has times of its own; a camera's
clock is set back; a recording pauses while its clock runs on; the 33 bits of MPEG's clock overflow after a day. No
screen shows this, so the frame after a jump follows one step, the median, after the one before it::

    stated       0  1  2  3  0  1  2  3          the clock goes back
    continuous   0  1  2  3  4  5  6  7

    stated       0  1  2  3           90 91 92   a pause
    continuous   0  1  2  3  4  5  6

A frame may also be held on the screen, as in screen recordings, slide shows and time-lapses. The constants below
separate the two: a pause is long, many times the median step, and rare. A file in which more than a few frames are held
has a variable rate, and there only what is longer than a minute counts as a pause.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import pairwise
from math import inf
from statistics import median_low
from typing import NamedTuple, TypeVar

Frame = TypeVar("Frame")
LONGEST_SHOWN = 60.0  # seconds that one frame may be shown; wrong times in a file may amount to days
_PAUSE = 2.0  # seconds, and
_PAUSE_STEPS = 40  # median steps that a pause takes at least
_HELD_STEPS = 4  # median steps for which a frame of a constant rate is not shown, even if some are lost
_RARE = 0.03  # of all steps may be that long where the rate is constant and the clock has jumped
# Neighbours that have each other's times are no jump: those go back by a few median steps, and sorted they are as far
# apart as any. Wherever the clock has gone back, two of the sorted times are at most half a step apart.
_DISORDER_STEPS = 4
_OVERLAP_STEPS = 0.51
REORDERED = 16  # frames that a decoder holds back at most, to show them in another order than they are stored in


class Stored(NamedTuple):
    """The facts that a packet states about its frame.

    Attributes:
        time: when it is shown, in ticks of the stream; None: unknown.
        is_key: decoding may start here.
        is_shown: False where an edit list cuts it away.
        decoded: when it is decoded, in ticks of the stream; None: unknown.
        size: bytes.
    """

    time: int | None
    is_key: bool
    is_shown: bool = True
    decoded: int | None = None
    size: int = 0


def presentation_order(packets: Sequence[Stored], reordered: int) -> list[int]:
    """The known times of the shown packets, in the order in which a decoder returns their frames.

    A decoder holds back up to ``reordered`` frames and returns the earliest of them first, and at a keyframe all that
    were stored before it; here also where times of decoding go back. So the result ascends, unless the clock does not::

        stored     k0  3  1  2  6  4  5  k0  3  1  2         two parts with B-frames, joined
        returned    0  1  2  3  4  5  6   0  1  2  3
    """
    returned: list[int] = []
    held: list[int] = []
    latest: int | None = None  # time of decoding
    all_decoded = all(packet.decoded is not None for packet in packets)  # otherwise FFmpeg has guessed the others
    for time, is_key, is_shown, decoded, _ in packets:
        if time is None or not is_shown:
            latest = None  # between the entries of an edit list times of decoding go back, although the clock does not
            continue
        goes_back = None not in (decoded, latest) and decoded < latest
        if is_key or goes_back or (returned and time <= returned[-1]):
            returned += sorted(held)
            held = []
        latest = decoded if all_decoded else None
        heappush(held, time)
        if len(held) > reordered:
            returned.append(heappop(held))
    return returned + sorted(held)


def ascending(packets: Sequence[Stored]) -> bool:
    """Whether frames are stored in the order of their times, all of which are known; two may have the same."""
    times = [packet.time for packet in packets]
    return None not in times and all(a <= b for a, b in pairwise(times))


@dataclass(frozen=True)
class Clock:
    """How the times of a video's frames are to be read; by default as they are.

    Attributes:
        jumps: how often the clock jumps.
        step: seconds from one frame to the next across a jump: the median.
        longest: seconds; a step longer than this is a jump.
        furthest_back: seconds; a step further back is a jump.
    """

    jumps: int = 0
    step: float = 0.0
    longest: float = inf
    furthest_back: float = inf

    def continuous(self, times: Iterable[float | None]) -> Iterator[float | None]:
        """Times in seconds of frames in the order in which they come out, without the jumps; unknown ones stay None."""
        before, unknown, shift = None, 0, 0.0
        for time in times:
            if time is None:
                unknown += 1
                yield None
                continue
            if before is not None and self._is_jump(time - before):
                shift += before + (unknown + 1) * self.step - time
            before, unknown = time, 0
            yield time + shift

    def _is_jump(self, step: float) -> bool:
        return step > self.longest or step < -self.furthest_back


def read_clock(times: Sequence[float]) -> Clock:
    """The clock of a video whose frames come out at these times, in seconds, in this order."""
    steps = [b - a for a, b in pairwise(times)]
    forwards = [step for step in steps if step > 0]
    if not forwards:
        return Clock()
    median = median_low(forwards)
    clock = Clock(0, median, _longest_step(forwards, median), _furthest_back(times))
    jumps = sum(map(clock._is_jump, steps))
    return Clock(jumps, clock.step, clock.longest, clock.furthest_back) if jumps else Clock()


def without_jumps(times: list[float]) -> tuple[Clock, list[float]]:
    """The clock by which frames come out at these times, and the times without its jumps, ascending."""
    clock = read_clock(times)
    return clock, sorted(clock.continuous(times))


def average_fps(stated: float, times: list[float]) -> float:
    """Frames a second: as the container states it, unless the frames' own times differ by more than a tenth.

    times: seconds, ascending.

    Some containers round times, so the stated rate is the more precise one; but for variable rates some containers
    state a nominal rate.
    """
    span = times[-1] - times[0] if times else 0
    if span <= 0:
        return stated
    measured = (len(times) - 1) / span
    return stated if abs(measured - stated) <= 0.1 * stated else measured


def in_order_of_time(frames: Iterable[tuple[float | None, Frame]]) -> Iterator[tuple[float | None, Frame]]:
    """(time, frame) pairs in which each frame has the next time instead of its own.

    For containers that state when frames are decoded, not when they are shown: there frames that the decoder reorders
    come out with each other's times, at most ``REORDERED`` frames away.
    """
    waiting: list[Frame] = []
    times: list[float] = []
    for time, frame in frames:
        waiting.append(frame)
        heappush(times, inf if time is None else time)
        if len(waiting) > REORDERED:
            yield _known(heappop(times)), waiting.pop(0)
    for frame in waiting:
        yield _known(heappop(times)), frame


def _known(time: float) -> float | None:
    return None if time == inf else time


def _furthest_back(times: Sequence[float]) -> float:
    backwards = sum(b < a for a, b in pairwise(times))
    steps = [b - a for a, b in pairwise(sorted(times))]
    median = median_low([step for step in steps if step > 0])
    overlaps = sum(step < _OVERLAP_STEPS * median for step in steps)
    return 0.0 if overlaps >= backwards else _DISORDER_STEPS * median


def _longest_step(forwards: Sequence[float], median: float) -> float:
    held = sum(step > _HELD_STEPS * median for step in forwards)
    is_constant = held <= max(1, _RARE * len(forwards))
    return max(_PAUSE if is_constant else LONGEST_SHOWN, _PAUSE_STEPS * median)
