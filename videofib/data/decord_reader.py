"""Reading single frames with decord.

decord seeks, so a few frames of a long video cost milliseconds. But for many files (HMDB51's avi, open GOPs, some
HEVC, MPEG-2, transport streams) it returns **other frames than asked for after a seek**, without an error. Seek only
in files for which ``decode.random_access_is_right`` has been shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache

import numpy as np

from videofib.data.errors import DecodeError, FrameIndexError


def read_seeking(path: str, batches: Iterable[Sequence[int]]) -> Iterator[np.ndarray]:
    """For each batch of ascending, distinct indices the frames (T, H, W, 3) uint8 RGB, by seeking."""
    reader = _open(path)
    for indices in batches:
        yield _checked(path, reader, indices, lambda indices: _to_numpy(reader.get_batch(indices)))


def read_in_order(path: str, indices: Sequence[int]) -> np.ndarray:
    """Frames (T, H, W, 3) uint8 RGB at ascending, distinct indices, decoding all before the last."""
    reader = _open(path)
    return _checked(path, reader, indices, lambda indices: _walk(reader, indices))


def keyframes(path: str, num_frames: int) -> list[int]:
    """Indices of the frames at which decord may enter the video.

    Raises:
        DecodeError: decord cannot open it, or counts other than ``num_frames`` frames.
    """
    reader = _open(path)
    if len(reader) != num_frames:
        raise DecodeError(f"{path}: decord counts {len(reader)} frames, not {num_frames}")
    keys = sorted(int(key) for key in reader.get_key_indices())
    if keys[:1] != [0]:
        raise DecodeError(f"{path}: decord finds its first keyframe at {keys[:1]}, not at the first frame")
    return keys


def _checked(path: str, reader, indices: Sequence[int], read: Callable[[Sequence[int]], np.ndarray]) -> np.ndarray:
    if indices[-1] >= len(reader):
        raise FrameIndexError(f"{path}: frame {indices[-1]} was asked for, but it has {len(reader)}", len(reader))
    try:
        frames = read(indices)
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
