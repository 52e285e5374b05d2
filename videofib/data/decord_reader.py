"""Reading single frames with decord.

decord seeks, so a few frames of a long video cost milliseconds. But for many files (HMDB51's avi, open GOPs, some
HEVC, MPEG-2, transport streams) it returns **other frames than asked for after a seek**, without an error. Seek only
in files for which ``decode.random_access_is_right`` has been shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from videofib.data.errors import DecodeError, FrameIndexError


def read_seeking(path: str, indices: Sequence[int]) -> np.ndarray:
    """Frames (T, H, W, 3) uint8 RGB at ascending, distinct indices, by seeking."""
    return _read(path, indices, seek=True)


def read_in_order(path: str, indices: Sequence[int]) -> np.ndarray:
    """Frames (T, H, W, 3) uint8 RGB at ascending, distinct indices, decoding all before the last."""
    return _read(path, indices, seek=False)


def count(path: str) -> int:
    """Frames in decord's opinion, which may be one above what decodes."""
    return len(_open(path))


def _read(path: str, indices: Sequence[int], seek: bool) -> np.ndarray:
    reader = _open(path)
    if indices[-1] >= len(reader):
        raise FrameIndexError(f"{path}: frame {indices[-1]} was asked for, but it has {len(reader)}", len(reader))
    try:
        frames = _to_numpy(reader.get_batch(indices)) if seek else _walk(reader, indices)
    except Exception as error:  # decord raises its own error, RuntimeError or StopIteration alike
        raise DecodeError(f"{path}: decord cannot decode it: {_first_line(error)}") from error
    if frames.shape[3] != 3:  # seen for frames narrower than 64 pixels
        raise DecodeError(f"{path}: decord returned frames of shape {frames.shape[1:]}, not (H, W, 3)")
    return frames


def _walk(reader, indices: Sequence[int]) -> np.ndarray:
    frames, position = [], 0
    for index in indices:
        if index > position:
            reader.skip_frames(index - position)
        frames.append(_to_numpy(reader.next()))
        position = index + 1
    return np.stack(frames)


def _open(path: str):
    try:
        return _decord().VideoReader(path, num_threads=1)
    except Exception as error:
        raise DecodeError(f"{path}: decord cannot open it: {_first_line(error)}") from error


@cache
def _decord():
    import decord  # here, since loading its FFmpeg takes a while and not every reader needs it

    decord.logging.set_level(decord.logging.QUIET)
    return decord


def _to_numpy(frames) -> np.ndarray:
    return frames.asnumpy() if hasattr(frames, "asnumpy") else np.asarray(frames)  # other code may have set its bridge


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
