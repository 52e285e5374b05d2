"""What reading all packets of a video once shows, without decoding any: an estimate, and where decoding may start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import av

from videofib.data.errors import DecodeError
from videofib.data.sampling import is_uneven
from videofib.data.video.clock import Clock, Stored, average_fps, presentation_order, without_jumps
from videofib.data.video.pyav_reader import LATE_REORDERING, OrderedReader, stored
from videofib.data.video.seek_index import SeekIndex, build

# Packets are kept in memory up to this total; those of larger videos are read from the file a second time.
_KEPT_BYTES = 64 << 20
_PACKET_BYTES = 860  # that a kept packet takes beside its data
# MPEG-4's placeholders for "the same frame again", and for the second of two frames packed into one packet, have up to
# 8 bytes. They yield no frame, or that of another packet, so packets do not number frames.
_PLACEHOLDER_BYTES = 15
# VP8 stores frames that are never shown as packets of their own.
_HIDDEN_FRAMES = ("vp8",)


@dataclass(frozen=True)
class Estimate:
    """The facts about a video that its packets state, before any is decoded.

    Attributes:
        num_frames: frames stored, without those that an edit list cuts away.
        fps: frames a second, on average.
        times: when each is shown, in seconds, ascending, without jumps of the clock; empty where they are shown at even
            times or that is unknown.
        clock: how the times of the frames are to be read.
        states_decoding_times: the frames have the times at which they are decoded, not shown.
        clock_goes_back: a frame has an earlier time than the one that comes out before it.
    """

    num_frames: int
    fps: float
    times: tuple[float, ...] = ()
    clock: Clock = field(default_factory=Clock)
    states_decoding_times: bool = False
    clock_goes_back: bool = False


@dataclass(frozen=True)
class Survey:
    """What the packets of a video have shown.

    Attributes:
        stated: what the container states, see ``OrderedReader.stated``.
        index: where decoding may start; None where times do not number the frames.
        estimate: None where it has not been asked for.
        damaged: "" or why reading stopped early.
    """

    stated: str
    index: SeekIndex | None
    estimate: Estimate | None = None
    damaged: str = ""


def has_no_index(reader: OrderedReader) -> bool:
    """Whether only reading in order finds the frames, whatever the packets state."""
    return reader.codec in _HIDDEN_FRAMES or (
        reader.container_format == "avi" and reader.codec in LATE_REORDERING  # avi stores no presentation times
    )


def take(reader: OrderedReader, with_estimate: bool = False) -> tuple[Survey, list[av.Packet] | None]:
    """The survey of an open video, and its packets; None if they are too many to keep, or it has no index.

    Raises:
        DecodeError: an estimate is asked for, and no frame is stored.
    """
    stated, numbered = reader.stated, not has_no_index(reader)
    facts, kept, size = [], [], 0
    if numbered or with_estimate:
        for packet in reader.packets():
            if packet.is_corrupt or (reader.codec == "mpeg4" and packet.size <= _PLACEHOLDER_BYTES):
                numbered = False
            if not numbered and not with_estimate:
                break
            facts.append(stored(packet))
            size += packet.size + _PACKET_BYTES
            if size <= _KEPT_BYTES:
                kept.append(packet)
    index = build(facts, reader.reordered) if numbered and not reader.damaged else None
    if index is not None and reader.has_made_up_times(facts):
        index = None
    survey = Survey(stated, index, _estimate(reader, facts) if with_estimate else None, reader.damaged)
    return survey, kept if index is not None and size <= _KEPT_BYTES else None


def _estimate(reader: OrderedReader, facts: Sequence[Stored]) -> Estimate:
    count = sum(packet.is_shown for packet in facts)
    if not count:
        raise DecodeError(f"{reader.path}: no frame is stored ({reader.damaged or 'the video stream is empty'})")
    tick = float(reader.stream.time_base)
    order = presentation_order(facts, reader.reordered)
    clock, times = without_jumps([ticks * tick for ticks in order])
    return Estimate(
        num_frames=count,
        fps=average_fps(reader.fps, times),
        times=tuple(times) if len(times) == count and is_uneven(times) else (),
        clock=clock,
        states_decoding_times=reader.states_decoding_times(facts),
        clock_goes_back=any(a > b for a, b in pairwise(order)),
    )
