"""How much memory reading a video may take: small files may state, or decode to, more than any machine has."""

from __future__ import annotations

import numpy as np

from videofib.data.errors import DecodeError, TooLargeError

# Stored pixels of a frame: twice the largest of H.264 and HEVC up to level 6.2 (8K). Decoders keep up to 17 frames.
MOST_PIXELS = 8192 * 8192
# Bytes of the frames of one read: 345 frames of 1280 x 720, or 21 of 8K. The key DATA.READ_GIB sets another limit.
MOST_BYTES = 1 << 30


def check_frame_size(name: str, width: int, height: int) -> None:
    """Raise DecodeError where frames of this size, in stored pixels, would be larger than ``MOST_PIXELS``."""
    if width * height > MOST_PIXELS:
        raise DecodeError(f"{name}: frames of {width}x{height} are refused; {MOST_PIXELS:,} pixels are read at most")


def fits(count: int, height: int, width: int, most_bytes: int) -> bool:
    """Whether RGB frames of one byte a channel take at most ``most_bytes`` (0: no limit)."""
    return most_bytes == 0 or count * height * width * 3 <= most_bytes


def empty_frames(name: str, count: int, height: int, width: int, most_bytes: int = MOST_BYTES) -> np.ndarray:
    """Uninitialised frames (count, height, width, 3) uint8, to be filled one by one.

    Raises:
        TooLargeError: they take more than ``most_bytes`` (0: no limit).
        DecodeError: they take more than there is.
    """
    what = f"{name}: {count} frames of {width}x{height} take {count * height * width * 3 / 2**30:.2f} GiB"
    if not fits(count, height, width, most_bytes):
        raise TooLargeError(
            f"{what}, and a read may take {most_bytes / 2**30:.2f}; scale them with DATA.READ_SHORT_SIDE, prepare the "
            "video, or raise DATA.READ_GIB"
        )
    try:
        return np.empty((count, height, width, 3), np.uint8)
    except (MemoryError, ValueError) as error:  # ValueError: more than a pointer can address
        raise DecodeError(f"{what}, which this machine does not have free") from error
