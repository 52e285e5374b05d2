"""Heat over frames.

T frames, H W pixels, t h w grid of the heat.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

SIDE = 224  # pixels to which smaller frames are enlarged
_GREY = 0.75  # how far frames lose their colours, so that colour is heat
_DARK = 0.7  # brightness that is left of a frame
_MOST = 0.75  # of the heat's colour where there is most
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# dark red, orange, yellow: the brighter, the more, so that shades alone tell it, too
RAMP = ((0.0, (70, 0, 60)), (0.35, (190, 30, 60)), (0.7, (250, 135, 20)), (1.0, (255, 240, 110)))


def scaled(heat: np.ndarray, *, from_zero: bool) -> np.ndarray:
    """Heat for colours, 0 to 1: the root of its share of its range over the clip, from its lowest value or from 0.

    A few patches often have many times what all others have, which would not be seen without the square root. Where
    heat is the same everywhere there is nothing to show: 0.
    """
    low = 0.0 if from_zero else float(heat.min())
    high = float(heat.max())
    return np.zeros(heat.shape, np.float32) if high <= low else np.sqrt((heat - low) / (high - low), dtype=np.float32)


def resized(frames: np.ndarray, least: int = SIDE, most: int | None = None) -> np.ndarray:
    """(T, H, W, 3) uint8 -> the same with H and W even.

    A shorter side below ``least`` is enlarged, by the whole factor that comes nearest; one above ``most`` is reduced.
    """
    height, width = frames.shape[1:3]
    shorter = min(height, width)
    factor = most / shorter if most and shorter > most else max(1, round(least / shorter))
    size = (max(2, int(factor * width) // 2 * 2), max(2, int(factor * height) // 2 * 2))
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)) for frame in frames])


def overlaid(frames: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Frames (T, H, W, 3) uint8 with heat (t, h, w) of 0 to 1 over them: cold parts nearly grey, hot ones coloured.

    The grid is scaled to the frames, linearly within a frame; each frame has the heat of its own tokens.
    """
    length, height, width = frames.shape[:3]
    planes = [
        np.asarray(Image.fromarray(plane, mode="F").resize((width, height), Image.Resampling.BILINEAR))
        for plane in heat.astype(np.float32)
    ]
    at = np.arange(length) * len(planes) // length
    found = np.empty_like(frames)
    for index, frame in enumerate(frames):
        hot = planes[at[index]].clip(0, 1)[..., None]
        shade = _MOST * hot
        grey = frame @ _LUMA
        base = _DARK * (_GREY * grey[..., None] + (1 - _GREY) * frame)
        mixed = base * (1 - shade) + colour(hot[..., 0]) * shade
        found[index] = mixed.round().clip(0, 255)
    return found


def colour(hot: np.ndarray) -> np.ndarray:
    """The colours (..., 3), 0 to 255, of heat of 0 to 1."""
    at = [position for position, _ in RAMP]
    return np.stack([np.interp(hot, at, [rgb[channel] for _, rgb in RAMP]) for channel in range(3)], axis=-1)


def side_by_side(frames: np.ndarray, others: np.ndarray, gap: int = 4) -> np.ndarray:
    """Two clips (T, H, W, 3) of one size, one beside the other: (T, H, 2·W + gap, 3); white between them."""
    between = np.full((*frames.shape[:2], gap, 3), 255, np.uint8)
    return np.concatenate((frames, between, others), axis=2)
