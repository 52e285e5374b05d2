"""Matrices as tables with coloured cells, and as pictures."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from videofib.report.markup.html import data_uri, text

_PIXELS = 160  # along a picture, at least


def matrix_table(
    caption: str,
    corner: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: np.ndarray,
    write: Callable[[float], str],
    *,
    full: float,
    own: np.ndarray | None = None,
) -> str:
    """A matrix (R, C) as a table; the colour of a cell is its share of ``full``, none below 0.

    Args:
        corner: the name of the first column.
        write: a value as text; NaN is a dash.
        own: bool (R, C), cells in bold.
    """
    heads = "".join(f'<th scope="col"><span>{text(name)}</span></th>' for name in columns)
    lines = []
    for r, name in enumerate(rows):
        cells = []
        for c, value in enumerate(values[r]):
            share = min(1.0, max(0.0, float(value) / full)) if np.isfinite(value) and full else 0.0
            bold = ' class="own"' if own is not None and own[r, c] else ""
            shown = text(write(float(value))) if np.isfinite(value) else '<span class="none">–</span>'
            cells.append(f'<td{bold} style="--share:{share:.2f}">{shown}</td>')
        lines.append(f'<tr><th scope="row">{text(name)}</th>{"".join(cells)}</tr>')
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}">'
        f'<table class="matrix"><caption>{text(caption)}</caption>'
        f'<thead><tr><th scope="col">{text(corner)}</th>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    )


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
