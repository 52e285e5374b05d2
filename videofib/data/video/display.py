"""How the frames of a video are shown: with square pixels, turned and mirrored as its display matrix says.

A display matrix maps the stored pixel (x, y) to the shown one (x', y'); x runs to the right, y down:

    | a  b  . |
    | c  d  . |        x' = a x + c y + tx        y' = b x + d y + ty
    | tx ty . |

Frames are stretched first, then mirrored, then turned:

    stored ── width x pixel aspect ──► square pixels ── mirrored? left <-> right ──► ── quarter turns ──► upright

Cameras write one of eight orientations, which come out exactly as from the ffmpeg tool. Any other matrix (20 degrees,
shear) counts as the nearest of the eight; the tool would turn by the angle, with black corners. The shift is ignored,
and so is a matrix that flattens the picture.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

_MATRIX = struct.Struct("=9i")
_NEAREST = 0.02  # about a degree: by how much an entry of a matrix, scaled to 1, may differ from 0, 1 or -1
# Pixels are at most this many times as wide as high, or as high as wide; video formats stay below 3. Marks beyond are
# damage, or would make a small file fill the memory.
_LONGEST_PIXEL = 5
# An encoder that rounds a size to even numbers marks pixels as 255:254, so that the shape of the picture stays exact.
# Frames keep their own pixels then.
_NEARLY_SQUARE = Fraction(1, 100)


@dataclass(frozen=True)
class Display:
    """What makes the stored frames of a video upright; see the top of this file.

    Attributes:
        turns: quarter turns counter-clockwise, 0 to 3.
        mirrored: left and right are swapped before it is turned.
        pixel_aspect: width of a stored pixel over its height.
        is_exact: the display matrix is one of the eight orientations, not only near to one.
    """

    turns: int = 0
    mirrored: bool = False
    pixel_aspect: Fraction = Fraction(1)
    is_exact: bool = True

    @property
    def as_stored(self) -> bool:
        """Whether stored frames are shown as they are."""
        return self == Display()

    def turned(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after turning; the same call turns back."""
        return (width, height) if self.turns % 2 else (height, width)

    def shown_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in pixels as shown of a stored frame of ``height`` x ``width``."""
        return self.turned(height, max(1, int(width * self.pixel_aspect)))

    def upright(self, image: np.ndarray) -> np.ndarray:
        """A stored image (H, W, C), mirrored and turned; a view, not a copy."""
        return np.rot90(image[:, ::-1] if self.mirrored else image, self.turns)


def read_display(matrix: bytes | None, pixel_aspect: Fraction | None) -> Display:
    """The display of a video.

    Args:
        matrix: the display matrix as FFmpeg has it, nine 32-bit integers row by row; None: the video has none.
        pixel_aspect: width of a pixel over its height as the video states it; None or 0: not stated. Outside of 1:5 to
            5:1 it counts as not stated, and within a hundredth of 1:1 as square.
    """
    turns, mirrored, is_exact = _orientation(matrix)
    return Display(turns, mirrored, _usable(pixel_aspect), is_exact)


def _usable(aspect: Fraction | None) -> Fraction:
    if not aspect or not Fraction(1, _LONGEST_PIXEL) <= aspect <= _LONGEST_PIXEL or abs(aspect - 1) <= _NEARLY_SQUARE:
        return Fraction(1)
    return aspect


def _orientation(matrix: bytes | None) -> tuple[int, bool, bool]:
    """(quarter turns counter-clockwise, mirrored before that, whether the matrix is exactly this)."""
    if matrix is None or len(matrix) != _MATRIX.size:
        return 0, False, True
    a, b, _, c, d, *_ = _MATRIX.unpack(matrix)
    across, down = math.hypot(a, c), math.hypot(b, d)  # FFmpeg scales each of x' and y' to 1
    mirrored = a * d < b * c
    if across == 0 or down == 0:
        return 0, False, True
    a, b, c, d = a / across, b / down, c / across, d / down
    if mirrored:
        a, b = -a, -b
    turns = round(math.atan2(-b, a) / (math.pi / 2)) % 4
    cosine, sine = ((1, 0), (0, 1), (-1, 0), (0, -1))[turns]
    offsets = (a - cosine, b + sine, c - sine, d - cosine)
    return turns, mirrored, max(map(abs, offsets)) <= _NEAREST
