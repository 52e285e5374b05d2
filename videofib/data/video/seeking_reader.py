"""Reading single frames with PyAV from the keyframe before them, and noticing where that goes wrong.

All packets of the file are read, which takes about a millisecond, and only the needed ones are decoded. So nothing
depends on how a container seeks. It remains to check that times number the frames (``seek_index``), and that the
decoder yields the same frames when it starts midway as in order. Both are checked on each read: from the entry to the
requested frame, every frame must come out intact and at exactly its time, and the first must be a keyframe. At the
first deviation the attempt is given up, and the caller reads in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import av
import numpy as np

from videofib.data.source import Source
from videofib.data.video.memory import MOST_BYTES
from videofib.data.video.pyav_reader import FFMPEG_ERRORS, LATE_REORDERING, OrderedReader, open_in_order, stored
from videofib.data.video.seek_index import SeekIndex, build

# Packets are kept in memory up to this total; those of larger videos are read from the file a second time.
_KEPT_BYTES = 64 << 20
_PACKET_BYTES = 860  # that a kept packet takes beside its data
# MPEG-4's placeholders for "the same frame again", and for the second of two frames packed into one packet, have up to
# 8 bytes. They yield no frame, or that of another packet, so packets do not number frames.
_PLACEHOLDER_BYTES = 15
# VP8 stores frames that are never shown as packets of their own.
_HIDDEN_FRAMES = ("vp8",)
# These may state with any frame how it is turned; the first one decides, so it is decoded, too.
_ORIENTED = ("h264", "hevc", "vvc", "mjpeg", "png", "tiff", "webp")


def read_seeking(
    source: Source, indices: Sequence[int], short_side: int = 0, most_bytes: int = MOST_BYTES
) -> np.ndarray | None:
    """Frames (T, H, W, 3) uint8 RGB at ascending, distinct indices; None where only reading in order finds them.

    ``short_side`` in pixels: larger frames are scaled down to it; 0: none. ``most_bytes``: see ``memory.empty_frames``.

    Raises:
        DecodeError: the file cannot be opened, has no video, or the frames take too much memory.
    """
    with open_in_order(source) as reader:
        index, packets = scan(reader)
        if index is None or indices[-1] >= len(index.times):
            return None
        if packets is not None:
            return _read(_Walk(reader, iter(packets), index), indices, short_side, most_bytes)
    with open_in_order(source) as reader:
        return _read(_Walk(reader, reader.packets(), index), indices, short_side, most_bytes)


def scan(reader: OrderedReader) -> tuple[SeekIndex | None, list[av.Packet] | None]:
    """The index of an open video, None if it has none, and its packets, None if they are too many to keep."""
    if reader.codec in _HIDDEN_FRAMES or (reader.container_format == "avi" and reader.codec in LATE_REORDERING):
        return None, None  # avi stores no presentation times
    facts, kept, size = [], [], 0
    for packet in reader.packets():
        if packet.is_corrupt or (reader.codec == "mpeg4" and packet.size <= _PLACEHOLDER_BYTES):
            return None, None
        facts.append(stored(packet))
        size += packet.size + _PACKET_BYTES
        if size <= _KEPT_BYTES:
            kept.append(packet)
    index = None if reader.damaged else build(facts, reader.reordered)
    if index is None or reader.has_made_up_times(facts):
        return None, None
    return index, kept if size <= _KEPT_BYTES else None


def _read(walk: _Walk, indices: Sequence[int], short_side: int, most_bytes: int) -> np.ndarray | None:
    try:
        return walk.reader.collect((walk.frame(i) for i in indices), len(indices), short_side, most_bytes)
    except (_DeviationError, *FFMPEG_ERRORS):
        return None


class _DeviationError(Exception):
    """Decoding yielded something else than the index predicts."""


class _Walk:
    """Goes through the packets once, decodes those that the requested frames need, and skips the others."""

    def __init__(self, reader: OrderedReader, packets: Iterator[av.Packet], index: SeekIndex):
        self.reader, self._packets, self._index = reader, packets, index
        self._decoder = reader.stream.codec_context
        self._decoder.thread_type, self._decoder.thread_count = "NONE", 1  # the fastest for a few frames
        self._size = self._decoder.width, self._decoder.height  # of the first frame, as the container states it
        self._position = 0  # the next packet
        self._frames = self._checked(0)

    def frame(self, number: int) -> av.VideoFrame:
        """Frame ``number``, which must not be before those requested so far."""
        packet, first = self._index.entry(number)
        if packet > self._position == 0 and self.reader.codec in _ORIENTED and next(self._frames, None) is None:
            raise _DeviationError  # no first frame, which states how all are shown
        if packet > self._position:  # otherwise decoding on is faster
            self._decoder.flush_buffers()
            next(islice(self._packets, packet - self._position, packet - self._position), None)
            self._position = packet
            self._frames = self._checked(first)
        for found, frame in self._frames:
            if found == number:
                return frame
        raise _DeviationError

    def _checked(self, first: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """The frames from entry ``first`` on with their numbers, each checked to be the expected one."""
        times, number = self._index.times, first
        for frame in self._decoded():
            if number == first > 0:
                if frame.pts is not None and frame.pts < times[first]:
                    continue  # stored behind the keyframe and shown before it; it refers to frames not decoded
                if not frame.key_frame:
                    raise _DeviationError
            if number == len(times) or frame.pts != times[number] or frame.is_corrupt:
                raise _DeviationError
            if (frame.width, frame.height) != self._size:
                raise _DeviationError  # the size changes midway, so that of the first frame is uncertain
            self.reader.first = self.reader.first or frame
            yield number, frame
            number += 1

    def _decoded(self) -> Iterator[av.VideoFrame]:
        for packet in self._packets:
            self._position += 1
            yield from self._decoder.decode(packet)
        yield from self._decoder.decode(None)
