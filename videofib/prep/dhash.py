"""The difference hash: a picture in 64 bits that scaling and encoding hardly change. Plain numpy.

The picture is reduced to 8 rows of 9 grey cells, each the mean of its area; a bit is set where a cell is brighter than
the one to its left by more than a grey level, row by row from the top left, most significant bit first:

    cells  c0 c1 c2 ... c8        bits  c1 > c0 + 1, c2 > c1 + 1, ... c8 > c7 + 1        8 rows x 8 bits

Two scalings or encodings of one picture differ in few bits (their Hamming distance), two pictures in about 32. The
method is Neal Krawetz' (hackerfactor.com, "Kind of Like That", 2013); areas instead of a library's thumbnail, and the
threshold of a grey level, without which plain areas give random bits, are ours.
"""

from __future__ import annotations

import numpy as np

from videofib.prep.defaults import HASH_BITS

_ROWS, _CELLS = 8, 9
_STEP = 1.0  # grey levels of 255
_FLAT = 8.0  # of 255: a picture whose cells differ by less has one colour, and its bits are noise


def dhash(image: np.ndarray) -> str:
    """The hash as 16 hexadecimal digits, or "" for a picture of one colour, whose bits would be noise.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
    """
    grey = image.astype(np.float64) @ (0.299, 0.587, 0.114)  # (H, W), the luma of red, green, blue
    cells = _areas(_ROWS, grey.shape[0]) @ grey @ _areas(_CELLS, grey.shape[1]).T  # (8, 9)
    if np.ptp(cells) < _FLAT:
        return ""
    return np.packbits(cells[:, 1:] > cells[:, :-1] + _STEP).tobytes().hex()


def to_signs(hashes: list[str]) -> np.ndarray:
    """Hashes as rows of +1 and -1, ``(N, 64)`` float32. The product of two rows is 64 - 2 x their Hamming distance."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8)).reshape(-1, HASH_BITS)
    return bits.astype(np.float32) * 2 - 1


def _areas(cells: int, size: int) -> np.ndarray:
    """Weights ``(cells, size)`` of a line's pixels in the means of its equal parts, whose edges may cut pixels."""
    edges = np.linspace(0, size, cells + 1)
    low, high = edges[:-1, None], edges[1:, None]
    pixel = np.arange(size)
    inside = np.clip(np.minimum(pixel + 1, high) - np.maximum(pixel, low), 0, None)
    return inside * cells / size
