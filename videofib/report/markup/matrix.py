"""Matrices as tables with coloured cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from videofib.report.markup.html import text


def matrix_table(
    caption: str,
    corner: str,
    rows: Sequence[str],
    columns: Sequence[str],
    written: Sequence[Sequence[str]],
    shares: np.ndarray,
    *,
    own: np.ndarray,
    label: str = "",
) -> str:
    """A matrix (R, C) as a table.

    Args:
        corner: the name of the first column, which names the rows.
        written: cells as text; "" and "0" are pale, "" a dash.
        shares: (R, C) how strong the colour of a cell is, from 0 to 1.
        own: bool (R, C), cells in bold.
        label: of the region that scrolls; by default the caption.
    """
    heads = "".join(f'<th scope="col"><span>{text(name)}</span></th>' for name in columns)
    lines = []
    for r, name in enumerate(rows):
        cells = "".join(
            f'<td{" class=own" if own[r, c] else ""} style="--share:{shares[r, c]:.2f}">{_cell(written[r][c])}</td>'
            for c in range(len(columns))
        )
        lines.append(f'<tr><th scope="row">{text(name)}</th>{cells}</tr>')
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(label or caption)}">'
        f'<table class="matrix"><caption>{text(caption)}</caption>'
        f'<thead><tr><th scope="col">{text(corner)}</th>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(written: str) -> str:
    return f"<span class=none>{written or '–'}</span>" if written in ("", "0") else text(written)
