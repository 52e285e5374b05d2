"""Field matrices as pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from videofib.report.markup.html import data_uri, text

_PIXELS = 160  # along a picture, at least


def field_picture(matrix: np.ndarray, order: Sequence[int], alt: str) -> str:
    """A field matrix (K, K) with its labels in an order: blue above 0, orange below, as strong as the largest is 1."""
    values = np.clip(matrix[np.ix_(order, order)], -1, 1)
    pixels = np.zeros((*values.shape, 4), np.uint8)
    pixels[..., :3] = np.where(values[..., None] > 0, (59, 130, 246), (249, 115, 22))
    pixels[..., 3] = np.round(255 * np.abs(values))
    scale = max(1, _PIXELS // len(order))
    pixels = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    side = pixels.shape[0]
    return f'<img src="{data_uri("png", buffer.getvalue())}" width="{side}" height="{side}" alt="{text(alt)}">'
