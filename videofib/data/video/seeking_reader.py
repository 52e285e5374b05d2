"""Reading single frames with PyAV from the keyframe before them, and noticing where that goes wrong.

Only the packets that the requested frames need are decoded. Those of a short file are all read, which takes about a
millisecond; in a long one of which the packets are known (``survey_cache``) the container seeks to them. Where a
container leads to is not believed: each packet that arrives must be the next one of the index, by its time and size.
Where it is not, all packets are read.

It remains to check that times number the frames (``seek_index``), and that the decoder yields the same frames when it
starts midway as in order. Both are checked on each read: from the entry to the requested frame, every frame must come
out intact and at exactly its time, and the first must be a keyframe. At the first deviation the attempt is given up,
and the caller reads in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice

import av
import numpy as np

from videofib.data.source import Source
from videofib.data.video.memory import MOST_BYTES
from videofib.data.video.pyav_reader import FFMPEG_ERRORS, OrderedReader, open_in_order
from videofib.data.video.seek_index import SeekIndex
from videofib.data.video.survey import Survey
from videofib.data.video.survey_cache import kept, stamped, survey_and_keep

# Fewer bytes are read rather than skipped by a seek.
_SKIPPED_BYTES = 2 << 20
# After a seek, an MPEG stream may begin within a frame, with packets that the index does not have.
_UNKNOWN_PACKETS = 8
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
    stamp = stamped(source)
    survey = kept(stamp)
    if survey is not None:
        try:
            return _read_surveyed(source, survey, indices, short_side, most_bytes)
        except _OtherPacketsError:
            pass  # the survey is wrong, such as of a file that was replaced by one of the same size and times
    with open_in_order(source) as reader:
        survey, packets = survey_and_keep(source, stamp, reader)
        if packets is not None and indices[-1] < len(survey.index.times):
            return _read(_Walk(reader, survey.index, iter(packets)), indices, short_side, most_bytes)
    try:
        return _read_surveyed(source, survey, indices, short_side, most_bytes)
    except _OtherPacketsError:
        return None


def _read_surveyed(
    source: Source, survey: Survey, indices: Sequence[int], short_side: int, most_bytes: int
) -> np.ndarray | None:
    """As ``read_seeking``; _OtherPacketsError where the packets of the file are not those of the survey."""
    if survey.index is None or indices[-1] >= len(survey.index.times):
        return None
    for seeks in (True, False):
        with open_in_order(source) as reader:
            if reader.stated != survey.stated:
                raise _OtherPacketsError
            walk = _Walk(reader, survey.index, seeks=seeks)
            try:
                return _read(walk, indices, short_side, most_bytes)
            except _OtherPacketsError:
                if not walk.has_sought:
                    raise
    raise AssertionError("a walk that does not seek has not sought")


def _read(walk: _Walk, indices: Sequence[int], short_side: int, most_bytes: int) -> np.ndarray | None:
    try:
        return walk.reader.collect((walk.frame(i) for i in indices), len(indices), short_side, most_bytes)
    except (_DeviationError, *FFMPEG_ERRORS):
        return None


class _DeviationError(Exception):
    """Decoding yielded something else than the index predicts."""


class _OtherPacketsError(Exception):
    """The packets of the file, or those that a seek leads to, are not those of the index."""


class _Walk:
    """Goes through the packets once, decodes those that the requested frames need, and skips the others.

    packets: all of the file, already read; without them they are read, and compared with the index.
    seeks: the container may seek to where the next needed ones should be.
    """

    def __init__(
        self, reader: OrderedReader, index: SeekIndex, packets: Iterator[av.Packet] | None = None, seeks: bool = False
    ):
        self.reader, self._index, self._seeks, self.has_sought = reader, index, seeks, False
        self._packets = self._known(reader.packets(), 0) if packets is None else packets
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
            if self._seeks and self._index.bytes_between(self._position, packet) > _SKIPPED_BYTES:
                self._packets = self._sought(packet)
            else:
                _skip(self._packets, packet - self._position)
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

    def _sought(self, entry: int) -> Iterator[av.Packet]:
        """The packets from an entry on, reached by a seek."""
        self.has_sought = True
        for ticks in dict.fromkeys(self._index.ticks(entry)):  # most containers seek by the one, MPEG's by the other
            try:
                self.reader.seek(ticks)
            except FFMPEG_ERRORS as error:
                raise _OtherPacketsError from error
            packets = self.reader.packets()
            for packet in islice(packets, _UNKNOWN_PACKETS):
                number = self._index.number(packet.pts, packet.size)
                if number is not None and number <= entry:
                    known = self._known(chain([packet], packets), number)
                    _skip(known, entry - number)
                    return known
        raise _OtherPacketsError

    def _known(self, packets: Iterator[av.Packet], first: int) -> Iterator[av.Packet]:
        """Packets as they are read, each checked to be the one of the index, from ``first`` on."""
        times, sizes = self._index.packet_times, self._index.packet_sizes
        for number, packet in enumerate(packets, start=first):
            if number == len(times) or packet.pts != times[number] or packet.size != sizes[number]:
                raise _OtherPacketsError
            yield packet

    def _decoded(self) -> Iterator[av.VideoFrame]:
        for packet in self._packets:
            self._position += 1
            yield from self._decoder.decode(packet)
        yield from self._decoder.decode(None)


def _skip(packets: Iterator[av.Packet], count: int) -> None:
    next(islice(packets, count, count), None)
