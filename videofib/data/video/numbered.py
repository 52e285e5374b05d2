"""The frames of a video in order, with their numbers, also behind a stretch that does not decode.

::

    packets   k . . . k . x x . . . k . . .        k: keyframe; x: does not decode
    frames    0 1 2 3 4 5           11 12 13 14    after a break decoding continues at the next entry

Up to the first break these are the frames of ``OrderedReader.frames``. Behind it a frame is given only if its time is
one of the index, which numbers it, and only from an entry on, at which decoding may start (``seek_index``).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

import av

from videofib.data.errors import DecodeError
from videofib.data.video.pyav_reader import FFMPEG_ERRORS, OrderedReader, reason_of
from videofib.data.video.seek_index import SeekIndex


def numbered_frames(reader: OrderedReader, index: SeekIndex | None) -> Iterator[tuple[int, av.VideoFrame]]:
    """(number, frame), ascending; numbers that are left out are of frames that do not decode.

    Args:
        index: of the packets of this file; None where times do not number its frames: then they end at the first break.

    ``reader.damaged`` says why the first break is one, and ``reader.first`` is set, as by ``OrderedReader.frames``.

    Raises:
        DecodeError: no frame decodes.
    """
    numbers = _Numbers(index)
    for frame in _decoded(reader, numbers):
        number = numbers.of(frame)
        if number is not None:
            reader.first = reader.first or frame
            yield number, frame
    if numbers.next == 0:
        raise DecodeError(f"{reader.path}: no frame decodes ({reader.damaged or 'the video stream is empty'})")


class _Numbers:
    """Which frame one is: by counting, and by its time where the frames before it did not all come out."""

    def __init__(self, index: SeekIndex | None):
        self.index, self.next, self.broken = index, 0, False

    def of(self, frame: av.VideoFrame) -> int | None:
        """The number of a frame; None for one behind a break that is none of the index, or not intact."""
        number = self.next
        if self.index is not None and not (number < len(self.index.times) and frame.pts == self.index.times[number]):
            number = self._by_time(frame)
        if number is not None:
            self.next = number + 1
        return number

    def _by_time(self, frame: av.VideoFrame) -> int | None:
        times = self.index.times
        number = len(times) if frame.pts is None else bisect_left(times, frame.pts)
        known = self.next <= number < len(times) and times[number] == frame.pts
        if known and not (self.broken and frame.is_corrupt):
            return number
        if self.broken:
            return None
        self.index = None  # decoding gives other times than the packets have: nothing but counting is left
        return self.next


def _decoded(reader: OrderedReader, numbers: _Numbers) -> Iterator[av.VideoFrame]:
    """The frames that come out; after an error from the next entry of the index on."""
    decoder, waits = reader.stream.codec_context, False
    for position, packet in enumerate(reader.packets()):
        if waits:
            if not _is_entry(numbers.index, position, packet):
                continue
            decoder.flush_buffers()
            waits = False
        try:
            yield from decoder.decode(packet)
        except FFMPEG_ERRORS as error:
            reader.damaged = reader.damaged or f"decoding stopped after {numbers.next} frames: {reason_of(error)}"
            if numbers.index is None:
                return
            numbers.broken = waits = True
    if not waits:
        try:
            yield from decoder.decode(None)
        except FFMPEG_ERRORS as error:
            reader.damaged = reader.damaged or f"decoding stopped after {numbers.next} frames: {reason_of(error)}"


def _is_entry(index: SeekIndex, position: int, packet: av.Packet) -> bool:
    number = bisect_left(index.entry_packets, position)
    if number == len(index.entry_packets) or index.entry_packets[number] != position:
        return False
    return packet.pts == index.packet_times[position] and packet.size == index.packet_sizes[position]
