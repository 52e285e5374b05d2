"""Reading single frames with decord.

decord seeks, so a few frames of a long video cost milliseconds. But for many files (HMDB51's avi, open GOPs, some
HEVC, MPEG-2, transport streams) it returns **wrong frames after a seek**, without an error. Seek only in files for
which ``decode.random_access_is_right`` has been proved.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from videofib.data.errors import DecodeError, FrameIndexError
from videofib.data.source import Source, location
from videofib.data.video.scaling import scaled_down


def takes_name(source: Source) -> bool:
    """Whether decord can open a file of that name: it takes UTF-8 alone, while a file system takes any bytes."""
    try:
        location(source).encode()
    except UnicodeEncodeError:
        return False
    return True


class SeekingReader:
    """A file that is open for reading by seeking.

    Raises:
        DecodeError: decord cannot open it.
    """

    def __init__(self, source: Source):
        self._source, self._reader = source, _open(source)

    def read(self, indices: Sequence[int], short_side: int = 0) -> np.ndarray:
        """The frames (T, H, W, 3) uint8 RGB at ascending, distinct indices.

        ``short_side`` in pixels: larger frames are scaled down to it; 0: none.
        """
        return scaled_down(_read(self._source, self._reader, indices, seek=True), short_side)

    def keyframes(self, num_frames: int) -> list[int]:
        """Indices of the keyframes to which decord may seek.

        Raises:
            DecodeError: decord counts other than ``num_frames`` frames, or does not begin with a keyframe.
        """
        if len(self._reader) != num_frames:
            raise DecodeError(f"{self._source}: decord counts {len(self._reader)} frames, not {num_frames}")
        keys = sorted(int(key) for key in self._reader.get_key_indices())
        if keys[:1] != [0]:
            raise DecodeError(f"{self._source}: decord finds its first keyframe at {keys[:1]}, not at the first frame")
        return keys


def read_in_order(source: Source, indices: Sequence[int], short_side: int = 0) -> np.ndarray:
    """Frames as from ``SeekingReader.read``, decoding all before the last."""
    return scaled_down(_read(source, _open(source), indices, seek=False), short_side)


def _read(source: Source, reader, indices: Sequence[int], seek: bool) -> np.ndarray:
    if indices[-1] >= len(reader):
        raise FrameIndexError(f"{source}: frame {indices[-1]} was requested, but it has {len(reader)}", len(reader))
    frames, position = [], 0
    try:
        keys = reader.get_key_indices() if seek else []
        for index in indices:
            if seek and (not frames or any(position < key <= index for key in keys)):  # else decoding on is faster
                reader.seek_accurate(index)
                position = index
            while position < index:  # decord's skip_frames ends at wrong frames, even for one frame
                reader.next()
                position += 1
            frames.append(_pixels(reader.next()))
            position += 1
        return np.stack(frames)
    except (_decord().DECORDError, RuntimeError, StopIteration) as error:
        raise DecodeError(f"{source}: decord cannot decode it: {_first_line(error)}") from error


def _open(source: Source):
    decord = _decord()
    try:
        return decord.VideoReader(location(source), num_threads=1)
    except (decord.DECORDError, RuntimeError) as error:
        raise DecodeError(f"{source}: decord cannot open it: {_first_line(error)}") from error


@cache
def _decord():
    # Imported here, since loading them takes a while and not every reader needs them; and torch first: decord2 loads
    # all CUDA libraries that it finds, and with NVBLAS among them, a torch imported later crashes in linear layers.
    import torch  # noqa: F401, I001
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    return decord


def _pixels(frame) -> np.ndarray:
    """One decord frame as (H, W, 3).

    decord takes the padded length of a pixel row for channels: a width of 96 gives (H, 96, 4), of 16 (H, 16, 12), and
    ``get_batch`` fails on them. The pixels are right; the padding at the end of each row is cut off here.
    """
    image = frame.asnumpy() if hasattr(frame, "asnumpy") else np.asarray(frame)  # other code may have set its bridge
    height, width, _ = image.shape
    return image.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
